"""A replay in the browser, by viser (extra `view`): play, scrub, choose trials, look at goal grasps."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.extras import import_extra
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.show.hand_meshes import hand_meshes, mesh_poses
from dexh2r_gym.show.timeline import Timeline

HOST, PORT = "127.0.0.1", 8080
FREE, BLOCKED = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion: told apart by colour-blind people too
_SKIN, _OBJECT, _CLOUD = (222, 171, 140), (196, 187, 168), (0, 158, 115)
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
_RATE = 60.0  # steps of the clock a second
_GHOST = 0.45  # opacity of the hand at a goal
# A goal is drawn as a dart at the palm: its tip where the fingers point, its keel where the palm looks. Metres.
_DART = np.array([[-0.005, 0, 0], [0.005, 0, 0], [0, -0.009, 0], [0, 0, 0.03]], np.float32)
_DART_FACES = np.array([[0, 1, 2], [0, 3, 1], [1, 3, 2], [2, 3, 0]], np.uint32)


def serve(store: ReplayStore, id: str | None = None, *, host: str = HOST, port: int = PORT) -> None:
    """Show a trial (the first, if not told) in the browser until interrupted; prints the address.

    Args:
        store: whose trials can be chosen in the page.
        id: of the trial to start with.
        host: address to listen on; by default only this machine can connect.
        port: the next free one is taken where it is in use; 0 for any.

    Raises:
        MissingExtraError: viser is not installed.
        UnknownReplayError: no trial of that id.
    """
    viewer = ReplayViewer(store, id, host=host, port=port)
    print(f"{viewer.replay.id} of {store.name}: {viewer.address} (Ctrl-C ends it)", flush=True)
    try:
        viewer.run()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()


class ReplayViewer:
    """A web server that shows one trial of a store; everyone who connects sees, and steers, the same.

    Nodes of the scene: /object (frame of the object) with /object/mesh, /object/goals, /object/ghost/...; /giver; the
    robot's /robot/...; /cloud where one was recorded.
    """

    def __init__(self, store: ReplayStore, id: str | None = None, *, host: str = HOST, port: int = PORT):
        """Start the server; see `serve`."""
        index = 0 if id is None else store.index(id)  # an unknown id is an error before a server runs
        self.server: Any = import_extra("viser", "view").ViserServer(host, port, verbose=False)
        self.server.request_share_url = lambda verbose=True: None  # no page may open a tunnel to the internet
        self._store = store
        self._lock = threading.RLock()
        self._frame = 0.0
        self._build_scene()
        self._build_controls(index)
        self._open(index)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    @property
    def replay(self) -> Replay:
        """The trial that is shown."""
        return self._timeline.replay

    def run(self) -> None:
        """Play until interrupted."""
        before = time.monotonic()
        while True:
            time.sleep(1 / _RATE)
            now = time.monotonic()
            self.tick(now - before)
            before = now

    def tick(self, seconds: float) -> None:
        """Let time pass: while it plays, the trial goes on, and starts again at its end."""
        with self._lock:
            if self.playing.value:
                step = seconds * self.replay.fps * float(self.speed.value)
                self._frame = (self._frame + step) % self.replay.num_frames
                self.frame.value = int(self._frame)

    def close(self) -> None:
        """Stop the server."""
        self.server.stop()

    def _build_scene(self) -> None:
        scene = self.server.scene
        scene.set_up_direction("+z")
        scene.add_grid("/floor", width=4.0, height=4.0, cell_size=0.25, section_size=1.0)
        self.server.initial_camera.position = (-0.3, -0.8, 1.2)
        self.server.initial_camera.look_at = (-0.1, 0.0, 1.0)
        self.object = scene.add_frame("/object", show_axes=False)
        self.robot = {
            mesh.name: self._add_meshes(f"/robot/{mesh.name}", mesh.vertices, mesh.faces, mesh.colour, len(mesh.geoms))
            for mesh in hand_meshes()
        }
        self.ghost = {
            mesh.name: self._add_meshes(
                f"/object/ghost/{mesh.name}", mesh.vertices, mesh.faces, FREE, len(mesh.geoms), opacity=_GHOST
            )
            for mesh in hand_meshes()
        }

    def _add_meshes(
        self, name: str, vertices: NDArray, faces: NDArray, colour: tuple[int, int, int], count: int, **options: Any
    ) -> Any:
        upright = np.tile(np.array([1.0, 0, 0, 0]), (count, 1))
        return self.server.scene.add_batched_meshes_simple(
            name, vertices, faces, upright, np.zeros((count, 3)), batched_colors=colour, lod="off", **options
        )

    def _build_controls(self, index: int) -> None:
        first = self._store.infos[index]
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        self.text = gui.add_markdown("")
        self.frame = gui.add_slider("frame", 0, 1, 1, 0)
        self.playing = gui.add_checkbox("play", True)
        self.speed = gui.add_dropdown("speed", _SPEEDS, initial_value="1")
        with gui.add_folder("trial"):
            names = sorted({info.object for info in self._store.infos})
            self.object_name = gui.add_dropdown("object", names, initial_value=first.object)
            self.trial = gui.add_dropdown("id", self._ids_of(first.object), initial_value=first.id)
        with gui.add_folder("show"):
            self.show_robot = gui.add_checkbox("robot", True)
            self.show_giver = gui.add_checkbox("giver", True)
            self.show_cloud = gui.add_checkbox("recorded cloud", True)
            self.show_goals = gui.add_checkbox("goal grasps", True)
            self.ghost_goal = gui.add_slider("hand at goal", 0, 1, 1, 0, hint="0: none")
        self.frame.on_update(lambda _: self._draw())
        self.object_name.on_update(lambda _: setattr(self.trial, "options", self._ids_of(self.object_name.value)))
        self.trial.on_update(lambda _: self._choose())
        for control in (self.show_robot, self.show_giver, self.show_cloud, self.show_goals, self.ghost_goal):
            control.on_update(lambda _: self._draw())

    def _ids_of(self, name: str) -> tuple[str, ...]:
        return tuple(info.id for info in self._store.infos if info.object == name)

    def _choose(self) -> None:
        """Show the trial of the menu; one that cannot be read is told in the page, and the last one stays."""
        try:
            self._open(self._store.index(self.trial.value))
        except (ValueError, OSError) as error:
            self.text.content = f"**{self.trial.value}** cannot be shown\n\n```\n{error}\n```"

    def _open(self, index: int) -> None:
        """Show another trial from its first frame on."""
        replay = self._store[index]
        with self._lock, self.server.atomic():
            self._timeline = Timeline.of(replay)
            self._clouds = replay.sensor("cloud").numpy() if "cloud" in replay.sensors else None
            scene, obj = self.server.scene, replay.object_model
            self.object_mesh = scene.add_mesh_simple(
                "/object/mesh", obj.visual_vertices, obj.visual_faces, color=_OBJECT
            )
            goals = replay.goal_pose.numpy()
            self.goals = scene.add_batched_meshes_simple(
                "/object/goals", _DART, _DART_FACES, goals[:, 3:], goals[:, :3], lod="off", flat_shading=True
            )
            skin = self._timeline.giver.skin(self._timeline.bones[0]).float().numpy()
            self.giver = scene.add_mesh_simple("/giver", skin, self._timeline.giver.faces.numpy(), color=_SKIN)
            cloud = np.zeros((1, 3), np.float32) if self._clouds is None else self._clouds[0]
            self.cloud = scene.add_point_cloud("/cloud", cloud, _CLOUD, point_size=0.002, precision="float32")
            self._frame = 0.0
            self.frame.max, self.ghost_goal.max = max(1, replay.num_frames - 1), len(goals)
            self.show_cloud.visible, self.show_giver.visible = self._clouds is not None, replay.has_giver
            self.ghost_goal.value = min(self.ghost_goal.value, len(goals))
            self.frame.value = 0
            self._draw()

    def _draw(self) -> None:
        """Bring the scene to the frame of the slider."""
        with self._lock, self.server.atomic():
            timeline, replay = self._timeline, self.replay
            t = min(int(self.frame.value), replay.num_frames - 1)
            if t != int(self._frame):  # moved by hand
                self._frame = float(t)
            pose, free = replay.object_pose[t].numpy(), replay.goal_free[t].numpy()
            self.object.position, self.object.wxyz = pose[:3], pose[3:]
            self.goals.visible = self.show_goals.value
            self.goals.batched_colors = np.where(free[:, None], FREE, BLOCKED).astype(np.uint8)
            self.giver.visible = self.show_giver.value and replay.has_giver
            self.giver.vertices = timeline.giver.skin(timeline.bones[t]).float().numpy()
            self.cloud.visible = self.show_cloud.value and self._clouds is not None
            if self._clouds is not None:
                self.cloud.points = self._clouds[t]
            hand = timeline.scene.hand_pose[t].numpy(), timeline.scene.hand_joints[t].numpy()
            _place(self.robot, hand, self.show_robot.value)
            goal = int(self.ghost_goal.value) - 1
            hand = replay.goal_pose[goal].numpy(), replay.goal_joints[goal].numpy()
            _place(self.ghost, hand, goal >= 0, FREE if free[goal] else BLOCKED)
            demo = "demonstration" if replay.has_demo else "no demonstration: the robot waits"
            self.text.content = (
                f"**{replay.id}** ({replay.kind.replace('_', ' ')})\n\n{t / replay.fps:.2f} of "
                f"{(replay.num_frames - 1) / replay.fps:.2f} s, {replay.side} hand, {demo}, "
                f"{int(free.sum())} of {len(free)} goals free (blue; orange: the giver's hand is in the way)"
            )


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
                handle.batched_colors = np.array(colour, np.uint8)
