"""Demonstrations: an agent takes the object in the trials of a store, and what its hand did is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.agents import Maker
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.evaluate import ENV_ID, rollout
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.hand.shapes import hand_shapes
from dexh2r_gym.metrics import paper_metrics
from dexh2r_gym.replay.replay import Replay
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply, pose_velocity, quat_angle
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.types import EpisodeStatus, join_hand_state, split_hand_state

MIN_GAP = 0.002  # m, least distance of the two hands; the giver's skin stands out from its capsules by about as much
MAX_SPEED, MAX_TURNING, MAX_BENDING = (
    2.5,
    8.0,
    25.0,
)  # m/s, rad/s, rad/s: palm and joints; faster, and contact flung them
MAX_SHIFT, MAX_TURN = 0.005, 0.35  # m, rad: of the object in the giver's hand, against the recording
_ALONG = 9  # points along a capsule of the giver's hand


def demonstrate(
    store: str | Path,
    agent: Maker,
    *,
    seed: int = 0,
    varieties: int = 3,
    num_envs: int = 128,
    num_threads: int = 0,
    progress: bool = True,
) -> dict[str, NDArray]:
    """Hand states (T, 28) of a demonstration for each trial of a store, by replay id.

    Hard mode, with physics and the environment's goal pose alignment. A demonstration is kept if a goal is reached, the
    episode is safe (both by the paper's definitions), and the hand never touches the giver: no force in the simulation,
    the two hands 2 mm apart in every frame, the object not pushed out of its recorded pose, and the robot not
    flung about by contact. `num_envs` and `num_threads` do not change the numbers.

    varieties: an agent with a method `varied(seed)` takes each trial in a manner of its own; where it fails it tries
        another, so often, then acts as it is. Trials in which it fails to the end are left out.
    """
    replays = ReplayStore.open(store)
    demos: dict[str, NDArray] = {}
    with tqdm(total=len(replays), desc="demonstrations", unit="trial", disable=not progress) as bar:
        for variety in (*range(seed, seed + varieties), None):
            if ids := [id for id in replays.ids() if id not in demos]:
                make = partial(_make_agent, agent, seed, variety)
                demos |= _demonstrate(replays, ids, make, min(num_envs, len(ids)), num_threads)
            bar.update(len(demos) - bar.n)
    return demos


def _make_agent(agent: Maker, seed: int, variety: int | None, env: HandoverVectorEnv) -> Any:
    """The agent, in a manner of its own if it knows any and is to; None if it knows none but is to."""
    ready = agent(env, seed)
    if variety is None:
        return ready
    return ready.varied(variety) if hasattr(ready, "varied") else None


def _demonstrate(
    replays: ReplayStore,
    ids: Sequence[str],
    make: Callable[[HandoverVectorEnv], Any],
    num_envs: int,
    num_threads: int,
) -> dict[str, NDArray]:
    """The good demonstrations of one agent."""
    env = gym.make_vec(
        ENV_ID,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        replays=replays.path,
        split="all",
        mode="hard",
        backend="mujoco",
        released_metrics=False,
        num_threads=num_threads,
    )
    demos = {}
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(name)
        folder.start({}, resume=False)
        try:
            agent = make(cast(HandoverVectorEnv, env.unwrapped))
            if agent is None:
                return {}
            rollout(agent, env, ids, folder, seed=0)
        finally:
            env.close()
        for id in ids:
            record = folder.load_episode(id)
            if not (_passes(record) and record["giver_force"].max() == 0):
                continue
            replay = replays.replay(id)
            states, moved = (torch.from_numpy(record[key]).double() for key in ("hand_state", "object_pose"))
            told = replay.object_pose[: len(moved)]
            shift = (moved - told)[:, :3].norm(dim=-1).max()
            if shift > MAX_SHIFT or quat_angle(moved[:, 3:], told[:, 3:]).max() > MAX_TURN:
                continue
            object_pose = torch.cat((moved, replay.object_pose[len(moved) :]))  # simulated, then told
            states = carry_on(states, object_pose)
            if _calm(states, replay.fps) and giver_gap(replay, states).min() > MIN_GAP:
                demos[id] = states.numpy()
    return demos


def _passes(record: Mapping[str, NDArray]) -> bool:
    """Whether a recorded episode reached a goal and is safe."""
    depth, hand_state = torch.from_numpy(record["depth"]), torch.from_numpy(record["hand_state"])
    reached = torch.tensor([str(record["status"]) == EpisodeStatus.REACHED.name])
    scores = paper_metrics(depth[None], hand_state[None, :, :3], torch.tensor([len(depth)]), reached)
    return bool(scores["succ"] and scores["safe"])


def _calm(hand_state: Tensor, fps: float) -> bool:
    """Whether a hand with states (T, 28) is nowhere flung about by contact."""
    pose, joints = split_hand_state(hand_state)
    velocity = pose_velocity(pose[:-1], pose[1:], 1.0 / fps)
    bending = (joints[1:] - joints[:-1]).abs().max() * fps
    fastest = velocity[:, :3].norm(dim=-1).max(), velocity[:, 3:].norm(dim=-1).max(), bending
    return all(value <= limit for value, limit in zip(fastest, (MAX_SPEED, MAX_TURNING, MAX_BENDING), strict=True))


def carry_on(hand_state: Tensor, object_pose: Tensor) -> Tensor:
    """Continue hand states (t, 28) to the T frames of object poses (T, 7): the hand keeps its grasp and goes along."""
    pose, joints = split_hand_state(hand_state)
    last = len(pose) - 1
    grasp = pose_multiply(pose_inverse(object_pose[last]), pose[last])
    rest = pose_multiply(object_pose[last + 1 :], grasp.expand(len(object_pose) - last - 1, 7))
    held = join_hand_state(rest, joints[last].expand(len(rest), -1))
    return torch.cat((hand_state, held))


def giver_gap(replay: Replay, hand_state: Tensor) -> Tensor:
    """Distance of a robot's hand with states (T, 28) from the giver's hand of a trial; negative: overlap. (T,) metres

    The solid of the robot's hand against points along the giver's capsules: too large by less than 0.4 mm.
    """
    hand = GiverHand.from_mano(replay.giver, replay.side)
    bone, p0, p1, radius = hand.capsules()
    along = torch.linspace(0, 1, _ALONG, dtype=torch.float64)[:, None]
    points = (p0[:, None] + along * (p1 - p0)[:, None]).to(replay.giver)  # (C, P, 3)
    world = pose_apply(hand.bone_poses(replay.giver)[:, bone, None], points)  # (T, C, P, 3)
    links = pose_inverse(forward_kinematics(*split_hand_state(hand_state)))  # (T, 18, 7)
    gap = torch.full((len(hand_state),), torch.inf, dtype=torch.float64)
    for shape in hand_shapes():
        distance = shape.signed_distance(pose_apply(links[:, shape.link, None, None], world)).amin(-1) - radius
        gap = torch.minimum(gap, distance.amin(-1))
    return gap
