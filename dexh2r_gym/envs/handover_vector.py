"""The handover task as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dexh2r_gym.envs import control
from dexh2r_gym.envs.device_episodes import DeviceEpisodes
from dexh2r_gym.envs.host_episodes import HostEpisodes
from dexh2r_gym.envs.latency import Stopwatch
from dexh2r_gym.envs.memory import check_memory
from dexh2r_gym.envs.options import make_options
from dexh2r_gym.envs.task import HandoverTask
from dexh2r_gym.render import SceneRenderer

_RESET_OPTIONS = ("replay", "reset_mask", "calibration")


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
    | backend | mujoco, mjwarp (a GPU, extra `gpu`), kinematic, isaacgym (a user's Isaac Gym Preview 4) | mujoco |
    | robot | floating (a hand without an arm), ur10e (with contacts, on the CPU) | floating |
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
    | device | of torch: where all worlds are, such as cpu or cuda; `mujoco` has cpu alone | cpu; `mjwarp`: cuda |
    | output | numpy, torch (tensors on the device, from which a step reads nothing: see below) | numpy |
    | num_envs, autoreset_mode | of the vector environment; all three Gymnasium modes | 1, NEXT_STEP |

    ## Givers that react
    `giver=GiverBehaviour(...)` lets each giver deviate from its recording in a way that follows from the episode's
    seed, the object with it. Episodes may then last longer than the recording; they end, in time, at its last frame.

    | behaviour | unit, range | what |
    |---|---|---|
    | time_warp | 0 to 1 | playing speed wanders smoothly between 1 / (1 + time_warp) and 1 + time_warp |
    | hesitation | s, 0 to 10 | expected time that the giver stands still on the way, once |
    | pose_offset | m, 0 to 0.1 | standard deviation of a fixed shift along each axis, and of a turn of 1 rad a metre |
    | retraction | True, False | pushed with more than 5 N on the hand it draws back 8 cm for a second (with contacts) |
    | release | s, -1 to 2 | expected time by which it lets go late, or early (`ending="hold"`) |

    ## On a device
    `device="cuda"` keeps the worlds on a GPU, with a backend that runs there. With `output="torch"` observations,
    rewards (float32), flags and info are tensors on the device, new in each step, and actions may be. A step then reads
    nothing back, so that the host can run ahead of the device; the same code runs on a device without values in the
    tests. For that it needs `alignment="env"`, `ending="grasp"`, `released_metrics=False`, a floating robot, no
    pictures and no `realtime`, and differs in this:

    - All trials of the split are loaded when the environment is made. Which of them a world runs follows from its seed
      (seed + i) and from how many episodes it has had since, by other numbers than with numpy; `info["trial"]` (B,) are
      places in `replay_ids`, and `options["replay"]` must be of the split.
    - `info` holds the same keys in each step, and their masks, since whether an episode has ended is not known:
      `status` as numbers, with SAME_STEP `final_obs` as one tensor (B, ...) or a dict of them and `final_info`, which
      mean something where `_final_obs` is set. There are no `*_released` metrics and no records of episodes.
    - A world whose action is not finite ends as `DIVERGED`. `options["reset_mask"]` may be a tensor.
    - `depth` is found by a fixed number of points of each hand: within 0.25 mm of the exact one, for 99 of 100 hands
      within a micrometre. Of a cloud points at the edge of what a hand hides may differ.

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
        episodes = DeviceEpisodes if self.options.blindly else HostEpisodes
        self._episodes = episodes(self.task, num_envs, self.autoreset_mode)
        self._started = False
        self._renderer: SceneRenderer | None = None
        self._watch = Stopwatch()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes in all worlds, or in those of `options["reset_mask"]`. See the class."""
        options = options or {}
        unknown = [key for key in options if key not in _RESET_OPTIONS]
        if unknown:
            raise ValueError(f"unknown reset option {unknown[0]!r}; choose from {', '.join(_RESET_OPTIONS)}")
        observation, info = self._episodes.reset(seed, options, started=self._started)
        self._started = True
        if self.render_mode == "human":
            self.render()
        self._watch.start()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance every world by one recorded frame.

        With autoreset disabled a world that has ended stands still, its flags unchanged, until it is reset.

        Raises:
            ValueError: actions of a wrong shape or, with `output="numpy"`, with NaN; the message names the world.
        """
        if not self._started:
            raise RuntimeError("step was called before reset")
        results = self._episodes.step(actions, self._watch.stop())
        if self.render_mode == "human":
            self.render()
        self._watch.start()
        return results

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
        record = self.task.record(world)
        if isinstance(self._episodes, HostEpisodes) and self.options.realtime:
            record["latency_ms"] = float(self._episodes.thinking.mean_ms[world])
        return record

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers, and what the simulator holds outside of this process."""
        self.task.close()
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _get_renderer(self) -> SceneRenderer:
        if self._renderer is None:
            self._renderer = SceneRenderer()
        return self._renderer
