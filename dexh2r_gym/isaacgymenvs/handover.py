"""`DexH2RHandover`: the handover as a task of IsaacGymEnvs, all of it on the simulation's device.

The same task as `dexh2r_gym.envs.HandoverVectorEnv` with `backend="isaacgym"`, `control_mode="delta"`,
`obs_mode="state"` and `reward_mode="dense"`, from the same functions, with these differences: depth is looked up in the
objects' distance grids, not mesh-exact; a world shows its own share of the trials, so that it needs few actors; numbers
are float32; a world that has ended begins anew at once, and what is observed is its start.
"""

from __future__ import annotations

import os
from typing import Any

from isaacgym import gymapi  # noqa: F401  before torch, or Isaac Gym refuses

# isort: split
import numpy as np
import package
import torch

package.prepare()

from isaacgymenvs.tasks.base.vec_task import VecTask  # noqa: E402

from dexh2r_gym.alignment import (  # noqa: E402
    ALIGNMENT_DEPTH,
    CLOSED_ANGLE,
    REACHED_DISTANCE,
    START_DISTANCE,
    SpeedLimits,
    alignment_candidates,
    nearest_goal,
    retreat,
)
from dexh2r_gym.envs import rewards  # noqa: E402
from dexh2r_gym.envs.control import hand_target  # noqa: E402
from dexh2r_gym.hand.fk import forward_kinematics  # noqa: E402
from dexh2r_gym.objects.grid import GridDistance  # noqa: E402
from dexh2r_gym.rotations import pose_apply, pose_integrate, pose_inverse, pose_multiply, quat_rotate  # noqa: E402
from dexh2r_gym.sim.isaacgym_worker import Scene  # noqa: E402
from dexh2r_gym.types import MAX_SPEED, join_hand_state, split_hand_state  # noqa: E402

NAME = "DexH2RHandover"
NUM_OBSERVATIONS, NUM_ACTIONS = 148, 28
NO_GOAL_DISTANCE = 10.0  # m, shown where no goal is free


class DexH2RHandover(VecTask):
    """See the module. cfg["env"]: `assets`, the folder that `dexh2r export isaacgym` has written; `mode`, easy or hard.

    Observation (148,) and reward are those of `HandoverVectorEnv`; action (28,) in -1..1. extras: `time_outs`, worlds
    whose recording ended; `succ`, part of the worlds whose last episode reached its goal.
    """

    def __init__(
        self,
        cfg: dict[str, Any],
        rl_device: str,
        sim_device: str,
        graphics_device_id: int,
        headless: bool,
        virtual_screen_capture: bool,
        force_render: bool,
    ) -> None:
        self.cfg = cfg
        env = cfg["env"]
        if env["mode"] not in START_DISTANCE:
            raise ValueError(f"unknown mode {env['mode']!r}; choose one of {', '.join(START_DISTANCE)}")
        self._start_distance = START_DISTANCE[env["mode"]]
        self._folder = str(env["assets"])
        path = os.path.join(self._folder, "trials.npz")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no {path}; write it with `dexh2r export isaacgym FOLDER` and set task.env.assets")
        with np.load(path, allow_pickle=False) as file:
            self._trials = {name: torch.from_numpy(file[name]) for name in file.files}
        if env.get("controlFrequencyInv", 1) != 1:
            raise ValueError("controlFrequencyInv must be 1: a step is one recorded frame, whatever it takes")
        env["numObservations"], env["numActions"] = NUM_OBSERVATIONS, NUM_ACTIONS
        super().__init__(
            config=cfg,
            rl_device=rl_device,
            sim_device=sim_device,
            graphics_device_id=graphics_device_id,
            headless=headless,
            virtual_screen_capture=virtual_screen_capture,
            force_render=force_render,
        )
        self._scene.acquire()
        self._trials = {name: value.to(self.device) for name, value in self._trials.items()}
        self._order, self._first, self._share = (x.to(self.device) for x in self._shares)
        t, b = self._trials, self.num_envs
        self._grid = GridDistance(*(t["grid_" + k] for k in ("values", "start", "shape", "origin", "spacing")))
        self.max_episode_length = int(t["length"].max())
        self._limits = SpeedLimits()

        def zeros(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=self.device)

        self._trial = zeros(b, dtype=torch.long)
        self._told = (zeros(b, 7), zeros(b, NUM_ACTIONS - 6))
        self._aligning, self._timed_out = zeros(b, dtype=torch.bool), zeros(b, dtype=torch.bool)
        self._success = zeros(b)
        self._d, self._depth = zeros(b), zeros(b)
        self._goal, self._stalled = zeros(b, dtype=torch.long), zeros(b, dtype=torch.long)
        self._retreating = zeros(b, dtype=torch.bool)
        self._given_up = zeros(b, t["goal_free"].shape[1], dtype=torch.bool)
        self._everywhere = torch.ones(b, dtype=torch.bool, device=self.device)
        self._seen: dict[str, torch.Tensor] = {}
        self.reset_idx(torch.arange(b, device=self.device))

    # making

    def create_sim(self) -> None:
        """Called by the base: the simulation and its worlds."""
        self.sim = super().create_sim(self.device_id, self.graphics_device_id, self.physics_engine, self.sim_params)
        self._shares = order, firsts, shares = self._share_out()
        t = self._trials
        worlds = []
        for first, share in zip(firsts.tolist(), shares.tolist()):  # noqa: B905 - Python 3.8
            mine = order[first : first + share]
            worlds.append([sorted(set(t["object"][mine].tolist())), sorted(set(t["giver"][mine].tolist()))])
        self.frame_dt = 1.0 / float(t["fps"])
        self._scene = Scene(self.gym, self.sim, self._folder, worlds, self.frame_dt, self.device)
        if abs(self._scene.call_dt - self.sim_params.dt) > 1e-4:
            raise ValueError(
                f"sim.dt is {self.sim_params.dt}; for these recordings it must be {self._scene.call_dt:.6f}"
            )

    def _share_out(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which trials each world shows: neighbours in object and giver, so that a world needs few of them.

        order (N,), first (B,), share (B,): the trials of a world are order[first : first + share].
        """
        t, b = self._trials, self.num_environments
        n, world = len(t["offset"]), torch.arange(b)
        order = torch.argsort(t["object"] * (int(t["giver"].max()) + 1) + t["giver"])
        if b >= n:
            return order, world % n, torch.ones_like(world)
        edges = torch.tensor([w * n // b for w in range(b + 1)])
        return order, edges[:-1], edges[1:] - edges[:-1]

    # episodes

    def reset_idx(self, env_ids: torch.Tensor) -> None:
        """Begin new episodes in worlds (n,), and observe them."""
        t, w = self._trials, env_ids
        pick = torch.rand(len(w), dtype=torch.float64, device=self.device) * self._share[w]
        trial = self._order[self._first[w] + pick.long()]
        self._trial[w] = trial
        self.progress_buf[w] = 0
        self._retreating[w], self._stalled[w], self._given_up[w] = False, 0, False
        pose, joints = split_hand_state(t["hand_start"][trial])
        self._told[0][w], self._told[1][w] = pose, joints
        thing, bones = self._recorded(w)
        center = self._center(w)
        at_mass = torch.cat((thing[:, :3] + quat_rotate(thing[:, 3:], center), thing[:, 3:]), dim=-1)
        self._scene.reset(w, t["object"][trial], t["giver"][trial], pose, joints, at_mass, bones)
        start = {
            "hand_pose": pose,
            "hand_joints": joints,
            "hand_velocity": pose.new_zeros(len(w), NUM_ACTIONS),
            "object_pose": thing,
            "object_velocity": pose.new_zeros(len(w), 6),
        }
        for name, value in start.items():
            if name not in self._seen:
                self._seen[name] = value.new_zeros(self.num_envs, value.shape[1])
            self._seen[name][w] = value
        self._look(w)
        self._aligning[w] = self._d[w] < self._start_distance
        self.obs_buf[w] = self._observe(w)

    def reset(self) -> dict[str, torch.Tensor]:
        """What the worlds show at their beginning."""
        self.reset_idx(torch.arange(self.num_envs, device=self.device))
        return super().reset()

    def step(self, actions: torch.Tensor) -> Any:
        """See `VecTask.step`; `time_outs` are worlds whose own recording ended."""
        out = super().step(actions)
        self.extras["time_outs"] = self._timed_out.to(self.rl_device)
        return out

    def pre_physics_step(self, actions: torch.Tensor) -> None:
        """The frame but for its last call of `simulate`, which the base makes."""
        action = actions.to(self.device)
        pose, joints = hand_target(action, *self._told, "delta", self._limits, self.frame_dt)
        w = self._aligning.nonzero(as_tuple=False).squeeze(1)
        if len(w):
            pose[w], joints[w] = self._align(w)
        self._told = (pose, joints)
        self.progress_buf += 1
        thing, bones = self._recorded()
        at_mass = torch.cat((thing[:, :3] + quat_rotate(thing[:, 3:], self._center()), thing[:, 3:]), dim=-1)
        self._scene.start(pose, joints, at_mass, bones, self._everywhere, self._everywhere)
        for part in range(self._scene.parts - 1):
            self._scene.carry(part)
            self.gym.simulate(self.sim)
            self._scene.collect()
        self._scene.carry(self._scene.parts - 1)

    def post_physics_step(self) -> None:
        """Reward and ends of the frame; worlds that have ended begin anew."""
        self._scene.collect()
        seen = self._scene.read()
        shift = quat_rotate(seen["object_pose"][:, 3:], self._center())
        seen["object_pose"] = torch.cat((seen["object_pose"][:, :3] - shift, seen["object_pose"][:, 3:]), dim=-1)
        spin = seen["object_velocity"][:, 3:]
        drift = torch.cross(spin, shift, dim=-1)
        seen["object_velocity"] = torch.cat((seen["object_velocity"][:, :3] - drift, spin), dim=-1)
        moving = torch.cat((seen["hand_velocity"], seen["object_velocity"]), dim=-1)
        diverged = ~(moving.abs().max(dim=-1)[0] < MAX_SPEED)  # NaN is not below it either
        for name in self._seen:
            self._seen[name] = torch.where(diverged[:, None], self._seen[name], seen[name])
        force = torch.where(diverged, torch.zeros_like(self._d), seen["giver_force"])
        d_before = self._d
        self._look()
        open_by = (self._goal_now()[1] - self._told[1]).abs().max(dim=-1)[0]
        reached = (self._d < REACHED_DISTANCE) & self._aligning & (open_by < CLOSED_ANGLE) & ~diverged
        over = self.progress_buf >= self._trials["length"][self._trial] - 1
        self._timed_out = over & ~reached & ~diverged
        self.rew_buf[:] = rewards.dense(d_before, self._d, reached, self._depth, force)
        done = reached | over | diverged
        self._aligning = self._aligning | (self._d < self._start_distance)
        self._success = torch.where(done, reached.float(), self._success)
        self.extras["succ"] = self._success.mean()
        self.reset_buf[:] = done
        self.obs_buf[:] = self._observe()
        ended = done.nonzero(as_tuple=False).squeeze(1)
        if len(ended):
            self.reset_idx(ended)

    # what there is

    def _recorded(self, w: Any = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Object (n, 7) and bones (n, 16, 7) of the recordings, now; the last frame lasts."""
        t, row = self._trials, self._row(w)
        return t["object_pose"][row], t["giver_bones"][row]

    def _row(self, w: Any = slice(None)) -> torch.Tensor:
        t, trial = self._trials, self._trial[w]
        return t["offset"][trial] + torch.minimum(self.progress_buf[w], t["length"][trial] - 1)

    def _center(self, w: Any = slice(None)) -> torch.Tensor:
        return self._trials["center"][self._trials["object"][self._trial[w]]]

    def _goal_now(self, w: Any = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest free goals: palm (n, 7), object frame, and joints (n, 22)."""
        trial, goal = self._trial[w], self._goal[w]
        return self._trials["goal_pose"][trial, goal], self._trials["goal_joints"][trial, goal]

    def _look(self, w: Any = slice(None)) -> None:
        """Nearest goals, d and depth."""
        hand, thing = self._seen["hand_pose"][w], self._seen["object_pose"][w]
        t, trial = self._trials, self._trial[w]
        relative = pose_multiply(pose_inverse(thing), hand)
        free = t["goal_free"][self._row(w)] & ~self._given_up[w]
        goal, d = nearest_goal(relative, t["goal_pose"][trial], free)
        depth = self._depth_of(hand, self._seen["hand_joints"][w], thing, w)
        if isinstance(w, slice):
            self._goal, self._d, self._depth = goal, d, depth
        else:
            self._goal, self._d = self._goal.index_copy(0, w, goal), self._d.index_copy(0, w, d)
            self._depth = self._depth.index_copy(0, w, depth)

    def _depth_of(self, hand: torch.Tensor, joints: torch.Tensor, thing: torch.Tensor, w: Any) -> torch.Tensor:
        """How deep hands are in the objects of worlds w, (n,) metres, by their grids."""
        t = self._trials
        links = pose_multiply(pose_inverse(thing)[:, None], forward_kinematics(hand, joints))
        points = pose_apply(links[:, t["surface_link"]], t["surface"])  # (n, P, 3), object frame
        index = t["object"][self._trial[w]][:, None].expand(points.shape[:2]).reshape(-1)
        return (-self._grid.signed(index, points.reshape(-1, 3))).clamp(min=0).view(points.shape[:2]).max(dim=-1)[0]

    def _align(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next command of goal pose alignment in worlds w (n,): of the candidates the first that is clear."""
        told, joints = self._told[0][w], self._told[1][w]
        goal_pose, goal_joints = self._goal_now(w)
        ahead = pose_integrate(self._seen["object_pose"][w], self._seen["object_velocity"][w], self.frame_dt)
        goal_pose = pose_multiply(ahead, goal_pose)
        candidates = alignment_candidates(told, joints, goal_pose, goal_joints, self._limits, self.frame_dt)
        limit = self._depth[w].clamp(min=ALIGNMENT_DEPTH)
        back = candidates[-1]  # leads away from the object and needs no check
        clear = [self._depth_of(palm, fingers, ahead, w) <= limit for palm, fingers in candidates[:-1]]
        blocked = ~torch.stack(clear).any(dim=0)
        states = self._retreating[w], self._stalled[w]
        retreating, self._stalled[w], give_up = retreat((told, joints), (goal_pose, goal_joints), blocked, *states)
        self._retreating[w] = retreating
        self._given_up[w[give_up], self._goal[w[give_up]]] = True
        pose, closing = back
        for i in range(len(clear) - 1, -1, -1):  # the best last, so that it is what stays
            free = (clear[i] & ~retreating)[:, None]
            pose, closing = torch.where(free, candidates[i][0], pose), torch.where(free, candidates[i][1], closing)
        return pose, closing

    def _observe(self, w: Any = slice(None)) -> torch.Tensor:
        """(n, 148), see `HandoverVectorEnv`."""
        s, trial = {name: value[w] for name, value in self._seen.items()}, self._trial[w]
        goal_pose, goal_joints = self._goal_now(w)
        bones = self._recorded(w)[1]
        length = self._trials["length"][trial] - 1
        passed = (self.progress_buf[w].float() / length.clamp(min=1).float()).clamp(max=1.0)
        parts = (
            join_hand_state(s["hand_pose"], s["hand_joints"]),
            s["hand_velocity"],
            s["object_pose"],
            s["object_velocity"],
            bones[..., :3].flatten(1),
            join_hand_state(pose_multiply(s["object_pose"], goal_pose), goal_joints),
            self._d[w].clamp(max=NO_GOAL_DISTANCE)[:, None],
            torch.stack((self._aligning[w].float(), passed), dim=-1),
        )
        return torch.cat(parts, dim=-1)


def register() -> None:
    """Make the task known to IsaacGymEnvs by its name."""
    from isaacgymenvs.tasks import isaacgym_task_map

    isaacgym_task_map[NAME] = DexH2RHandover
