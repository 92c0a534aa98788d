"""The handover task for B worlds: goals, alignment, penetration, status; everything but Gymnasium's conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import (
    ALIGNMENT_DEPTH,
    CLOSED_ANGLE,
    REACHED_DISTANCE,
    STALL_FRAMES,
    START_DISTANCE,
    alignment_candidates,
    arrived,
    behind_goal,
    nearest_goal,
)
from dexh2r_gym.arm.robot import ArmRobot
from dexh2r_gym.envs import control, rewards
from dexh2r_gym.envs.latency import MAX_LATENCY, ActionDelay
from dexh2r_gym.envs.observer import Frame, Observer
from dexh2r_gym.envs.options import HandoverOptions
from dexh2r_gym.envs.own_grasp import Hands, OwnGrasps
from dexh2r_gym.envs.playback import Playback
from dexh2r_gym.envs.receive import Outcome, Phase, Receive, max_frames
from dexh2r_gym.envs.recordings import Recordings
from dexh2r_gym.envs.trace import EpisodeTrace
from dexh2r_gym.envs.ways_out import WaysOut
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.metrics import approach_metrics, hand_object_depth, released_depth
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.overlay import draw_overlay
from dexh2r_gym.render import SceneRenderer
from dexh2r_gym.replay import Replay, ReplayStore
from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.rotations import pose_integrate, pose_inverse, pose_multiply
from dexh2r_gym.safety import safety_metrics
from dexh2r_gym.sensing.calibration import calibration
from dexh2r_gym.sim import PHYSICAL, make_simulator
from dexh2r_gym.sim.randomise import PHYSICS, draw_factors
from dexh2r_gym.types import NUM_GIVER_JOINTS, EpisodeStatus, SceneState, join_hand_state, split_hand_state
from dexh2r_gym.verdict import verdict

TOUCHED = ("giver_force", "giver_peak", "giver_impulse", "contact_speed", "load")  # of a `SceneState`


@dataclass(frozen=True)
class Goals:
    """The goal grasps of B worlds, G each, and what stands around them."""

    pose: Tensor  # (B, G, 7) palm in the object frame
    joints: Tensor  # (B, G, 22)
    free: Tensor  # (B, G) bool, clear of the giver's hand now
    free_at_end: Tensor  # (B, G) bool, clear of it in the last frame of the recording
    giver_joints: Tensor  # (B, 16, 3) world
    object_index: Tensor  # (B,) which of `objects`
    objects: ObjectBatch


class HandoverTask:
    """Runs episodes in B worlds. A world runs from `begin` until its `status` is no longer RUNNING.

    Attributes:
        status: (B,) `EpisodeStatus`. aligning: (B,) bool, goal pose alignment is under way.
        d: (B,) metres to the nearest free goal, inf where none is. depth: (B,) metres, hand in object, mesh-exact.
        time: (B,) frame of the episode. playback: where object and giver are. arm: what carries the hand, None where it
        floats. running_ids: (B,) the trial of each world. replay_ids: the trials of the split. fps: frames a second.
        observer: what agents are shown.
    """

    def __init__(self, num_worlds: int, options: HandoverOptions):
        self.options = options
        self.store = ReplayStore.open(options.replays)
        self.replay_ids = self.store.ids(None if options.split == "all" else options.split)
        if not self.replay_ids:
            raise ValueError(f"split {options.split!r} of {options.replays} has no trials; try split='all'")
        rates = {self.store.info(i).fps for i in self.replay_ids}
        if len(rates) > 1:
            raise ValueError(
                f"trials of one environment must share a frame rate, {options.replays} has {sorted(rates)}"
            )
        self.fps = rates.pop()
        self._sim = make_simulator(options.backend, num_worlds, 1.0 / self.fps, options.num_threads)
        self._recordings = Recordings(self.store)
        self.playback = Playback(num_worlds, self._recordings, self.fps, options.giver)
        self.observer = Observer(num_worlds, options, 1.0 / self.fps)
        self.arm = ArmRobot(num_worlds, 1.0 / self.fps) if options.robot == "ur10e" else None
        self._trace = EpisodeTrace(num_worlds, played=self.playback.moves)
        self._delay = ActionDelay(num_worlds, MAX_LATENCY if options.realtime else options.latency)
        self._own_grasps = OwnGrasps(num_worlds, options.num_threads)
        self._receive = Receive(num_worlds, 1.0 / self.fps)
        self._ways_out = WaysOut(num_worlds, 1.0 / self.fps)
        self._giver_bones = torch.zeros(num_worlds, NUM_GIVER_JOINTS, 7, dtype=torch.float64)
        self.reached = torch.zeros(num_worlds, dtype=torch.bool)
        self._trial = torch.zeros(num_worlds, dtype=torch.long)
        self.running_ids = np.full(num_worlds, None, dtype=object)
        self._goal = torch.zeros(num_worlds, dtype=torch.long)
        self._command_pose = torch.zeros(num_worlds, 7, dtype=torch.float64)
        self._command_joints = torch.zeros(num_worlds, 22, dtype=torch.float64)
        drawn = options.randomisation is not None and options.randomisation.physics
        self._factors = torch.ones(num_worlds, len(PHYSICS), dtype=torch.float64) if drawn else None
        self.time = torch.zeros(num_worlds, dtype=torch.long)
        self.aligning = torch.zeros(num_worlds, dtype=torch.bool)
        self._retreating = torch.zeros(num_worlds, dtype=torch.bool)
        self._stalled = torch.zeros(num_worlds, dtype=torch.long)
        self._given_up = torch.zeros(num_worlds, MAX_GOALS, dtype=torch.bool)
        self.status = torch.full((num_worlds,), EpisodeStatus.RUNNING, dtype=torch.long)
        self.d = torch.full((num_worlds,), torch.inf, dtype=torch.float64)
        self.depth = torch.zeros(num_worlds, dtype=torch.float64)

    @property
    def scene(self) -> SceneState:
        """What the simulator shows now."""
        return self._sim.state if self.arm is None else replace(self._sim.state, arm_joints=self.arm.joints)

    def replay_of(self, world: int) -> Replay:
        """The trial that runs in this world."""
        return self._recordings.replays[int(self._trial[world])]

    def goals_now(self) -> Goals:
        """All goal grasps of every world, for agents that are allowed to look."""
        rec, trial = self._recordings, self._trial
        return Goals(
            pose=rec.goal_pose[trial],
            joints=rec.goal_joints[trial],
            free=rec.goal_free[self.playback.row],
            free_at_end=rec.goal_free[rec.offset[trial] + rec.length[trial] - 1],
            giver_joints=self._giver_bones[..., :3],
            object_index=rec.object_index[trial],
            objects=rec.objects,
        )

    def recorded(self, worlds: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the recordings of worlds (n,) show in frames time (n, F), for agents that are allowed to know: object
        poses (n, F, 7) and the giver's joints (n, F, 16, 3). The last frame lasts."""
        object_pose, giver_bones = self.playback.recorded(worlds, time)
        return object_pose, giver_bones[..., :3]

    def picture(self, renderer: SceneRenderer, world: int, *, window: bool = False) -> np.ndarray | None:
        """Draw one world: (H, W, 3) uint8, or in a window."""
        rec, trial = self._recordings, int(self._trial[world])
        bones = self._giver_bones[world]
        return (renderer.show if window else renderer.draw)(
            self.scene, world, rec.object_of(trial), rec.givers[trial], bones
        )

    def annotate(self, picture: np.ndarray, world: int) -> np.ndarray:
        """A picture (H, W, 3) uint8 of this world with d, phase, penetration and force written into it."""
        status = EpisodeStatus(int(self.status[world]))
        running = Phase(int(self.phase[world])).name.lower()
        return draw_overlay(
            picture,
            frame=int(self.time[world]),
            d=float(self.d[world]),
            start_distance=START_DISTANCE[self.options.mode],
            phase=running if status == EpisodeStatus.RUNNING else status.name.lower().replace("_", " "),
            depth=float(self.depth[world]),
            giver_force=float(self.scene.giver_force[world]),
        )

    def calibration(self, world: int) -> dict[str, Any]:
        """Of every camera whose pictures or clouds this world shows; see `dexh2r_gym.sensing.calibration`."""
        return calibration(self.observer.cameras, self.scene.hand_pose[world])

    def begin(self, worlds: Tensor, replay_ids: Sequence[str], keys: Tensor) -> None:
        """Frame 0 of these trials in these worlds (n,); keys (n,) long name the noise that their sensors will have."""
        rec = self._recordings
        trial = rec.indices(replay_ids)
        numbers = trial.tolist()
        objects, givers = [rec.object_of(i) for i in numbers], [rec.givers[i] for i in numbers]
        hand_pose, joints = split_hand_state(torch.stack([rec.replays[i].hand_start for i in numbers]))
        if self.arm is not None:
            hand_pose = self.arm.begin(worlds, hand_pose, objects, givers)
        if self._factors is not None and self.options.randomisation is not None:
            self._factors[worlds] = draw_factors(self.options.randomisation, keys)
        factors = None if self._factors is None else self._factors[worlds]
        play = self.playback
        play.begin(worlds, trial, keys)
        bodies = play.object_pose[worlds], play.giver_bones[worlds]
        self._sim.reset(worlds, objects, givers, hand_pose, joints, *bodies, factors)
        self.observer.begin(worlds, objects, givers, keys)
        self._trial[worlds], self.time[worlds] = trial, 0
        self.running_ids[worlds.numpy()] = replay_ids
        self.aligning[worlds], self._retreating[worlds] = False, False
        self._stalled[worlds], self._given_up[worlds] = 0, False
        self.status[worlds] = EpisodeStatus.RUNNING
        self._command_pose[worlds], self._command_joints[worlds] = hand_pose, joints
        after = max_frames(self.fps) if self.options.ending == "hold" else 0
        self._trace.start(worlds, play.longest(trial) + after)
        self._receive.forget(worlds)
        self.reached[worlds] = False
        self._giver_bones[worlds] = play.giver_bones[worlds]
        self._own_grasps.begin(worlds)
        self._delay.begin(worlds)
        started = torch.zeros_like(self.aligning)
        started[worlds] = True
        self._look(started)

    def advance(self, action: Tensor, on: Tensor, late: Tensor | None = None) -> Tensor:
        """One frame of the worlds that are on, (B,) bool: command, alignment, simulation, and what came of it.

        action: (B, 28), checked. late: (B,) frames until it arrives, by default the option `latency`.
        Returns the reward, (B,) float64, 0 for worlds that are not on.
        """
        d_before = self.d
        play, dt, limits = self.playback, 1.0 / self.fps, self.options.speed_limits
        late = torch.full_like(self.time, self.options.latency) if late is None else late
        action, told, fresh = self._delay.exchange(action, late, on)
        pose, joints = control.hand_target(
            action, self._command_pose, self._command_joints, self.options.control_mode, limits, dt
        )
        told &= fresh | (self.options.control_mode == "absolute")  # a move is made once, a target holds
        pose = torch.where(told[:, None], pose, self._command_pose)
        joints = torch.where(told[:, None], joints, self._command_joints)
        aligning = self.aligning & on & ~self.reached
        if aligning.any():
            w = aligning.nonzero().squeeze(1)
            pose[w], joints[w] = self._align(w)
        receiving = self._receive.phase > 0
        if (r := (receiving & on).nonzero().squeeze(1)).numel():
            pose[r], joints[r] = self._receive.command(r, self.scene)
        if self.arm is not None:
            pose = self.arm.follow(pose, on)
        self._command_pose = torch.where(on[:, None], pose, self._command_pose)
        self._command_joints = torch.where(on[:, None], joints, self._command_joints)
        self.time = torch.where(on, self.time + 1, self.time)
        force = torch.where(receiving, 0.0, self.scene.giver_force)  # that of taking over is expected
        play.advance(on, force, self.scene.hand_pose[:, :3])
        self._move_givers(on)
        held = self._receive.held
        self._sim.step(self._command_pose, self._command_joints, play.object_pose, self._giver_bones, on, held)
        self._look(on)
        reached = on & self.reached & ~receiving
        kept = on & (self._receive.outcome == Outcome.HELD)
        if self.options.reward_mode == "sparse":
            return rewards.sparse(kept if self.options.ending == "hold" else reached)
        force = self.scene.giver_force
        reward = rewards.dense(d_before, self.d, reached, self.depth, force)
        reward = torch.where(receiving, rewards.dense_handover(kept, force), reward)
        return torch.where(on, reward, 0.0)

    def _move_givers(self, on: Tensor) -> None:
        """Givers where the recording has them, or on their way out."""
        self._giver_bones = torch.where(on[:, None, None], self.playback.giver_bones, self._giver_bones)
        self._ways_out.follow(on & ~self._receive.held, self._receive.since_release, self._giver_bones)

    def _align(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The next command of goal pose alignment in worlds w (n,), with its collision check (section 4.3).

        The object is expected where it would go next, "assuming motion is linear in a short time" (section 4.3).
        """
        rec, scene, trial = self._recordings, self.scene, self._trial[w]
        pose, joints = self._command_pose[w], self._command_joints[w]
        ahead = pose_integrate(scene.object_pose[w], scene.object_velocity[w], 1.0 / self.fps)
        goal = pose_multiply(ahead, rec.goal_pose[trial, self._goal[w]])
        goal_joints = rec.goal_joints[trial, self._goal[w]]
        candidates = alignment_candidates(pose, joints, goal, goal_joints, self.options.speed_limits, 1.0 / self.fps)
        limit, index = self.depth[w].clamp_min(ALIGNMENT_DEPTH), rec.object_index[trial]
        choice = torch.full_like(w, len(candidates) - 1)  # which leads away from the object and needs no check
        open_ = torch.arange(len(w))  # worlds that have found no clear step yet
        for number, candidate in enumerate(candidates[:-1]):
            state = join_hand_state(*candidate)[open_]
            depth = hand_object_depth(state, ahead[open_], index[open_], rec.objects, exact=False)
            clear = depth <= limit[open_]
            choice[open_[clear]], open_ = number, open_[~clear]
        blocked = choice == len(candidates) - 1
        ready = arrived(pose, joints, behind_goal(goal), OPEN_HAND.expand_as(joints))
        # a goal that is blocked even from behind it, or held off by contact once there, is given up for this episode
        self._stalled[w] = (self._stalled[w] + 1) * arrived(pose, joints, goal, goal_joints)
        give_up = (ready & blocked) | (self._stalled[w] > STALL_FRAMES)
        self._given_up[w[give_up], self._goal[w[give_up]]] = True
        retreating = give_up | blocked | (self._retreating[w] & ~ready)
        self._retreating[w] = retreating
        choice[retreating] = len(candidates) - 1
        rows = torch.arange(len(w))
        poses, closings = (torch.stack(parts) for parts in zip(*candidates, strict=True))
        return poses[choice, rows], closings[choice, rows]

    @property
    def phase(self) -> Tensor:
        """What each world is at, (B,) `Phase`."""
        return torch.where(self._receive.phase > 0, self._receive.phase, self.aligning.long())

    def _look(self, on: Tensor) -> None:
        """Goals, d, depth and status of the worlds that moved, and their frame of the trace."""
        self.observer.move(on)
        w = on.nonzero().squeeze(1)
        receiving = self._receive.phase[w] > 0
        rec, scene, trial, play, aligning = (
            self._recordings,
            self.scene,
            self._trial[w],
            self.playback,
            self.aligning[w],
        )
        hand_pose, object_pose = scene.hand_pose[w], scene.object_pose[w]
        if self.arm is not None:
            self.arm.look(w, object_pose, self._giver_bones[w])
        hand_in_object = pose_multiply(pose_inverse(object_pose), hand_pose)
        free = rec.goal_free[play.row[w]]
        free = free & ~self._given_up[w, : free.shape[1]]
        goal, d = nearest_goal(hand_in_object, rec.goal_pose[trial], free)
        hand_state = join_hand_state(hand_pose, scene.hand_joints[w])
        depth = hand_object_depth(hand_state, object_pose, rec.object_index[trial], rec.objects)
        reached = d < REACHED_DISTANCE
        if self.options.alignment == "env":
            # alignment has not ended before the fingers were told to close
            open_by = (rec.goal_joints[trial, goal] - self._command_joints[w]).abs().amax(dim=-1)
            reached &= aligning & (open_by < CLOSED_ANGLE)
        elif (own := ~receiving).any():
            reached[own] |= self._own_grasp(w[own], hand_in_object[own], depth[own])
        timeout = torch.where(aligning, EpisodeStatus.TIMEOUT_ALIGNMENT, EpisodeStatus.TIMEOUT_APPROACH)
        status = torch.where(play.ended[w], timeout, EpisodeStatus.RUNNING)
        status = torch.where(reached, EpisodeStatus.REACHED, status)
        status = torch.where(scene.diverged[w], EpisodeStatus.DIVERGED, status)
        touch = {name: getattr(scene, name)[w] for name in TOUCHED}
        phase = self.phase[w]
        if play.moves:
            touch |= {"giver_bones": self._giver_bones[w], "recording_frame": play.frame[w]}
        self._trace.append(w, hand_state=hand_state, object_pose=object_pose, d=d, depth=depth, phase=phase, **touch)
        status = torch.where(receiving, EpisodeStatus.RUNNING, status)
        self.reached[w] |= reached & (status == EpisodeStatus.REACHED)
        self._trace.approach_frames[w] = torch.where(receiving, self._trace.approach_frames[w], self._trace.length[w])
        if receiving.any():
            self._take_over(w[receiving])
            status = torch.where(receiving & self._receive.over[w], EpisodeStatus.REACHED, status)
        begins = ~receiving & (status == EpisodeStatus.REACHED)
        if self.options.ending == "hold" and begins.any():
            self._begin_to_receive(w[begins], goal[begins])
            status[begins] = EpisodeStatus.RUNNING
        # a new tensor each: what was handed out before stays as it was
        self._goal = self._goal.index_put((w,), goal)
        self.d, self.depth = self.d.index_put((w,), d), self.depth.index_put((w,), depth)
        self.status = self.status.index_put((w,), status)
        if self.options.alignment == "env":
            begins = w[
                ~aligning & ~receiving & (d < START_DISTANCE[self.options.mode]) & (status == EpisodeStatus.RUNNING)
            ]
            self.aligning[begins] = True
            self._trace.alignment_begin[begins] = self.time[begins] + 1

    def _begin_to_receive(self, w: Tensor, goal: Tensor) -> None:
        """The hands of worlds w (n,) have reached a grasp: goals (n,) of the pool, if the environment aligned them."""
        rec, trial, object_pose = self._recordings, self._trial[w], self.scene.object_pose[w]
        command = self._command_pose[w], self._command_joints[w]
        grasp = rec.goal_pose[trial, goal], rec.goal_joints[trial, goal]
        if self.options.alignment == "none":
            grasp = pose_multiply(pose_inverse(object_pose), command[0]), command[1]
        index, late = rec.object_index[trial], (self.playback.release_shift[w] * self.fps).round().long()
        self._receive.begin(w, command, grasp, object_pose, rec.objects, index, late)
        if self._factors is not None:
            self._receive.weigh(w, self._factors[w, PHYSICS.index("mass")])
        self._sim.grip(w)

    def _take_over(self, w: Tensor) -> None:
        """What the frame brought in worlds w (n,) whose hands are about to receive the object."""
        let_go = self._receive.look(w, self.scene, self._command_pose[w], self.time[w])
        for world in let_go.tolist():
            trial = int(self._trial[world])
            obj, giver = self._recordings.object_of(trial), self._recordings.givers[trial]
            self._ways_out.begin(world, giver, self._giver_bones[world], self.scene, obj)

    def _own_grasp(self, w: Tensor, hand_in_object: Tensor, depth: Tensor) -> Tensor:
        """Whether the hands of worlds w (n,) hold the object, in a grasp of the pool or not, (n,) bool."""
        rec, trial, from_world = self._recordings, self._trial[w], pose_inverse(self.scene.object_pose[w])
        hands = Hands(
            pose=hand_in_object,
            joints=self.scene.hand_joints[w],
            told_pose=pose_multiply(from_world, self._command_pose[w]),
            told_joints=self._command_joints[w],
            depth=depth,
            giver_bones=pose_multiply(from_world[:, None], self._giver_bones[w]),
        )
        givers = [rec.givers[i] for i in trial.tolist()]
        return self._own_grasps.hold(w, hands, rec.object_index[trial], rec.objects, givers)

    # what goes out

    def observation(self) -> Any:
        """What the agents see, batched; see `dexh2r_gym.envs.observations`."""
        rec, trial = self._recordings, self._trial
        return self.observer.observe(
            Frame(
                scene=self.scene,
                giver_bones=self._giver_bones,
                goal_pose=rec.goal_pose[trial, self._goal],
                goal_joints=rec.goal_joints[trial, self._goal],
                d=self.d,
                aligning=self.aligning,
                progress=self.playback.progress,
                time=self.time,
            )
        )

    def metrics(self, worlds: Tensor) -> dict[str, Tensor]:
        """Scores of the finished episodes of worlds (n,): `dexh2r_gym.metrics`, max_giver_force (N), end_frame, with
        physics `dexh2r_gym.safety`, with ending "hold" `Receive.results`."""
        trace, length = self._trace, self._trace.approach_frames[worlds]
        longest = int(length.max())
        released = None
        if self.options.released_metrics:
            released = torch.zeros(len(worlds), longest, dtype=torch.float64)
            for i, (world, t) in enumerate(zip(worlds.tolist(), length.tolist(), strict=True)):
                states, poses = trace.hand_state[world, :t], trace.object_pose[world, :t]
                released[i, :t] = released_depth(states, poses, self._recordings.object_of(int(self._trial[world])))
        scores = approach_metrics(
            depth=trace.depth[worlds, :longest],
            palm=trace.hand_state[worlds, :longest, :3],
            length=length,
            reached=self.reached[worlds],
            alignment_begin=trace.alignment_begin[worlds],
            released_depth=released,
        )
        whole = trace.length[worlds]
        last = int(whole.max())
        force = torch.where(torch.arange(last) < whole[:, None], trace.giver_force[worlds, :last], 0.0)
        scores |= {"max_giver_force": force.amax(dim=1), "end_frame": length - 1}
        if self.options.backend in PHYSICAL:
            peak, impulse, speed = (getattr(trace, name)[worlds, :last] for name in TOUCHED[1:4])
            scores |= safety_metrics(peak, impulse, speed, whole, 1.0 / self.fps)
        if self.options.ending == "hold":
            scores |= self._receive.results(worlds)
        return scores | self._circumstances(worlds)

    def _circumstances(self, worlds: Tensor) -> dict[str, Tensor]:
        """What the randomisation drew and the arm could not do, where there are such, in worlds (n,): (n,) each."""
        found = {} if self.arm is None else self.arm.summary(worlds)
        if self._factors is not None:
            found |= {f"{name}_factor": self._factors[worlds, i] for i, name in enumerate(PHYSICS)}
        return found

    def record(self, world: int) -> dict[str, Any]:
        """All that is needed to score the last episode of this world again, as numpy arrays and plain values."""
        replay, trace, length = self.replay_of(world), self._trace, int(self._trace.length[world])
        frames = {name: getattr(trace, name)[world, :length].numpy().copy() for name, _ in trace.SIZES}
        record = frames | {
            "replay": replay.id,
            "object": replay.object,
            "subject": replay.subject,
            "kind": replay.kind,
            "mode": self.options.mode,
            "fps": self.fps,
            "status": EpisodeStatus(int(self.status[world])).name,
            "frames": length,
            "alignment_begin": int(trace.alignment_begin[world]),
            **{name: float(value) for name, value in self._circumstances(torch.tensor([world])).items()},
            **({} if self.arm is None else {"arm_reason": self.arm.reason(world)}),
            "approach_frames": int(trace.approach_frames[world]),
            "giver_bones": self._bones_of(world, length),
            **(
                {"recording_frame": trace.recording_frame[world, :length].long().numpy()} if self.playback.moves else {}
            ),
            **self._receive.record(world),
        }
        decided, reason = verdict(record)
        return record | {"decided_frame": decided, "reason": reason}

    def _bones_of(self, world: int, length: int) -> np.ndarray:
        """Where the giver's bones were in the frames of the last episode, (length, 16, 7) float32."""
        if self.playback.moves:
            return self._trace.giver_bones[world, :length].float().numpy()
        rec, trial, release = self._recordings, int(self._trial[world]), int(self._receive.release_frame[world])
        rows = torch.arange(length).clamp_max(int(rec.length[trial]) - 1)
        bones = rec.giver_bones[int(rec.offset[trial]) + rows]
        if release >= 0:
            bones[release + 1 :] = self._ways_out.of(world, torch.arange(length - release - 1))
        return bones.float().numpy()
