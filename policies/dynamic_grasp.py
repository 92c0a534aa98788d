"""The whole pipeline of DexH2R (section 4) as one agent: goal proposals, approach, goal pose alignment.

It sees what a robot can see: the object's cloud, its own hand, and the giver's joints as a hand tracker gives them.
Make the environment with `DynamicGrasp.env_options()`: the environment's own alignment is off, the agent closes in by
itself on goals of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import (
    ALIGNMENT_DEPTH,
    REACHED_DISTANCE,
    START_DISTANCE,
    SpeedLimits,
    alignment_candidates,
    arrived,
    behind_goal,
)
from dexh2r_gym.grasps.generators import GraspGenerator
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.rotations import pose_apply, pose_inverse, pose_multiply
from dexh2r_gym.types import NUM_GIVER_JOINTS, join_hand_state, split_hand_state
from policies.agent import Agent, fresh_worlds, threads_for
from policies.approach import ApproachAgent, ApproachModel, ApproachState
from policies.dynamic_grasp_state import DynamicGraspState, alike, at_rest, nothing_known, notice_held_up
from policies.goal_proposals import SeenGoals, cloud_depth, propose_goals
from policies.reach import reach_cost
from policies.tracking import follow, restart, rigid_motion

_STALL = 16  # frames after which a hand at its goal tries another, where it cannot see whether it is at rest
_PATIENCE = 24  # the same where it can, but does not come to rest
_RESTED = 5  # frames that it has then been at rest, after which a grasp that holds would have proved to
_CAUGHT = 0.6  # rad by which a finger is bent further than it is told to be that is caught under the palm
_LAG, _LAG_FRAMES = 0.015, 4  # m, and frames that a hand is so far from where it is told to be
_AIM = 0.9  # of the way back from a goal to the point behind it: where the approach leads, and alignment takes over
_CLOSING = 0.02  # rad a frame; fingers that move by more are on their way
_COST_POINTS = 128  # of a cloud, from which the way to a goal keeps away
_RETREATS = 2.0  # behind a goal: where the hand is expected to come from
NEEDS = ("point_cloud", "agent_pos", "giver_joints")
PRIVILEGED = ("object_pose", "object_vel", "goal_state", "goal_distance", "goal_pos")  # not passed on as they are


class DynamicGrasp:
    """A `policies.Agent`; its actions are absolute hand states."""

    def __init__(
        self,
        generator: GraspGenerator,
        approach: ApproachModel | Agent,
        *,
        mode: str = "hard",
        num_goals: int = 100,
        limits: SpeedLimits | None = SpeedLimits(),  # noqa: B008
        fps: float = 30.0,
        seed: int = 0,
        late: bool = False,
    ) -> None:
        """mode: as the environment's, how near the goal, or the point behind it, alignment takes over.
        limits, fps: the robot's and the frames'.

        late: actions arrive late and `agent_pos` is what was told, see `plans_ahead`: it does not show fingers at rest.

        Raises:
            ValueError: an unknown mode; the message lists the valid ones.
        """
        if mode not in START_DISTANCE:
            raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(START_DISTANCE)}")
        self._generator, self._num_goals, self._seed, self._late = generator, num_goals, seed, late
        self._approach: Agent = ApproachAgent(approach, seed) if isinstance(approach, ApproachModel) else approach
        self._start_distance, self._limits, self._dt = START_DISTANCE[mode], limits, 1.0 / fps

    def env_options(self) -> dict[str, Any]:
        """Arguments of the environment in which it sees what it needs."""
        model = getattr(self._approach, "model", None)
        options: dict[str, Any] = model.env_options() if isinstance(model, ApproachModel) else {}
        modes = dict.fromkeys(("point_cloud", "state_dict", *options.get("obs_mode", "").split("+")))
        options = {key: value for key, value in options.items() if key != "goal_pos"}
        return options | {"obs_mode": "+".join(filter(None, modes)), "alignment": "none"}

    @torch.no_grad()
    def predict(
        self,
        observation: Mapping[str, Any],
        state: DynamicGraspState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, DynamicGraspState]:
        """See `policies.Agent`. Until an object is first seen the hand stays where it is.

        Raises:
            ValueError: the observation lacks a key; the message says how to make the environment.
        """
        missing = [key for key in NEEDS if not isinstance(observation, Mapping) or key not in observation]
        if missing:
            options = ", ".join(f"{name}={value!r}" for name, value in self.env_options().items())
            raise ValueError(f"the observation has no {', '.join(missing)}; make the environment with {options}")
        cloud, hand, giver = (torch.as_tensor(np.asarray(observation[key])).float() for key in NEEDS)
        giver = giver.unflatten(1, (NUM_GIVER_JOINTS, 3))
        fresh = torch.from_numpy(fresh_worlds(len(hand), state, episode_start))
        with threads_for(len(hand)):
            action, state = self._act(observation, self._look(state, fresh, cloud, hand, giver), fresh, cloud, hand)
        return action.numpy(), replace(state, command=action)

    def _act(
        self, observation: Mapping[str, Any], state: DynamicGraspState, fresh: Tensor, cloud: Tensor, hand: Tensor
    ) -> tuple[Tensor, DynamicGraspState]:
        """Actions (B, 28) after a look, and the state."""
        goal, d, state = self._choose(state, cloud, hand)
        held_up, state = notice_held_up(state, d, hand)
        aim = pose_multiply(state.track.pose, behind_goal(goal, _AIM))
        near = torch.minimum(d, (aim[:, :3] - hand[:, :3]).norm(dim=-1)) < self._start_distance
        begins = ~state.aligning & (near | held_up) & state.begun
        leaves = (d > 2 * self._start_distance) & (state.tries == 0)
        aligning = begins | (state.aligning & ~leaves)
        state = replace(state, aligning=aligning, command=torch.where(begins[:, None], hand, state.command))
        action, state = self._come_nearer(observation, aim, fresh, state)
        w = state.aligning.nonzero()[:, 0]
        if len(w) > 0:
            step, state = self._align(w, goal[w], hand, state)
            action = action.index_put((w,), step)
        return torch.where(state.begun[:, None], action, hand), state

    def _look(
        self, state: DynamicGraspState | None, fresh: Tensor, cloud: Tensor, hand: Tensor, giver: Tensor
    ) -> DynamicGraspState:
        """The state after a look at the clouds (B, P, 3): objects tracked, goals proposed where one is first seen."""
        if state is None:
            state = nothing_known(cloud, hand, giver, self._num_goals)
        begun = state.begun & ~fresh
        starts = ~begun & (cloud != 0).flatten(1).any(-1)
        track = restart(follow(state.track, cloud, rigid_motion(state.giver, giver)), starts, cloud)
        goals, w = state.goals, starts.nonzero()[:, 0]
        if len(w) > 0:
            inverse = pose_inverse(track.pose[w])
            seen = pose_apply(inverse[:, None], cloud[w])
            local = pose_apply(inverse[:, None], giver[w])
            new = propose_goals(self._generator, seen, local, num=self._num_goals, seed=self._seed)
            goals = SeenGoals(**{k: v.index_put((w,), getattr(new, k)) for k, v in vars(goals).items()})
        anew = fresh | starts
        return replace(
            state,
            begun=begun | starts,
            track=track,
            goals=goals,
            undecided=state.undecided | anew,
            given_up=state.given_up & ~anew[:, None],
            aligning=state.aligning & ~anew,
            retreating=state.retreating & ~anew,
            stalled=state.stalled * ~anew,
            rested=state.rested * ~anew,
            nearest=torch.where(anew, torch.inf, state.nearest),
            stuck=state.stuck * ~anew,
            lagged=state.lagged * ~anew,
            tries=state.tries * ~anew,
            command=torch.where(anew[:, None], hand, state.command),
            giver=giver,
        )

    def _choose(
        self, state: DynamicGraspState, cloud: Tensor, hand: Tensor
    ) -> tuple[Tensor, Tensor, DynamicGraspState]:
        """The goal of each world: its pose (B, 7) in the model's frame, and d (B,) metres; its index in the state.

        It stays until it is given up; another is then the one that costs the least to reach. Where all were given up,
        all are tried again.
        """
        left = state.goals.usable & ~state.given_up
        given_up = state.given_up & left.any(-1, keepdim=True)
        left = state.goals.usable & ~given_up
        rows = torch.arange(len(hand))
        w = (~left[rows, state.goal] | state.undecided).nonzero()[:, 0]
        index = state.goal
        if len(w) > 0:
            cost = self._cost(w, state, cloud, hand).masked_fill(~left[w], torch.inf)
            index = index.index_put((w,), cost.argmin(-1))
        goal = state.goals.palm_pose[rows, index]
        d = (pose_multiply(state.track.pose, goal)[:, :3] - hand[:, :3]).norm(dim=-1)
        undecided = state.undecided & ~state.begun
        other = index != state.goal
        return (
            goal,
            d,
            replace(
                state,
                given_up=given_up,
                goal=index,
                undecided=undecided,
                nearest=torch.where(other, torch.inf, state.nearest),
                stuck=state.stuck * ~other,
            ),
        )

    def _cost(self, w: Tensor, state: DynamicGraspState, cloud: Tensor, hand: Tensor) -> Tensor:
        """What the goals of worlds w (n,) cost to reach, (n, G)."""
        points = cloud[w][:, torch.linspace(0, cloud.shape[1] - 1, _COST_POINTS).long()]

        def to_object(path: Tensor) -> Tensor:
            return torch.cdist(path.flatten(1, 2).float(), points).amin(-1).view(path.shape[:3])

        goals = pose_multiply(state.track.pose[w, None], state.goals.palm_pose[w])
        retreats = torch.full((len(w),), _RETREATS)
        pose, _ = split_hand_state(hand[w])
        return reach_cost(pose, goals, state.goals.joints[w], retreats, state.giver[w], to_object)

    def _come_nearer(
        self, observation: Mapping[str, Any], aim: Tensor, fresh: Tensor, state: DynamicGraspState
    ) -> tuple[Tensor, DynamicGraspState]:
        """The approach's actions (B, 28). It is shown aim (B, 7), whence alignment takes over, with an open hand.

        Its actions where alignment is on are not used, and so not planned.
        """
        joints = state.goals.joints[torch.arange(len(aim)), state.goal]
        own = join_hand_state(aim, joints + _AIM * (OPEN_HAND.to(joints) - joints)).float().numpy()
        shown = {key: value for key, value in observation.items() if key not in PRIVILEGED} | {"goal_pos": own}
        approach, start = state.approach, None if state.approach is None else fresh.numpy()
        if isinstance(approach, ApproachState):
            approach = approach.sparing(state.aligning)
        action, approach = self._approach.predict(shown, approach, start)
        return torch.from_numpy(np.asarray(action)).float(), replace(state, approach=approach)

    def _align(
        self, w: Tensor, goal: Tensor, hand: Tensor, state: DynamicGraspState
    ) -> tuple[Tensor, DynamicGraspState]:
        """Actions (n, 28) of worlds w (n,): a step of goal pose alignment with its collision check (section 4.3)."""
        index, ahead = state.goal[w], state.track.expected()[w]
        pose, joints = split_hand_state(state.command[w])
        pose = pose_multiply(pose_multiply(ahead, pose_inverse(state.track.pose[w])), pose)  # carried along
        target, closed = pose_multiply(ahead, goal), state.goals.joints[w, index]
        caught = (hand[w, 6:] - state.command[w, 6:]).amax(-1) > _CAUGHT
        toward = torch.where(caught[:, None], split_hand_state(hand[w])[0], target)  # straight back, which frees it
        candidates = alignment_candidates(pose, joints, toward, closed, self._limits, self._dt)
        steps = torch.stack([join_hand_state(*candidate) for candidate in candidates])  # (3, n, 28)
        points = pose_apply(ahead[:, None], state.track.points[w])
        choice, away = _shallow(candidates, pose, joints, points), len(candidates) - 1
        lagged = (state.lagged[w] + 1) * ((hand[w, :3] - state.command[w, :3]).norm(dim=-1) > _LAG)
        blocked = (choice == away) | (lagged > _LAG_FRAMES) | caught
        there = (target[:, :3] - pose[:, :3]).norm(dim=-1) < REACHED_DISTANCE
        behind = arrived(pose, joints, behind_goal(target), OPEN_HAND.to(joints).expand_as(joints))
        rows = torch.arange(len(w))
        closing = (steps[choice, rows, 6:] - joints).abs().amax(-1) > _CLOSING
        stalled = (state.stalled[w] + ~closing) * there
        rest, rested = at_rest(state, w, hand[w])
        rested = torch.where(stalled > 0, rested, 0)
        tries = state.tries[w] + (blocked & ~state.retreating[w])
        tried = stalled > _STALL if self._late else (stalled > _PATIENCE) | (rested >= _RESTED)
        give_up = (blocked & (behind | (tries > 1))) | tried
        retreating = give_up | blocked | (state.retreating[w] & ~behind)
        choice[retreating] = away
        given_up = alike(state.goals.palm_pose[w], index) & give_up[:, None]
        return steps[choice, rows].float(), replace(
            state,
            given_up=state.given_up.index_put((w,), state.given_up[w] | given_up),
            retreating=state.retreating.index_put((w,), retreating),
            stalled=state.stalled.index_put((w,), stalled * ~give_up),
            rest=state.rest.index_put((w,), rest),
            rested=state.rested.index_put((w,), rested * ~give_up),
            lagged=state.lagged.index_put((w,), lagged * ~blocked),
            tries=state.tries.index_put((w,), tries * ~give_up),
        )


def _shallow(candidates: Sequence[tuple[Tensor, Tensor]], pose: Tensor, joints: Tensor, points: Tensor) -> Tensor:
    """Which of three next hands (n, 7), (n, 22) is taken, (n,) long: the first that is not too deep in points
    (n, P, 3), or no deeper than the hand is now; the last leads away from the object and needs no check."""
    depth = cloud_depth(*candidates[0], points)
    choice, w = torch.zeros(len(pose), dtype=torch.long), (depth > ALIGNMENT_DEPTH).nonzero()[:, 0]
    if len(w) > 0:
        limit = cloud_depth(pose[w], joints[w], points[w]).clamp_min(ALIGNMENT_DEPTH)
        second = cloud_depth(candidates[1][0][w], candidates[1][1][w], points[w])
        choice[w] = torch.where(depth[w] <= limit, 0, torch.where(second <= limit, 1, 2))
    return choice
