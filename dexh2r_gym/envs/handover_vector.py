"""The handover task as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dexh2r_gym.envs import control
from dexh2r_gym.envs.infos import calibration_info, final_info, masked, step_info
from dexh2r_gym.envs.latency import Stopwatch, Thinking, frames_late
from dexh2r_gym.envs.memory import check_memory
from dexh2r_gym.envs.options import make_options
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.render import SceneRenderer
from dexh2r_gym.types import EpisodeStatus

_RESET_OPTIONS = ("replay", "reset_mask", "calibration")
_NOISE = 1  # tells the generators of noise from those that draw trials


class HandoverVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """## Description
    A human giver holds an object and moves it freely; a ShadowHand (E3M5, right) must take it (DexH2R, ICCV 2025).
    Giver and object replay a recorded trial, one recorded frame a step. The agent brings the hand near one of the
    object's goal grasps; once the palm is closer than U to the nearest goal that the giver's hand leaves free, the
    environment itself carries out the paper's goal pose alignment (section 4.3), so that every agent is scored as
    in the paper.

    ## Action space
    `Box(28,)` float32, the hand to be reached in the next frame. Palm frame `rh_palm`: fingers +z, palm's inner
    side -y.

    | index | absolute (default) | range | delta |
    |---|---|---|---|
    | 0-2 | palm position, world, m | x -1.5..0.6, y -1..1, z 0.2..1.8 | -1..1 of the greatest move a frame, per axis |
    | 3-5 | palm rotation, axis-angle, rad | -pi..pi | -1..1 of the greatest turn a frame, world axes |
    | 6-27 | 22 finger joints, rad, order of `hand.JOINT_NAMES` | the joints' | -1..1 of the greatest change |

    An absolute target further away than `speed_limits` allow is approached at that speed. While alignment is under
    way actions are ignored.

    `latency` lets each action take effect so many frames late; until the first arrives the hand holds its command, and
    what the environment does by itself is not late. `realtime=True` takes for it the wall time from the return of
    `reset` or `step` until `step` is called, rounded up to frames (at least 1, at most 90): giver and object go on
    while the policy thinks. Thoughts overlap, as if each had a processor of its own; an action that arrives after a
    newer one is dropped. An absolute target holds until the next one arrives, a delta moves the hand once. What is
    measured cannot be reproduced, and means something where the policy sees what it would see on a robot; the time in
    which the environment makes its observations and pictures does not count.

    With `robot="ur10e"` the hand is carried by an arm: where the palm is told to go the arm goes by inverse
    kinematics, as far as its reach, its joints' ranges and speeds and its own body let it, alignment included, and an
    absolute target is approached from where the arm is. Its dynamics are not modelled, and its links act on nothing;
    see `dexh2r_gym.arm.robot`.

    ## Observation space
    `obs_mode="state"`: `Box(148,)` float32, these parts one after another; `"state_dict"`: a `Dict` of them. Several
    modes joined by `+`, such as `"point_cloud+state"`, give a `Dict` of all their keys, the flat state as `state`.

    | part | size | meaning |
    |---|---|---|
    | agent_pos | 28 | hand state: palm position (m), palm rotation (axis-angle, rad), joints (rad) |
    | agent_vel | 28 | palm linear (m/s) and angular velocity (rad/s), world frame; joint velocities (rad/s) |
    | object_pose | 7 | position (m), quaternion w x y z |
    | object_vel | 6 | linear (m/s), angular (rad/s), world frame |
    | giver_joints | 48 | positions of the giver's 16 hand joints in MANO's order (m) |
    | goal_state | 28 | hand state of the nearest free goal grasp, carried along with the object |
    | goal_distance | 1 | d, distance of palm and goal palm (m); 10 where no goal is free |
    | phase | 2 | 1 while alignment is under way, part of the recording that has passed |

    | mode | keys of its `Dict` |
    |---|---|
    | point_cloud | `point_cloud` (num_points, 3) float32, metres, world; `agent_pos` (28,) as above |
    | rgbd | `image` (H, W, 3) uint8, `depth` (H, W) float32 metres along the camera's axis, `agent_pos` |

    A cloud is what the cameras `cloud_cameras` see of the object together, occluded by itself and by both hands, with
    a depth sensor's noise (`cloud="observed"`), or points spread evenly over all of its surface (`"clean"`). Where
    fewer points are seen than asked for, they are repeated; where none is, the cloud is zero, and `points_seen` in
    `info` is 0. With several `cameras` the keys of pictures are `image_<camera>` and `depth_<camera>`;
    `segmentation=True` adds `segmentation` (H, W) uint8: 0 background, 1 robot, 2 object, 3 giver. `goal_pos=True` adds
    `goal_pos` (28,), the `goal_state`, to any mode (`state` alone becomes a `Dict`), and every `Dict` has `agent_pos`.
    See `dexh2r_gym.sensing`.

    `obs_delay` shows all but agent_pos, agent_vel and phase so many frames late; `pose_noise` gives object and giver
    the errors of a tracker (`dexh2r_gym.sensing.noise.PoseNoise`), and what follows from their poses with them.

    `randomisation` draws factors of friction, of the object's mass and of the strength of the hand's joints for every
    episode, and gives `agent_pos` the errors of the hand's own sensors, and `agent_vel` those of their differences;
    see `dexh2r_gym.sim.randomise.Randomisation`. What of friction, mass and strength was drawn is in `info`.

    ## Rewards
    `dense`: 5 per metre of d gained, 10 on reaching the goal, -20 per metre of penetration and frame, -0.002 per
    newton on the giver's hand and frame, -0.01 a frame. `sparse`: 1 on reaching the goal. With `ending="hold"` `dense`
    goes on with -0.002 per newton and frame and 10 where the object has proved to be held, and `sparse` is 1 there
    only.

    ## Starting state
    The hand stands open and at rest where the trial's recording starts, 0.4 to 0.7 m from the object in the open
    data; where an arm cannot bring it there, as near as it can (it can in all trials of `mini`).

    ## Episode end
    Terminated: the palm is within 1 cm of the goal (status `REACHED`), or this world's physics diverged
    (`DIVERGED`; the other worlds go on). Truncated: the recording ended (`TIMEOUT_APPROACH`: alignment never began,
    `TIMEOUT_ALIGNMENT`).

    With `alignment="none"` an agent may have goals of its own, and holding the object in any grasp is `REACHED` too:
    when the hand has stood still relative to the object for 5 frames (3 mm, 0.05 rad, its command as well), a finger is
    within 5 mm of the object, the hand is at most 6.5 mm deep in it and not in the giver's hand, and the grasp passes
    the stability test of the goal grasps (the object moves by less than 2 cm under each of six pushes,
    `dexh2r_gym.grasps.stability`). It is tested once for each time that the hand comes to rest.

    With `ending="hold"` the episode goes on when a grasp is reached, actions are ignored, and the recording plays on to
    its end. The fingers close on the object and press (0.53 s), the hand giving way to what it pushes against; the
    robot lifts, and once it has carried the object's weight for 3 frames (contact force), the giver lets go, opens the
    hand and draws it back by 20 cm. The object is free under gravity, and must stay in the hand for 2 s and then
    through a shake of 4 cm and 0.4 s along each of six directions (4.9 m/s^2). The episode ends (`REACHED` still, since
    the grasp was reached) as `HELD`, or earlier: `DROPPED` (its centre of mass has moved by 5 cm in the hand),
    `NOT_RELEASED` (the robot did not carry it within 1.5 s) or `DIVERGED`. The giver's hand meets the robot's only, not
    the object. See `dexh2r_gym.envs.receive`.

    ## Info
    Every step: `replay` (id), `goal_distance` (m), `depth` (m, mesh-exact penetration of the hand into the object),
    `giver_force` (N), with clouds `points_seen`, how many of the surface points looked at were seen (few where
    hands hide the object). After `reset(options={"calibration": True})` `calibration`, see
    `dexh2r_gym.sensing.calibration`. At the end of an episode also `succ`, `safe`, `pen_dep` (cm), `pen_fr`,
    `infer_fr`, `traj_len` (m) by the paper's definitions, the same with the suffix `_released` by the released
    code's, `max_giver_force` (N), `status` (name of an `EpisodeStatus`) and `end_frame`, the last frame of approach and
    alignment. See `dexh2r_gym.metrics`.

    With physics also `safe_force`, whether no part of the giver's hand was ever pressed with more than the 140 N of
    ISO/TS 15066, and of palm, index, middle, little, ring and thumb each (6,): `giver_peak` (N), `giver_impulse` (N s),
    `contact_time` (s, the longest), and `contact_speed` (m/s, of the fastest first touch). See `dexh2r_gym.safety`.

    With `ending="hold"` also `held` (bool), `outcome` (as above, `NOT_REACHED` where no grasp was), `release_frame` (-1
    where the giver did not let go), `drop_time` (s from then to the loss, inf where the object was not lost), `slip`
    (cm that the object has moved in the hand since).

    With `realtime` also `latency_ms`, the mean time that the policy has thought.

    With `randomisation` of physics also `friction_factor`, `mass_factor` and `strength_factor`. With an arm
    `arm_limited`, the part of frames in which it could not bring the palm within 5 mm and 0.05 rad of where it was
    told; `arm_reason`, by what it was held back most often (reach, joint range, speed, self collision, or nothing:
    an empty text); `arm_touch`, the part of frames in which the arm itself met the object or the giver's hand.

    ## Arguments
    | argument | values | default |
    |---|---|---|
    | mode | easy (U = 10 cm), hard (U = 5 cm) | hard |
    | backend | mujoco, kinematic, isaacgym (needs a user's Isaac Gym Preview 4) | mujoco |
    | robot | floating (a hand without an arm), ur10e (not in `kinematic`) | floating |
    | obs_mode | state, state_dict, point_cloud, rgbd, or several joined by + | state |
    | num_points | points of a cloud, 1 to 4096 | 1024 |
    | cloud | observed, clean | observed |
    | sampler | which of the points seen: random, farthest (even spacing, slower) | random |
    | cloud_cameras | whose view the observed cloud is: kinect_0 to kinect_3, wrist_0, wrist_1 | the four kinects |
    | crop | corners ((x, y, z), (x, y, z)) of the box outside of which no point is seen, world, m | None |
    | cameras | of the pictures, as above | (kinect_0,) |
    | image_size | width and height of pictures | (320, 180) |
    | segmentation | whether pictures have one | False |
    | goal_pos | whether the nearest free goal is shown | False |
    | obs_delay | frames that what is seen is late, 0 to 30 | 0 |
    | pose_noise | a `PoseNoise`, or None | None |
    | giver | a `GiverBehaviour` or a dict of its values: see below; None for the recording as it is | None |
    | latency | frames that actions are late, 0 to 90 | 0 |
    | realtime | whether they are as late as the policy takes to think | False |
    | randomisation | a `Randomisation`, a dict of its fields such as {"friction": 0.3}, or None | None |
    | control_mode | absolute, delta | absolute |
    | alignment | env, none (the agent closes in by itself, on goals of its own if it has any) | env |
    | ending | grasp (as in the paper), hold (the giver lets go and the robot must keep the object) | grasp |
    | replays | `mini`, or the path of a replay store | mini |
    | split | train, validation, test, all | train |
    | reward_mode | dense, sparse | dense |
    | render_mode | rgb_array, human | None |
    | overlay | d, phase, penetration and force written into rgb_array pictures | False |
    | speed_limits | palm m/s, palm rad/s, joints rad/s; None for the paper's unlimited kinematics | (1.5, 4, 4) |
    | released_metrics | score by the released code's definitions too (slow: a search a frame) | True |
    | num_threads | physics threads, 0 for every core | 0 |
    | num_envs, autoreset_mode | of the vector environment; all three Gymnasium modes | 1, NEXT_STEP |

    ## Givers that react
    `giver=GiverBehaviour(...)` lets each giver deviate from its recording in a way that follows from the episode's
    seed, the object with it. Episodes may then last longer than the recording; they end, in time, at its last frame.

    | behaviour | unit, range | what |
    |---|---|---|
    | time_warp | 0 to 1 | playing speed wanders smoothly between 1 / (1 + time_warp) and 1 + time_warp |
    | hesitation | s, 0 to 10 | expected time that the giver stands still on the way, once |
    | pose_offset | m, 0 to 0.1 | standard deviation of a fixed shift along each axis, and of a turn of 1 rad a metre |
    | retraction | True, False | pushed with more than 5 N on the hand it draws back 8 cm for 1 s (not in `kinematic`) |
    | release | s, -1 to 2 | expected time by which it lets go late, or early (`ending="hold"`) |

    ## Reset
    `reset(seed=, options={"replay": id or one id a world, "reset_mask": (num_envs,) bool, "calibration": bool})`.
    Without `replay`, world i draws its trials from the split with seed + i. Noise of sensors follows from the seed as
    well.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 30, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int = 1, *, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **options: Any
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.options = make_options(options)
        check_memory(num_envs, self.options)
        self.task = HandoverTask(num_envs, self.options)
        self.replay_ids = self.task.replay_ids
        self.render_mode = self.options.render_mode
        self.metadata = self.metadata | {"render_fps": round(self.task.fps), "autoreset_mode": self.autoreset_mode}
        self.single_action_space = control.action_space(self.options.control_mode)
        self.single_observation_space = self.task.observer.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._noise_rngs = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._idle = np.ones(num_envs, dtype=bool)  # not running: never reset, or ended and not yet reset
        self._started = False
        self._renderer: SceneRenderer | None = None
        self._watch = Stopwatch()
        self._thinking = Thinking(num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes in all worlds, or in those of `options["reset_mask"]`. See the class."""
        options = options or {}
        unknown = [key for key in options if key not in _RESET_OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}; choose from {', '.join(_RESET_OPTIONS)}")
        mask = self._check_mask(options.get("reset_mask"))
        if not self._started and not mask.all():
            raise ValueError("the first reset must start all worlds: leave options['reset_mask'] out")
        self._seed(seed, mask)
        self._begin(mask, options.get("replay"))
        self._started = True
        if self.render_mode == "human":
            self.render()
        observation = self._observation()
        info = step_info(self.task, mask) | (calibration_info(self.task, mask) if options.get("calibration") else {})
        self._watch.start()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every world by one recorded frame.

        With autoreset disabled a world that has ended stands still, its flags unchanged, until it is reset.

        Raises:
            ValueError: actions of a wrong shape or with NaN; the message names the world.
        """
        if not self._started:
            raise RuntimeError("step was called before reset")
        action = torch.as_tensor(np.asarray(actions)).double()
        control.check_action(action, self.num_envs)
        on = ~self._idle
        late = self._lateness(on) if self.options.realtime else None
        reward = self.task.advance(action, torch.from_numpy(on), late).numpy()
        status = self.task.status.numpy()
        ended = status != EpisodeStatus.RUNNING
        terminated = (status == EpisodeStatus.REACHED) | (status == EpisodeStatus.DIVERGED)
        truncated = ended & ~terminated
        finished = on & ended
        final = self._final_info(finished) if finished.any() else {}
        everywhere = np.ones(self.num_envs, dtype=bool)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and finished.any():
            last_observation, last_info = self._observation(), step_info(self.task, finished)
            self._begin(finished, None)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(finished).tolist():
                final_obs[i] = _world(last_observation, i)
            final = {
                "final_obs": final_obs,
                "_final_obs": finished,
                "final_info": last_info | final,
                "_final_info": finished,
            }
        else:
            if self.autoreset_mode == AutoresetMode.NEXT_STEP:
                terminated, truncated = terminated & on, truncated & on
                if self._idle.any():
                    self._begin(self._idle.copy(), None)
            self._idle |= finished
        observation = self._observation()
        if self.render_mode == "human":
            self.render()
        info = step_info(self.task, everywhere) | final
        self._watch.start()
        return observation, reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture (H, W, 3) uint8 a world; in human mode world 0 is shown in a window instead."""
        if self.render_mode == "rgb_array":
            return tuple(self.render_world(i) for i in range(self.num_envs))
        if self.render_mode == "human":
            self.task.picture(self._get_renderer(), 0, window=True)
            return None
        raise ValueError("render_mode is None; make the environment with render_mode='rgb_array' or 'human'")

    def render_world(self, world: int) -> np.ndarray:
        """Picture (H, W, 3) uint8 of one world, whatever the render mode."""
        drawing = Stopwatch()
        picture = self.task.picture(self._get_renderer(), world)
        assert picture is not None
        picture = self.task.annotate(picture, world) if self.options.overlay else picture
        self._watch.skip(drawing.stop())  # the policy does not wait for pictures
        return picture

    def episode_record(self, world: int) -> dict[str, Any]:
        """See `HandoverTask.record`: what is needed to score this world's last episode again, until it is reset."""
        thought = {"latency_ms": float(self._thinking.mean_ms[world])} if self.options.realtime else {}
        return self.task.record(world) | thought

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers, and what the simulator holds outside of this process."""
        self.task.close()
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        if seed is None:
            return
        seeds = [int(seed) + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed needs one number or {self.num_envs}, got {len(seeds)}")
        for i, s in enumerate(seeds):
            if s is not None and mask[i]:
                self._rngs[i] = seeding.np_random(s)[0]
                self._noise_rngs[i] = np.random.default_rng([s, _NOISE])

    def _begin(self, mask: np.ndarray, replay: str | Sequence[str | None] | None) -> None:
        """Start the worlds of the mask with the trials asked for, else drawn with each world's own generator."""
        asked: list[str | None] = (
            [replay] * self.num_envs if replay is None or isinstance(replay, str) else list(replay)
        )
        if len(asked) != self.num_envs:
            raise ValueError(f"options['replay'] needs one id or {self.num_envs}, got {len(asked)}")
        worlds = np.flatnonzero(mask)
        ids = [asked[w] or self.replay_ids[int(self._rngs[w].integers(len(self.replay_ids)))] for w in worlds]
        keys = torch.tensor([int(self._noise_rngs[w].integers(1 << 62)) for w in worlds])
        self.task.begin(torch.from_numpy(worlds), ids, keys)
        self._thinking.begin(mask)
        self._idle[mask] = False

    def _lateness(self, on: np.ndarray) -> Tensor:
        """Frames that the actions of all worlds are late, (B,): the time since the last observation, rounded up."""
        seconds = self._watch.stop()
        self._thinking.add(seconds, on)
        return torch.full((self.num_envs,), frames_late(seconds, self.task.fps))

    def _final_info(self, finished: np.ndarray) -> dict[str, Any]:
        """What is told of the worlds of the mask, (B,) bool, whose episodes are over."""
        thought = {"latency_ms": self._thinking.mean_ms[finished]} if self.options.realtime else {}
        return final_info(self.task, finished) | masked(finished, **thought)

    def _observation(self) -> Any:
        out = self.task.observation()
        return out.numpy() if isinstance(out, Tensor) else {k: v.numpy() for k, v in out.items()}

    def _check_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with a True, got {mask!r}"
            )
        return mask

    def _get_renderer(self) -> SceneRenderer:
        if self._renderer is None:
            self._renderer = SceneRenderer()
        return self._renderer


def _world(observation: Any, i: int) -> Any:
    """Observation of one world."""
    return {k: v[i].copy() for k, v in observation.items()} if isinstance(observation, dict) else observation[i].copy()
