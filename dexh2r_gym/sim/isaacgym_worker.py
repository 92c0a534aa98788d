"""The scene in Isaac Gym Preview 4, and the worker process that runs it for `dexh2r_gym.sim.isaacgym`.

Isaac Gym lives in Python 3.8, so this file is written for it and imports nothing of this project: `Scene` also serves
the IsaacGymEnvs task (`dexh2r_gym/isaacgymenvs`), in whose process it runs.

What moves as it is told (a carrier on which the hand sits, the object while the giver holds it, the giver's 16 bones)
is a heavy free body: before every call of `simulate` it is put where it should be, with the velocity that brings it to
where it should be at the end. The palm hangs on the carrier by 6 base dofs that give way to contact and whose targets
are zero, so no angle of theirs ever nears a singularity. Each object is there twice: heavy, while it is held, and with
its own mass, once it is let go. Objects and givers that a world does not show are parked below it.

The tensor API alone is used once the simulation runs. Poses that come in and go out have quaternions w x y z; Isaac
Gym's own have x y z w.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import queue
import shutil
import sys
import threading
import traceback
from typing import Any, Callable  # noqa: UP035 - Python 3.8

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, in which `isaacgym.py` would hide the real one
    _REPLIES = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Isaac Gym prints; only replies may go where the client listens

import numpy as np

try:
    from isaacgym import gymapi, gymtorch  # before torch, or Isaac Gym refuses

    IMPORT_ERROR = ""
except Exception:
    gymapi = gymtorch = None
    IMPORT_ERROR = traceback.format_exc()
try:
    import torch

    TORCH_ERROR = ""
except Exception:
    TORCH_ERROR = traceback.format_exc()

# DexH2R, section 4, as its authors' stability test sets Isaac Gym
CALLS_PER_SECOND = 60  # of `simulate`
SUBSTEPS = 2
STIFFNESS, DAMPING = 400.0, 400.0  # of all 28 dofs, N/m and N m/rad, N s/m and N m s/rad
FRICTION = 2.0  # of hand, object and giver

JOINT_LEAD_TIME = DAMPING / STIFFNESS  # s; a dof follows a moving target late by as much
JOINT_ARMATURE = 1e-3  # kg m^2
HAND, OUTER_FINGERS, OUTER_THUMB, OTHERS = 1 | 4, 1, 4, 2  # bits of shapes; two that share one do not meet
SPACING = 4.0  # m, between worlds
SLOT = 0.6  # m, between parked bodies
PARKED = -3.0  # m, height of the uppermost of them
TOUCH = 1e-3  # N; less is no contact
NUM_BONES = 16

# what is called of `isaacgym.gymapi.Gym`; another version may lack some of it
CALLS = (
    "acquire_actor_root_state_tensor acquire_dof_state_tensor acquire_net_contact_force_tensor "
    "acquire_rigid_body_state_tensor create_actor create_env create_sim destroy_sim fetch_results "
    "get_actor_dof_index get_actor_index get_actor_rigid_body_index get_actor_rigid_body_shape_indices "
    "get_actor_rigid_shape_properties get_asset_dof_names get_asset_dof_properties get_asset_rigid_body_names "
    "load_asset prepare_sim refresh_actor_root_state_tensor refresh_dof_state_tensor "
    "refresh_net_contact_force_tensor refresh_rigid_body_state_tensor set_actor_dof_properties "
    "set_actor_rigid_shape_properties set_actor_root_state_tensor_indexed set_dof_position_target_tensor "
    "set_dof_state_tensor_indexed simulate"
).split()


def sim_params(dt: float, gpu: bool, num_threads: int) -> Any:
    """Parameters of a simulation whose calls of `simulate` last dt seconds each."""
    params = gymapi.SimParams()
    params.dt, params.substeps = dt, SUBSTEPS
    params.up_axis, params.gravity = gymapi.UP_AXIS_Z, gymapi.Vec3(0.0, 0.0, -9.81)
    params.use_gpu_pipeline = gpu
    params.physx.use_gpu = gpu
    params.physx.solver_type = 1  # TGS
    params.physx.num_position_iterations, params.physx.num_velocity_iterations = 8, 1
    params.physx.contact_offset, params.physx.rest_offset = 0.002, 0.0
    params.physx.bounce_threshold_velocity = 0.2
    params.physx.max_depenetration_velocity = 1.0
    params.physx.max_gpu_contact_pairs = 8 * 1024 * 1024
    params.physx.default_buffer_size_multiplier = 5.0
    params.physx.contact_collection = gymapi.CC_LAST_SUBSTEP
    if num_threads:
        params.physx.num_threads = num_threads
    return params


def isaac_pose(pose: torch.Tensor) -> torch.Tensor:
    """Poses (..., 7) with quaternions w x y z -> x y z w."""
    return torch.cat((pose[..., :3], pose[..., 4:7], pose[..., 3:4]), dim=-1)


def our_pose(pose: torch.Tensor) -> torch.Tensor:
    """Poses (..., 7) with quaternions x y z w -> w x y z."""
    return torch.cat((pose[..., :3], pose[..., 6:7], pose[..., 3:6]), dim=-1)


def quat_multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Rotation b, then a; x y z w."""
    av, aw, bv, bw = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = aw * bv + bw * av + torch.cross(av, bv, dim=-1)
    return torch.cat((vector, aw * bw - (av * bv).sum(-1, keepdim=True)), dim=-1)


def quat_turn(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Axis-angle (..., 3), world frame, the short way from one rotation to another; x y z w."""
    inverse = torch.cat((-before[..., :3], before[..., 3:]), dim=-1)
    turn = quat_multiply(after, inverse)
    turn = torch.where(turn[..., 3:] < 0, -turn, turn)
    sine = turn[..., :3].norm(dim=-1, keepdim=True)
    angle = 2.0 * torch.atan2(sine, turn[..., 3:])
    return turn[..., :3] * torch.where(sine < 1e-7, torch.full_like(sine, 2.0), angle / sine.clamp(min=1e-7))


def quat_from_axis_angle(v: torch.Tensor) -> torch.Tensor:
    """Axis-angle (..., 3) -> x y z w."""
    angle = v.norm(dim=-1, keepdim=True)
    scale = torch.where(angle < 1e-6, torch.full_like(angle, 0.5), torch.sin(angle / 2) / angle.clamp(min=1e-6))
    return torch.cat((v * scale, torch.cos(angle / 2)), dim=-1)


class Scene:
    """Hand, objects and givers of B worlds in one simulation. Poses (..., 7) are world frame, quaternions w x y z.

    Object poses are those of their centres of mass, which is where their bodies have their frames.

    Made before `prepare_sim`; call `acquire` after it. A frame is `parts` calls of `simulate`:
    `start(...)`, then for each part `carry(part)`, `simulate`, `collect()`.
    """

    def __init__(
        self,
        gym: Any,
        sim: Any,
        folder: str,
        worlds: list[list[list[int]]],
        dt: float,
        device: str,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """folder: of `scene.json` and what it names, see `dexh2r_gym.sim.isaacgym_assets`. worlds: for each the numbers
        of its objects and of its givers, two lists. dt: seconds of a frame. progress: called with every world made."""
        self.gym, self.sim, self.device = gym, sim, device
        self.parts = max(1, round(dt * CALLS_PER_SECOND))
        self.dt, self.call_dt = dt, dt / self.parts
        self._folder = folder
        with open(os.path.join(folder, "scene.json")) as file:
            self._files = json.load(file)
        self._assets: dict[str, Any] = {}
        num_objects, num_givers, b = len(self._files["objects"]), len(self._files["givers"]), len(worlds)
        self.num_worlds = b
        # actors and their bodies, in the whole simulation; -1: that world has none. Tensors from `acquire` on
        self._held: Any
        self._free: Any
        self._bone: Any
        self._hand: Any
        self._links: Any
        self._dofs: Any = []
        self._parked: Any = []  # where each actor is parked
        self._owner: Any = []  # and its world
        none = -np.ones((b, num_objects), np.int64)
        self._held, self._free, self._held_body, self._free_body = none, none.copy(), none.copy(), none.copy()
        self._bone, self._bone_body = (-np.ones((b, num_givers, NUM_BONES), np.int64) for _ in range(2))
        self._hand = np.zeros(b, np.int64)
        names = self.gym.get_asset_rigid_body_names(self._asset(self._files["hand"], hand=True))
        self._palm = names.index("rh_palm")
        self._links = np.zeros((b, len(names)), np.int64)
        for world in range(b):
            self._make_world(world, *worlds[world])
            if progress is not None:
                progress(world + 1)

    # making

    def _asset(self, file: str, hand: bool = False, heavy: bool = False) -> Any:
        if file not in self._assets:
            options = gymapi.AssetOptions()
            options.disable_gravity = hand or heavy
            options.replace_cylinder_with_capsule = True  # the shapes are capsules; URDF has no word for them
            options.collapse_fixed_joints = False
            options.linear_damping = options.angular_damping = 0.0
            options.thickness = 0.001
            options.use_physx_armature = True
            options.default_dof_drive_mode = gymapi.DOF_MODE_POS
            asset = self.gym.load_asset(self.sim, self._folder, file, options)
            if asset is None:
                raise RuntimeError(f"Isaac Gym could not load {os.path.join(self._folder, file)}")
            self._assets[file] = asset
        return self._assets[file]

    def _make_world(self, world: int, objects: list[int], givers: list[int]) -> None:
        side = math.ceil(math.sqrt(self.num_worlds))
        origin = [world % side * SPACING, world // side * SPACING, 0.0]
        here = gymapi.Vec3(0.0, 0.0, 0.0)
        env = self.gym.create_env(self.sim, here, here, side)  # worlds are set apart by their bodies' places
        slot = [0]

        def add(asset: Any, name: str, bits: int) -> tuple[int, list[Any]]:
            s = slot[0]
            slot[0] += 1
            place = [SLOT * (s % 6 - 2.5), SLOT * (s // 6 % 6 - 2.5), PARKED - SLOT * (s // 36)]
            place = [place[i] + origin[i] for i in range(3)]
            pose = gymapi.Transform()
            pose.p = gymapi.Vec3(*place)
            actor = self.gym.create_actor(env, asset, pose, name, world, bits, 0)
            shapes = self.gym.get_actor_rigid_shape_properties(env, actor)
            for shape in shapes:
                shape.friction, shape.filter = FRICTION, bits
            self._parked.append(place + [0.0, 0.0, 0.0, 1.0] + [0.0] * 6)
            self._owner.append(world)
            return actor, shapes

        def finish(actor: int, shapes: list[Any]) -> tuple[int, int]:
            self.gym.set_actor_rigid_shape_properties(env, actor, shapes)
            number = self.gym.get_actor_index(env, actor, gymapi.DOMAIN_SIM)
            if number != len(self._parked) - 1:
                raise RuntimeError("Isaac Gym numbers actors otherwise than in the order in which they are made")
            return number, self.gym.get_actor_rigid_body_index(env, actor, 0, gymapi.DOMAIN_SIM)

        asset = self._asset(self._files["hand"], hand=True)
        actor, shapes = add(asset, "hand", HAND)
        names = self.gym.get_asset_rigid_body_names(asset)
        ranges = self.gym.get_actor_rigid_body_shape_indices(env, actor)
        for i, name in enumerate(names):
            if name.endswith(("middle", "distal")):
                for k in range(ranges[i].start, ranges[i].start + ranges[i].count):
                    shapes[k].filter = OUTER_THUMB if name.startswith("rh_th") else OUTER_FINGERS
        self._hand[world] = finish(actor, shapes)[0]
        for i in range(len(names)):
            self._links[world, i] = self.gym.get_actor_rigid_body_index(env, actor, i, gymapi.DOMAIN_SIM)
        properties = self.gym.get_asset_dof_properties(asset)
        properties["driveMode"].fill(gymapi.DOF_MODE_POS)
        properties["stiffness"].fill(STIFFNESS)
        properties["damping"].fill(DAMPING)
        dofs = self.gym.get_asset_dof_names(asset)
        for i, name in enumerate(dofs):
            properties["effort"][i] = self._files["effort"][name]
            properties["armature"][i] = JOINT_ARMATURE
        self.gym.set_actor_dof_properties(env, actor, properties)
        wanted = self._files["base"] + self._files["joints"]
        self._dofs.append(
            [self.gym.get_actor_dof_index(env, actor, dofs.index(name), gymapi.DOMAIN_SIM) for name in wanted]
        )
        for k in objects:
            files = self._files["objects"][k]
            made = finish(*add(self._asset(files["held"], heavy=True), f"object_{k}_held", OTHERS))
            self._held[world, k], self._held_body[world, k] = made
            made = finish(*add(self._asset(files["free"]), f"object_{k}", OTHERS))
            self._free[world, k], self._free_body[world, k] = made
        for k in givers:
            for i, file in enumerate(self._files["givers"][k]):
                made = finish(*add(self._asset(file, heavy=True), f"giver_{k}_{i}", OTHERS))
                self._bone[world, k, i], self._bone_body[world, k, i] = made

    def acquire(self) -> None:
        """Take hold of the simulation's tensors; `prepare_sim` has been called."""
        gym, sim, b = self.gym, self.sim, self.num_worlds

        def long(x: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(x), dtype=torch.long, device=self.device)

        def zeros(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.float32, device=self.device)

        self._root = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim)).view(-1, 13)
        self._dof = gymtorch.wrap_tensor(gym.acquire_dof_state_tensor(sim)).view(-1, 2)
        self._body = gymtorch.wrap_tensor(gym.acquire_rigid_body_state_tensor(sim)).view(-1, 13)
        self._contact = gymtorch.wrap_tensor(gym.acquire_net_contact_force_tensor(sim)).view(-1, 3)
        for name in ("_held", "_free", "_held_body", "_free_body", "_bone", "_bone_body", "_hand", "_links", "_dofs"):
            setattr(self, name, long(getattr(self, name)))
        self._parked = torch.tensor(self._parked, dtype=torch.float32, device=self.device)
        self._owner = long(self._owner)
        side = math.ceil(math.sqrt(b))
        number = torch.arange(b, device=self.device)
        self._origin = torch.stack((number % side, torch.div(number, side, rounding_mode="floor"), number * 0), dim=-1)
        self._origin = self._origin * SPACING  # (b, 3)
        self._falls = torch.zeros(len(self._parked), dtype=torch.bool, device=self.device)
        self._falls[self._free[self._free >= 0]] = True  # gravity acts on these
        # what is written: the wrapped tensors are read only
        self._put = self._parked.clone()
        self._put_dof, self._target = zeros(len(self._dof), 2), zeros(len(self._dof))
        self._pending = torch.ones(len(self._parked), dtype=torch.bool, device=self.device)
        self._fresh = torch.ones(b, dtype=torch.bool, device=self.device)  # dof states are to be set
        # (b, 18): carrier, object, bones
        self._carried = torch.cat((self._hand[:, None], self._hand[:, None].repeat(1, 1 + NUM_BONES)), dim=1)
        self._last, self._goal = zeros(b, 2 + NUM_BONES, 7), zeros(b, 2 + NUM_BONES, 7)
        self._last[..., 6] = self._goal[..., 6] = 1.0
        self._velocity = zeros(b, 2 + NUM_BONES, 6)
        self._joints_last, self._joints_goal = zeros(b, self._dofs.shape[1] - 6), zeros(b, self._dofs.shape[1] - 6)
        self._object, self._giver = number * 0, number * 0
        self.held = torch.ones(b, dtype=torch.bool, device=self.device)
        self._link_velocity = zeros(b, self._links.shape[1], 6)
        self._sums = {"force": zeros(b, NUM_BONES), "load": zeros(b, 3)}
        self._peaks = {"giver_force": zeros(b), "giver_peak": zeros(b, 6), "contact_speed": zeros(b)}
        self._running = torch.zeros(b, dtype=torch.bool, device=self.device)

    # running

    def reset(
        self,
        worlds: torch.Tensor,
        objects: torch.Tensor,
        givers: torch.Tensor,
        hand: torch.Tensor,
        joints: torch.Tensor,
        thing: torch.Tensor,
        bones: torch.Tensor,
    ) -> None:
        """Put worlds (n,) at rest: objects and givers (n,) long, hand and thing (n, 7), joints (n, 22), bones
        (n, 16, 7). It happens with the next call of `simulate`: Isaac Gym heeds one setting of root states a call."""
        place = isaac_pose(torch.cat((hand[:, None], thing[:, None], bones), dim=1))
        self._last[worlds] = self._goal[worlds] = place
        self._velocity[worlds] = 0.0
        self._joints_last[worlds] = self._joints_goal[worlds] = joints
        self._object[worlds], self._giver[worlds] = objects, givers
        self.held[worlds] = True
        self._running[worlds] = True
        self._link_velocity[worlds] = 0.0
        held, bone = self._held[worlds, objects], self._bone[worlds, givers]
        if int(torch.minimum(held.min(), bone.min())) < 0:
            raise ValueError("a world was asked for an object or a giver that it does not have")
        self._carried[worlds] = torch.cat((self._hand[worlds, None], held[:, None], bone), dim=1)
        chosen = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        chosen[worlds] = True
        mine = chosen[self._owner]
        self._put[mine] = self._parked[mine]
        self._pending |= mine
        self._fresh |= chosen
        self._put_dof[self._dofs[worlds, :6]] = 0.0
        self._put_dof[self._dofs[worlds, 6:]] = torch.stack((joints, torch.zeros_like(joints)), dim=-1)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """What `restore` needs to go on from here, in another simulation of the same worlds."""
        world = torch.arange(self.num_worlds, device=self.device)
        free = self._root[self._free[world, self._object].clamp(min=0)].clone()
        free[:, :3] -= self._origin
        place = our_pose(self._goal)
        return {"place": place, "joints": self._joints_goal, "dofs": self._dof[self._dofs], "free": free}

    def restore(
        self,
        worlds: torch.Tensor,
        objects: torch.Tensor,
        givers: torch.Tensor,
        held: torch.Tensor,
        place: torch.Tensor,
        joints: torch.Tensor,
        dofs: torch.Tensor,
        free: torch.Tensor,
    ) -> None:
        """Worlds (n,) go on as they were: numbers and held (n,), and their rows of `snapshot`."""
        self.reset(worlds, objects, givers, place[:, 0], joints, place[:, 1], place[:, 2:])
        self._put_dof[self._dofs[worlds]] = dofs
        out = (~held).nonzero(as_tuple=False).squeeze(1)
        actor = self._free[worlds[out], objects[out]]
        self._put[actor] = free[out]
        self._put[actor, :3] += self._origin[worlds[out]]
        self.held[worlds] = held

    def start(
        self,
        hand: torch.Tensor,
        joints: torch.Tensor,
        thing: torch.Tensor,
        bones: torch.Tensor,
        active: torch.Tensor,
        held: torch.Tensor,
    ) -> None:
        """A frame of the active worlds (B,) bool towards targets that hold at its end: hand and thing (B, 7), joints
        (B, 22), bones (B, 16, 7). held (B,) bool: whether the giver still holds the object."""
        goal = isaac_pose(torch.cat((hand[:, None], thing[:, None], bones), dim=1))
        self._last, self._joints_last = self._goal, self._joints_goal
        self._goal = torch.where(active[:, None, None], goal, self._last)
        self._joints_goal = torch.where(active[:, None], joints, self._joints_last)
        self._turn = quat_turn(self._last[..., 3:], self._goal[..., 3:])
        self._running = active
        let_go = (self.held & ~held & active).nonzero(as_tuple=False).squeeze(1)
        if len(let_go):
            thing = self._object[let_go]
            held_actor, free_actor = self._held[let_go, thing], self._free[let_go, thing]
            self._put[free_actor] = self._put[held_actor]  # goes on as it was carried
            self._put[free_actor, :3] = self._last[let_go, 1, :3] + self._origin[let_go]
            self._put[free_actor, 3:7] = self._last[let_go, 1, 3:]
            self._put[held_actor] = self._parked[held_actor]
            self._pending[free_actor] = self._pending[held_actor] = True
            self.held[let_go] = False
        for value in list(self._sums.values()) + list(self._peaks.values()):
            value.zero_()

    def carry(self, part: int) -> None:
        """Put what is carried where it starts part 0, 1 ... of the frame, and tell the dofs where to go."""
        begin = part / self.parts
        step = self._goal[..., :3] - self._last[..., :3]
        place = self._last[..., :3] + begin * step + self._origin[:, None]
        rotation = quat_multiply(quat_from_axis_angle(begin * self._turn), self._last[..., 3:])
        self._velocity = torch.cat((step, self._turn), dim=-1) / self.dt
        state = torch.cat((place, rotation, self._velocity), dim=-1)
        carried = torch.ones_like(self._carried, dtype=torch.bool)
        carried[:, 1] = self.held
        rows = self._carried[carried]
        self._put[rows] = state[carried]
        due = self._pending.clone()
        due[rows] = True
        if part == 0:  # parked bodies fall as well
            idle = self._falls.clone()
            released = (~self.held).nonzero(as_tuple=False).squeeze(1)
            idle[self._free[released, self._object[released]]] = False
            due |= idle
        self._index = due.nonzero(as_tuple=False).squeeze(1).to(torch.int32)
        self.gym.set_actor_root_state_tensor_indexed(
            self.sim, gymtorch.unwrap_tensor(self._put), gymtorch.unwrap_tensor(self._index), len(self._index)
        )
        self._pending.zero_()
        closing = self._joints_goal - self._joints_last
        # a target holds for all substeps, at whose ends drives look at it: so that of their mean
        ahead = begin + (SUBSTEPS + 1) / (2 * SUBSTEPS) / self.parts + JOINT_LEAD_TIME / self.dt
        wanted = self._joints_last + ahead * closing
        self._target[self._dofs[:, 6:]] = wanted
        self._hand_index = self._hand[self._fresh].to(torch.int32)
        if len(self._hand_index):
            self.gym.set_dof_state_tensor_indexed(
                self.sim,
                gymtorch.unwrap_tensor(self._put_dof),
                gymtorch.unwrap_tensor(self._hand_index),
                len(self._hand_index),
            )
            self._fresh.zero_()
        self.gym.set_dof_position_target_tensor(self.sim, gymtorch.unwrap_tensor(self._target))

    def collect(self) -> None:
        """Read the tensors after a call of `simulate`, and add its contacts to those of the frame."""
        gym, sim = self.gym, self.sim
        if self.device == "cpu":
            gym.fetch_results(sim, True)
        gym.refresh_actor_root_state_tensor(sim)
        gym.refresh_dof_state_tensor(sim)
        gym.refresh_rigid_body_state_tensor(sim)
        gym.refresh_net_contact_force_tensor(sim)
        world = torch.arange(self.num_worlds, device=self.device)
        bone = self._bone_body[world, self._giver].clamp(min=0)
        force = self._contact[bone].norm(dim=-1)  # (B, 16)
        peaks = self._peaks
        peaks["giver_force"].copy_(torch.maximum(peaks["giver_force"], force.sum(-1)))
        peaks["giver_peak"].copy_(torch.maximum(peaks["giver_peak"], parts_of(force)))
        body = torch.where(self.held, self._held_body[world, self._object], self._free_body[world, self._object]).clamp(
            min=0
        )
        self._sums["force"] += force * self.call_dt
        self._sums["load"] += self._contact[body] / self.parts
        speed = self._touch_speed(bone, force > TOUCH)
        peaks["contact_speed"].copy_(torch.maximum(peaks["contact_speed"], speed))
        self._link_velocity = self._body[self._links][..., 7:].clone()

    def _touch_speed(self, bone: torch.Tensor, touched: torch.Tensor) -> torch.Tensor:
        """Speed (B,) with which hand and giver came together, by the links that touch: of each bone that is touched,
        (B, 16) bool, relative to the nearest link that touches something, at the bone, before the call."""
        links = self._links
        touching = self._contact[links].norm(dim=-1) > TOUCH  # (B, L)
        offset = self._body[bone][:, :, None, :3] - self._body[links][:, None, :, :3]  # (B, 16, L, 3)
        far = torch.where(touching[:, None], offset.norm(dim=-1), torch.full_like(offset[..., 0], 1e9))
        distance, nearest = far.min(dim=-1)
        row = torch.arange(self.num_worlds, device=self.device)[:, None]
        column = torch.arange(NUM_BONES, device=self.device)[None]
        velocity = self._link_velocity[row, nearest]  # (B, 16, 6)
        at = velocity[..., :3] + torch.cross(velocity[..., 3:], offset[row, column, nearest], dim=-1)
        speed = (at - self._velocity[:, 2:, :3]).norm(dim=-1)
        met = touched & (distance < 1e8)
        return torch.where(met, speed, torch.zeros_like(speed)).max(dim=-1)[0]

    def read(self) -> dict[str, torch.Tensor]:
        """What there is after the last call, float32: a dict of names and shapes as `dexh2r_gym.types.SceneState`."""
        world = torch.arange(self.num_worlds, device=self.device)
        palm = self._body[self._links[:, self._palm]]
        dof = self._dof[self._dofs[:, 6:]]
        actor = torch.where(self.held, self._held[world, self._object], self._free[world, self._object]).clamp(min=0)
        thing = self._root[actor]
        origin = torch.cat((self._origin, torch.zeros_like(palm[:, :4])), dim=-1).to(palm.dtype)
        return {
            "hand_pose": our_pose(palm[:, :7] - origin),
            "hand_joints": dof[..., 0],
            "hand_velocity": torch.cat((palm[:, 7:], dof[..., 1]), dim=-1),
            "object_pose": our_pose(thing[:, :7] - origin),
            "object_velocity": thing[:, 7:],
            "giver_force": self._peaks["giver_force"],
            "giver_peak": self._peaks["giver_peak"],
            "giver_impulse": parts_of(self._sums["force"]),
            "contact_speed": self._peaks["contact_speed"],
            "load": self._sums["load"],
        }


def parts_of(force: torch.Tensor) -> torch.Tensor:
    """What acts on the 16 bones, (B, 16), on palm, index, middle, little, ring and thumb: (B, 6)."""
    return torch.cat((force[:, :1], force[:, 1:].reshape(len(force), 5, 3).sum(-1)), dim=-1)


class Worker:
    """Answers the requests of `dexh2r_gym.sim.isaacgym`: one line of JSON each way, arrays in shared memory."""

    def __init__(self, reply: Callable[[dict[str, Any]], None]) -> None:
        self._reply = reply
        self._gym: Any = None
        self._sim: Any = None
        self._scene: Any = None

    def start(
        self,
        folder: str,
        memory: str,
        layout: dict[str, Any],
        worlds: list[list[list[int]]],
        dt: float,
        device: str,
        num_threads: int,
    ) -> None:
        """Make the simulation; arrays are those of `layout` in the file `memory`."""
        gpu = device.startswith("cuda")
        if gpu and not torch.cuda.is_available():
            raise LookupError("no CUDA device: torch.cuda.is_available() is False")
        with open(memory, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._arrays = {}
        for name, (dtype, shape, offset) in layout.items():
            size = int(np.prod(shape))
            self._arrays[name] = np.frombuffer(self._memory, dtype, size, offset).reshape(shape)
        number = int(device.split(":")[1]) if ":" in device else 0
        gym = self._gym = gymapi.acquire_gym()
        parts = max(1, round(dt * CALLS_PER_SECOND))
        self._sim = gym.create_sim(number, -1, gymapi.SIM_PHYSX, sim_params(dt / parts, gpu, num_threads))
        if self._sim is None:
            raise RuntimeError("Isaac Gym could not create a simulation")

        def progress(world: int) -> None:
            self._reply({"progress": world})

        self._scene = Scene(gym, self._sim, folder, worlds, dt, device, progress)
        gym.prepare_sim(self._sim)
        self._scene.acquire()
        self._device = device

    def _in(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._arrays[name].copy()).to(self._device)

    def reset(self) -> None:
        """Reset the worlds marked in `mask` as the other arrays say."""
        worlds = self._in("mask").nonzero(as_tuple=False).squeeze(1)
        names = ("object", "giver", "hand_target", "joint_target", "object_target", "giver_target")
        self._scene.reset(worlds, *(self._in(name)[worlds] for name in names))

    def step(self) -> None:
        """One frame, and what came of it into the arrays."""
        scene = self._scene
        names = ("hand_target", "joint_target", "object_target", "giver_target", "mask", "held")
        scene.start(*(self._in(name) for name in names))
        for part in range(scene.parts):
            scene.carry(part)
            self._gym.simulate(self._sim)
            scene.collect()
        for name, value in scene.read().items():
            self._arrays[name][...] = value.cpu().numpy()

    def save(self) -> None:
        """What `restore` needs, into the arrays."""
        for name, value in self._scene.snapshot().items():
            self._arrays["saved_" + name][...] = value.cpu().numpy()

    def restore(self) -> None:
        """The worlds marked in `mask` go on as another worker has saved them."""
        worlds = self._in("mask").nonzero(as_tuple=False).squeeze(1)
        names = ("object", "giver", "held", "saved_place", "saved_joints", "saved_dofs", "saved_free")
        self._scene.restore(worlds, *(self._in(name)[worlds] for name in names))

    def close(self) -> None:
        """Free the simulation."""
        if self._sim is not None:
            self._gym.destroy_sim(self._sim)
            self._sim = None


def about() -> dict[str, Any]:
    """What runs here: versions, and what Isaac Gym lacks."""
    found: dict[str, Any] = {
        "python": list(sys.version_info[:3]),
        "import_error": IMPORT_ERROR or TORCH_ERROR,
        "version": None,
    }
    if not IMPORT_ERROR:
        from importlib import metadata

        try:
            found["version"] = metadata.version("isaacgym")
        except metadata.PackageNotFoundError:
            pass  # put on the path, not installed
        found["missing"] = [name for name in CALLS if not hasattr(gymapi.Gym, name)]
    return found


def main() -> None:
    """Serve requests until there are no more, or none who could ask."""

    def reply(message: dict[str, Any]) -> None:
        _REPLIES.write(json.dumps(message) + "\n")
        _REPLIES.flush()

    requests: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        folder, memory = sys.argv[1:]  # the client is gone, and cannot tidy up any more
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(memory):
            os.remove(memory)
        os._exit(0)  # whatever goes on here

    threading.Thread(target=listen, daemon=True).start()
    worker = Worker(reply)
    reply({"about": about()})
    while True:
        request = json.loads(requests.get())
        call = request.pop("call")
        try:
            getattr(worker, call)(**request)
        except Exception as error:
            reply({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})
        else:
            reply({"done": call})
        if call == "close":
            return


if __name__ == "__main__":
    main()
