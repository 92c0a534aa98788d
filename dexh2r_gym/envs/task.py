"""The handover task for B worlds: what a frame brings, put together from the files beside this one; everything but
Gymnasium's conventions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.alignment import REACHED_DISTANCE, START_DISTANCE
from dexh2r_gym.arm.robot import ArmRobot
from dexh2r_gym.depth import HAND_CENTER, HAND_REACH, hand_object_depth
from dexh2r_gym.depth_blind import hand_object_depth_blind
from dexh2r_gym.envs import rewards
from dexh2r_gym.envs.aligner import Aligner
from dexh2r_gym.envs.commands import Commands
from dexh2r_gym.envs.giver_behaviour import OFFSET_CUT
from dexh2r_gym.envs.giver_hands import GiverHands
from dexh2r_gym.envs.goals import Goals, goals_of
from dexh2r_gym.envs.observer import Frame, Observer
from dexh2r_gym.envs.options import HandoverOptions
from dexh2r_gym.envs.own_grasp import OwnGrasps, hands_in_object
from dexh2r_gym.envs.playback import Playback
from dexh2r_gym.envs.receive import Outcome, Phase, Receive, max_frames
from dexh2r_gym.envs.recordings import Recordings, open_split
from dexh2r_gym.envs.scores import approach_scores, episode_record, touch_scores
from dexh2r_gym.envs.tally import Tally
from dexh2r_gym.envs.trace import EpisodeTrace
from dexh2r_gym.overlay import draw_overlay
from dexh2r_gym.render import SceneRenderer
from dexh2r_gym.replay import Replay
from dexh2r_gym.rotations import pose_inverse, pose_multiply
from dexh2r_gym.sim import PHYSICAL, make_simulator
from dexh2r_gym.sim.randomise import PHYSICS, draw_factors
from dexh2r_gym.types import EpisodeStatus, SceneState, join_hand_state
from dexh2r_gym.worlds import among, chosen, mask_of, put, put_both, surely_none, take


class HandoverTask:
    """Runs episodes in B worlds. A world runs from `begin` until its `status` is no longer RUNNING.

    Attributes:
        status: (B,) `EpisodeStatus`. reached: (B,) bool, a grasp has been. phase: (B,) `Phase`.
        d: (B,) metres to the nearest free goal, inf where none is. depth: (B,) metres, hand in object, mesh-exact.
        time: (B,) frame of the episode. playback: where object and giver are. arm: what carries the hand, None where it
        floats. running_ids: (B,) the trial of each world. replay_ids: the trials of the split. fps: frames a second.
        observer: what agents are shown.
    """

    def __init__(self, num_worlds: int, options: HandoverOptions):
        self.options = options
        self.store, self.replay_ids, self.fps = open_split(options.replays, options.split)
        grips = options.ending == "hold"
        dt, self.device = 1.0 / self.fps, options.place
        self._sim = make_simulator(options.backend, num_worlds, dt, options.num_threads, self.device, grips=grips)
        self._recordings = Recordings(self.store, self.device)
        self.playback = Playback(num_worlds, self._recordings, self.fps, options.giver)
        self.observer = Observer(num_worlds, options, dt)
        self.arm = ArmRobot(num_worlds, dt) if options.robot == "ur10e" else None
        self._trace = EpisodeTrace(0 if options.blindly else num_worlds, self.device, played=self.playback.moves)
        self._tally = Tally(num_worlds, self.device)  # instead of the trace, blindly
        self._measure = hand_object_depth_blind if options.blindly else hand_object_depth
        self._told = Commands(num_worlds, dt, options)
        self._aligner = Aligner(num_worlds, dt, options.speed_limits, self._measure, self.device)
        self._own_grasps = OwnGrasps(num_worlds, options.num_threads)
        self._receive = Receive(num_worlds, dt, self.device)
        self._givers = GiverHands(num_worlds, dt, self.device)
        zero = torch.zeros(num_worlds, dtype=torch.float64, device=self.device)
        drawn = options.randomisation is not None and options.randomisation.physics
        self._factors = zero.new_ones(num_worlds, len(PHYSICS)) if drawn else None
        if options.backend == "isaacgym":  # to take in more objects it has to be started anew
            self.load(self.replay_ids)
        self._trial, self.time, self.status = zero.long(), zero.long(), zero.long() + EpisodeStatus.RUNNING
        self.running_ids = np.full(num_worlds, None, dtype=object)
        self.reached = zero.bool()
        self.d, self.depth = zero + torch.inf, zero

    @property
    def scene(self) -> SceneState:
        """What the simulator shows now."""
        return self._sim.state if self.arm is None else replace(self._sim.state, arm_joints=self.arm.joints)

    def replay_of(self, world: int) -> Replay:
        """The trial that runs in this world."""
        return self._recordings.replays[int(self._trial[world])]

    def goals_now(self) -> Goals:
        """All goal grasps of every world, for agents that are allowed to look."""
        return goals_of(self._recordings, self._trial, self.playback.row, self._givers.bones)

    def recorded(self, worlds: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the recordings of worlds (n,) show in frames time (n, F), for agents that are allowed to know: object
        poses (n, F, 7) and the giver's joints (n, F, 16, 3). The last frame lasts."""
        object_pose, giver_bones = self.playback.recorded(worlds, time)
        return object_pose, giver_bones[..., :3]

    def picture(self, renderer: SceneRenderer, world: int, *, window: bool = False) -> np.ndarray | None:
        """Draw one world: (H, W, 3) uint8, or in a window."""
        rec, trial = self._recordings, int(self._trial[world])
        draw = renderer.show if window else renderer.draw
        scene, bones = self.scene.to("cpu"), self._givers.bones[world].cpu()
        return draw(scene, world, rec.object_of(trial), rec.givers[trial], bones)

    def annotate(self, picture: np.ndarray, world: int) -> np.ndarray:
        """A picture (H, W, 3) uint8 of this world with d, phase, penetration and force written into it."""
        status, outcome = EpisodeStatus(int(self.status[world])), Outcome(int(self._receive.outcome[world]))
        over = outcome if self._receive.over[world] else status
        shown = Phase(int(self.phase[world])) if status == EpisodeStatus.RUNNING else over
        return draw_overlay(
            picture,
            frame=int(self.time[world]),
            d=float(self.d[world]),
            start_distance=START_DISTANCE[self.options.mode],
            phase=shown.name.lower().replace("_", " "),
            depth=float(self.depth[world]),
            giver_force=float(self.scene.giver_force[world]),
        )

    def load(self, replay_ids: Sequence[str]) -> Tensor:
        """The numbers of these trials, (n,) long, which are read if they have not been."""
        rec = self._recordings
        known = len(rec.replays)
        trial = rec.indices(replay_ids)
        pairs = [(rec.object_of(i), rec.givers[i]) for i in range(known, len(rec.replays))]
        self._sim.prepare(pairs)
        self.observer.prepare(pairs)
        return trial

    @cached_property
    def _starts_clear(self) -> bool:
        """Whether in no trial loaded the hand can be in the object in the first frame, whatever the giver does."""
        rec, giver = self._recordings, self.options.giver
        away = 3**0.5 * OFFSET_CUT * giver.pose_offset if giver else 0.0
        radius = rec.hand_pose.new_tensor([obj.radius for obj in rec.objects.objects])[rec.object_index]
        apart = (rec.hand_pose[:, :3] - rec.object_pose[rec.offset, :3]).norm(dim=-1) - radius - away
        return bool((apart > HAND_REACH + HAND_CENTER[2]).all())

    def begin(self, worlds: Tensor, trial: Tensor, keys: Tensor) -> None:
        """Frame 0 of trials (n,) in these worlds; keys (n,) long name the noise that their sensors will have."""
        rec, play = self._recordings, self.playback
        hand_pose, joints = rec.hand_pose[trial], rec.hand_joints[trial]
        if self.arm is not None:
            pairs = [(rec.object_of(i), rec.givers[i]) for i in trial.tolist()]
            hand_pose = self.arm.begin(worlds, hand_pose, *zip(*pairs, strict=True))
        if self._factors is not None and self.options.randomisation is not None:
            self._factors = put(self._factors, worlds, draw_factors(self.options.randomisation, keys))
        factors = None if self._factors is None else take(self._factors, worlds)
        play.begin(worlds, trial, keys)
        object_pose, giver_bones = take(play.object_pose, worlds), take(play.giver_bones, worlds)
        self._sim.reset(worlds, trial, hand_pose, joints, object_pose, giver_bones, factors)
        self.observer.begin(worlds, trial, keys)
        self._trial, self.time = put(self._trial, worlds, trial), put(self.time, worlds, 0)
        self.status = put(self.status, worlds, EpisodeStatus.RUNNING)
        if self.options.blindly:
            self._tally.start(worlds)
        else:
            self.running_ids[worlds.cpu().numpy()] = [rec.replays[i].id for i in trial.tolist()]
            after = max_frames(self.fps) if self._holds else 0
            self._trace.start(worlds, play.longest(trial) + after)
            self._own_grasps.begin(worlds.cpu())
            self._receive.forget(worlds)
        self._told.begin(worlds, hand_pose, joints)
        self._aligner.forget(worlds)
        self._givers.begin(worlds, giver_bones)
        self.reached = put(self.reached, worlds, False)
        clear = torch.zeros_like(self.depth) if self.options.blindly and self._starts_clear else None
        self._look(worlds, depth=clear)

    def advance(self, action: Tensor, on: Tensor, late: Tensor | None = None) -> Tensor:
        """One frame of the worlds that are on, (B,) bool: command, alignment, simulation, and what came of it.

        action: (B, 28); a world whose action is not finite diverges. late: (B,) frames until it arrives, by default the
        option `latency`.
        Returns the reward, (B,) float64, 0 for worlds that are not on.
        """
        d_before, play, receive = self.d, self.playback, self._receive
        receiving = receive.phase > 0
        finite = action.isfinite().all(dim=-1)
        pose, joints = self._told.asked(action, late, on & finite)
        if not surely_none(w := self._chosen(self._aligner.under_way & on & ~self.reached)):
            pose, joints = put_both((pose, joints), w, self._align(w))
        if self._holds and not surely_none(w := self._chosen(receiving & on)):
            pose, joints = put_both((pose, joints), w, receive.command(w, self.scene))
        if self.arm is not None:
            pose = self.arm.follow(pose, on)
        self._told.tell(pose, joints, on)
        self.time = torch.where(on, self.time + 1, self.time)
        force = torch.where(receiving, 0.0, self.scene.giver_force)  # that of taking over is expected
        play.advance(on, force, self.scene.hand_pose[:, :3])
        self._givers.move(on, play.giver_bones, receive.held, receive.since_release)
        self._sim.step(self._told.pose, self._told.joints, play.object_pose, self._givers.bones, on, receive.held)
        self._look(self._chosen(on), lost=~finite)
        reached = on & self.reached & ~receiving
        kept = on & (receive.outcome == Outcome.HELD)
        if self.options.reward_mode == "sparse":
            return rewards.sparse(kept if self.options.ending == "hold" else reached)
        force = self.scene.giver_force
        reward = rewards.dense(d_before, self.d, reached, self.depth, force)
        return torch.where(on, torch.where(receiving, rewards.dense_handover(kept, force), reward), 0.0)

    def _align(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The next command of goal pose alignment in worlds w (n,): palm (n, 7), world, and joints (n, 22)."""
        rec, index = self._recordings, self._recordings.object_index[take(self._trial, w)]
        depth = take(self.depth, w)
        return self._aligner.command(w, self._told.of(w), self._goal(w), self.scene, depth, rec.objects, index)

    def _goal(self, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The nearest free goals of worlds w, by default all: palm (n, 7), object frame, and joints (n, 22)."""
        trial, goal = (x if w is None else take(x, w) for x in (self._trial, self._aligner.goal))
        return self._recordings.goal_pose[trial, goal], self._recordings.goal_joints[trial, goal]

    def _chosen(self, mask: Tensor) -> Tensor:
        """The worlds of a mask (B,) bool, see `dexh2r_gym.worlds`."""
        return chosen(mask, blindly=self.options.blindly)

    @property
    def _holds(self) -> bool:
        return self.options.ending == "hold"

    @property
    def phase(self) -> Tensor:
        """What each world is at, (B,) `Phase`."""
        return torch.where(self._receive.phase > 0, self._receive.phase, self._aligner.under_way.long())

    def _look(self, w: Tensor, *, depth: Tensor | None = None, lost: Tensor | None = None) -> None:
        """Goals, d, depth and status of the worlds that moved, and their frame of the trace.

        depth: (n,) where it is known. lost: (B,) bool, worlds that cannot go on.
        """
        self.observer.move(mask_of(w, len(self.d)))
        receiving, aligning = take(self._receive.phase, w) > 0, take(self._aligner.under_way, w)
        rec, scene, trial, play = self._recordings, self.scene, take(self._trial, w), self.playback
        hand_pose, object_pose = take(scene.hand_pose, w), take(scene.object_pose, w)
        bones = take(self._givers.bones, w)
        if self.arm is not None:
            self.arm.look(w, object_pose, bones)
        hand_in_object = pose_multiply(pose_inverse(object_pose), hand_pose)
        d = self._aligner.look(w, hand_in_object, rec.goal_pose[trial], rec.goal_free[take(play.row, w)])
        hand_state = join_hand_state(hand_pose, take(scene.hand_joints, w))
        if depth is None:
            depth = self._measure(hand_state, object_pose, rec.object_index[trial], rec.objects)
        if self.options.alignment == "env":
            reached = self._aligner.reached(w, d, take(self._told.joints, w), self._goal(w)[1])
        else:
            reached = d < REACHED_DISTANCE
            if (own := ~receiving).any():
                reached[own] |= self._own_grasp(w[own], depth[own])
        timeout = torch.where(aligning, EpisodeStatus.TIMEOUT_ALIGNMENT, EpisodeStatus.TIMEOUT_APPROACH)
        status = torch.where(take(play.ended, w), timeout, EpisodeStatus.RUNNING)
        status = torch.where(reached, EpisodeStatus.REACHED, status)
        diverged = scene.diverged if lost is None else scene.diverged | lost
        status = torch.where(take(diverged, w), EpisodeStatus.DIVERGED, status)
        if self.options.blindly:
            self._tally.add(w, scene, depth)
        else:
            played = {"giver_bones": bones, "recording_frame": take(play.frame, w)} if play.moves else {}
            played |= {"hand_state": hand_state, "object_pose": object_pose, "d": d, "depth": depth}
            self._trace.append(w, receiving, scene, phase=self.phase[w], **played)
        status = torch.where(receiving, EpisodeStatus.RUNNING, status)
        self.reached = put(self.reached, w, take(self.reached, w) | (reached & (status == EpisodeStatus.REACHED)))
        if self._holds and receiving.any():
            self._take_over(w[receiving])
            status = torch.where(receiving & self._receive.over[w], EpisodeStatus.REACHED, status)
        begins = ~receiving & (status == EpisodeStatus.REACHED)
        if self._holds and begins.any():
            self._begin_to_receive(w[begins])
            status[begins] = EpisodeStatus.RUNNING
        self.d, self.depth, self.status = put(self.d, w, d), put(self.depth, w, depth), put(self.status, w, status)
        if self.options.alignment == "env":
            near = d < START_DISTANCE[self.options.mode]
            begins = among(w, near & ~aligning & ~receiving & (status == EpisodeStatus.RUNNING))
            self._aligner.begin(begins)
            if not self.options.blindly:
                self._trace.alignment_begin[begins] = self.time[begins] + 1

    def _begin_to_receive(self, w: Tensor) -> None:
        """The hands of worlds w (n,) have reached a grasp: their goal, if the environment aligned them."""
        rec, trial, object_pose = self._recordings, self._trial[w], self.scene.object_pose[w]
        command, grasp = self._told.of(w), self._goal(w)
        if self.options.alignment == "none":  # as it stands, which contact may have made another than it was told
            grasp = pose_multiply(pose_inverse(object_pose), self.scene.hand_pose[w]), self.scene.hand_joints[w]
        index, late = rec.object_index[trial], (self.playback.release_shift[w] * self.fps).round().long()
        self._receive.begin(w, command, grasp, object_pose, rec.objects, index, late)
        if self._factors is not None:
            self._receive.weigh(w, self._factors[w, PHYSICS.index("mass")])
        self._sim.grip(w)

    def _take_over(self, w: Tensor) -> None:
        """What the frame brought in worlds w (n,) whose hands are about to receive the object."""
        let_go = self._receive.look(w, self.scene, self._told.pose[w], self.time[w])
        for world in let_go.tolist():
            trial = int(self._trial[world])
            obj, giver = self._recordings.object_of(trial), self._recordings.givers[trial]
            self._givers.let_go(world, giver, self.scene, obj)

    def _own_grasp(self, w: Tensor, depth: Tensor) -> Tensor:
        """Whether the hands of worlds w (n,) hold the object, in a grasp of the pool or not, (n,) bool."""
        rec, trial = self._recordings, self._trial[w]
        told, bones = self._told.of(w), self._givers.bones[w]
        w, depth, bones, index = (x.cpu() for x in (w, depth, bones, rec.object_index[trial]))  # tested on the CPU
        hands = hands_in_object(w, self.scene.to("cpu"), (told[0].cpu(), told[1].cpu()), depth, bones)
        givers = [rec.givers[i] for i in trial.tolist()]
        return self._own_grasps.hold(w, hands, index, rec.objects.to("cpu"), givers).to(self.device)

    def close(self) -> None:
        """Free what sensors and simulator hold outside of Python."""
        self.observer.close()
        self._sim.close()

    # what goes out

    def observation(self) -> Any:
        """What the agents see, batched; see `dexh2r_gym.envs.observations`."""
        goal_pose, goal_joints = self._goal()
        return self.observer.observe(
            Frame(
                scene=self.scene,
                giver_bones=self._givers.bones,
                goal_pose=goal_pose,
                goal_joints=goal_joints,
                d=self.d,
                aligning=self._aligner.under_way,
                progress=self.playback.progress,
                time=self.time,
            )
        )

    def metrics(self, worlds: Tensor) -> dict[str, Tensor]:
        """Scores of the finished episodes of worlds (n,): `dexh2r_gym.metrics`, max_giver_force (N), end_frame, with
        physics `dexh2r_gym.safety`, with ending "hold" `Receive.results`."""
        objects = None
        if self.options.released_metrics:
            objects = [self._recordings.object_of(i) for i in self._trial[worlds].tolist()]
        scores = approach_scores(self._trace, worlds, self.reached[worlds], objects)
        physical = self.options.backend in PHYSICAL
        scores |= touch_scores(self._trace, worlds, 1.0 / self.fps, physical=physical)
        if self.options.ending == "hold":
            scores |= self._receive.results(worlds)
        return scores | self._circumstances(worlds)

    def scores(self) -> dict[str, Tensor]:
        """The same of all B worlds, of their episodes as far as they have come, where nothing is read (`Tally`)."""
        scores = self._tally.scores(self.reached, 1.0 / self.fps, physical=self.options.backend in PHYSICAL)
        if self._factors is not None:
            scores |= {f"{name}_factor": self._factors[:, i] for i, name in enumerate(PHYSICS)}
        return scores

    def _circumstances(self, worlds: Tensor) -> dict[str, Tensor]:
        """What the randomisation drew and the arm could not do, where there are such, in worlds (n,): (n,) each."""
        found = {} if self.arm is None else self.arm.summary(worlds)
        if self._factors is not None:
            found |= {f"{name}_factor": self._factors[worlds, i] for i, name in enumerate(PHYSICS)}
        return found

    def record(self, world: int) -> dict[str, Any]:
        """All that is needed to score the last episode of this world again; see `dexh2r_gym.envs.scores`."""
        if self.options.blindly:
            raise RuntimeError("frames of episodes are kept with output='numpy' only")
        results: dict[str, float | str] = {
            name: float(value) for name, value in self._circumstances(torch.tensor([world], device=self.device)).items()
        }
        if self.arm is not None:
            results["arm_reason"] = self.arm.reason(world)
        return episode_record(
            self._trace,
            world,
            self.replay_of(world),
            self._past_bones(world),
            mode=self.options.mode,
            fps=self.fps,
            status=EpisodeStatus(int(self.status[world])),
            results=results | self._receive.record(world),
        )

    def _past_bones(self, world: int) -> Tensor:
        """Where the giver's bones were in the frames of the last episode, (frames, 16, 7)."""
        length, trial = int(self._trace.length[world]), int(self._trial[world])
        if self._trace.played:
            return self._trace.giver_bones[world, :length]
        recorded = self._recordings.bones_of(trial)
        return self._givers.past(world, length, recorded, int(self._receive.release_frame[world]))
