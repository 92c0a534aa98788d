"""What is seen of a timeline: the nodes of a viser scene, brought to any frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dexh2r_gym.show.contacts import PAIRS, Contacts
from dexh2r_gym.show.hand_meshes import hand_meshes, mesh_poses
from dexh2r_gym.show.pins import DART, DART_FACES, PIN, PIN_FACES, upright
from dexh2r_gym.show.timeline import Timeline

# Okabe and Ito's colours, told apart by colour-blind people too
FREE, BLOCKED, NEAREST = (0, 114, 178), (213, 94, 0), (240, 228, 66)
TOUCH = {"robot-object": (204, 121, 167), "robot-giver": (200, 0, 0), "giver-object": (86, 180, 233)}
PATH, PATH_ALIGNED = (110, 110, 110), (204, 121, 167)
_SKIN, _OBJECT, _CLOUD = (222, 171, 140), (196, 187, 168), (0, 158, 115)
_GHOST = 0.45  # opacity of the hand at a goal
_SEE_THROUGH = 0.35  # opacity of hands and object


@dataclass(frozen=True)
class Shown:
    """What the user wants to see."""

    robot: bool = True
    giver: bool = True
    goals: bool = True
    path: bool = True
    contacts: bool = True
    see_through: bool = False
    goal: int = 0  # number, from 1, of the goal at which a hand is shown; 0: none


class Stage:
    """Nodes: /object (its frame) with /object/mesh, /object/goals, /object/ghost/...; /giver; the robot's /robot/...;
    /path of the palm, a dot a frame; /contacts, a pin each; /cloud."""

    def __init__(self, scene: Any):
        """Add what all timelines share."""
        self._scene = scene
        scene.set_up_direction("+z")
        scene.add_grid("/floor", width=4.0, height=4.0, cell_size=0.25, section_size=1.0)
        none = np.zeros((1, 3), np.float32)
        self.object = scene.add_frame("/object", show_axes=False)
        self.robot, self.ghost = self._add_hand("/robot"), self._add_hand("/object/ghost", FREE, opacity=_GHOST)
        self.contacts = scene.add_batched_meshes_simple(
            "/contacts", PIN, PIN_FACES, upright(none), none, lod="off", cast_shadow=False
        )
        self.cloud = scene.add_point_cloud("/cloud", none, _CLOUD, point_size=0.0022, precision="float32")
        self.cloud.point_shape = "circle"

    def open(self, timeline: Timeline) -> None:
        """Put the object, goals, giver and path of a timeline in the place of the last one's."""
        self._timeline, scene, obj = timeline, self._scene, timeline.replay.object_model
        self.object_mesh = scene.add_mesh_simple("/object/mesh", obj.visual_vertices, obj.visual_faces, color=_OBJECT)
        goals = timeline.replay.goal_pose.numpy()
        self.goals = scene.add_batched_meshes_simple(
            "/object/goals", DART, DART_FACES, goals[:, 3:], goals[:, :3], lod="off", flat_shading=True
        )
        skin = timeline.giver.skin(timeline.bones[0]).float().numpy()
        self.giver = scene.add_mesh_simple("/giver", skin, timeline.giver.faces.numpy(), color=_SKIN)
        aligning = np.arange(timeline.replay.num_frames) >= timeline.alignment_begin
        colours = np.where(aligning[:, None], PATH_ALIGNED, PATH).astype(np.uint8)
        palm = timeline.scene.hand_pose[:, :3].float().numpy()
        self.path = scene.add_point_cloud("/path", palm, colours, point_size=0.0035, precision="float32")
        self.path.point_shape = "circle"

    def draw(
        self, t: int, shown: Shown, *, nearest: int, contacts: Contacts, cloud: NDArray[np.float32], has_giver: bool
    ) -> None:
        """Bring all to frame t. nearest: index of a goal, -1 for none; cloud: (P, 3), empty for none."""
        timeline, replay = self._timeline, self._timeline.replay
        pose, free = timeline.scene.object_pose[t].numpy(), replay.goal_free[t].numpy()
        self.object.position, self.object.wxyz = pose[:3], pose[3:]
        colours = np.where(free[:, None], FREE, BLOCKED)
        if nearest >= 0:
            colours[nearest] = NEAREST
        self.goals.visible, self.goals.batched_colors = shown.goals, as_linear(colours)
        self.giver.visible = shown.giver and has_giver
        self.giver.vertices = timeline.giver.skin(timeline.bones[t]).float().numpy()
        for handle in (self.object_mesh, self.giver, *self.robot.values()):
            handle.opacity = _SEE_THROUGH if shown.see_through else None
        self.path.visible = shown.path
        hand = timeline.scene.hand_pose[t].numpy(), timeline.scene.hand_joints[t].numpy()
        _place(self.robot, hand, shown.robot)
        goal = shown.goal - 1
        hand = replay.goal_pose[goal].numpy(), replay.goal_joints[goal].numpy()
        _place(self.ghost, hand, goal >= 0, FREE if free[goal] else BLOCKED)
        self.cloud.visible = len(cloud) > 0
        if len(cloud):
            self.cloud.points = cloud
        self.contacts.visible = shown.contacts and len(contacts.pair) > 0
        if self.contacts.visible:
            self.contacts.batched_positions = contacts.position.astype(np.float32)
            self.contacts.batched_wxyzs = upright(contacts.normal)
            self.contacts.batched_colors = as_linear([TOUCH[PAIRS[pair]] for pair in contacts.pair])

    def _add_hand(self, name: str, colour: tuple[int, int, int] | None = None, **options: Any) -> dict[str, Any]:
        """The meshes of a hand, by name; without a colour in their own."""
        handles = {}
        for mesh in hand_meshes():
            count = len(mesh.geoms)
            handles[mesh.name] = self._scene.add_batched_meshes_simple(
                f"{name}/{mesh.name}",
                mesh.vertices,
                mesh.faces,
                np.tile(np.array([1.0, 0, 0, 0]), (count, 1)),
                np.zeros((count, 3)),
                batched_colors=colour or mesh.colour,
                lod="off",
                **options,
            )
        return handles


def as_linear(colours: ArrayLike) -> NDArray[np.uint8]:
    """Colours (..., 3) in 0 to 255 as viser's batched meshes want them: it takes theirs for linear ones."""
    return np.round(255 * (np.asarray(colours) / 255) ** 2.2).astype(np.uint8)


def _place(
    meshes: dict[str, Any], hand: tuple[NDArray, NDArray], visible: bool, colour: tuple[int, int, int] | None = None
) -> None:
    """Put a hand's meshes where palm pose (7,) and joints (22,) have them."""
    poses = mesh_poses(*hand) if visible else {}
    for name, handle in meshes.items():
        handle.visible = visible
        if visible:
            handle.batched_positions, handle.batched_wxyzs = np.split(poses[name].astype(np.float32), (3,), axis=-1)
            if colour is not None:
                handle.batched_colors = as_linear(colour)
