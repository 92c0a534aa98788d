"""Approach policies: representations, windows of demonstrations, the agent that carries a plan out, training."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import layer_norm

import policies
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.replay import ReplayStore, write_store
from dexh2r_gym.replay.presets import PRESETS
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_angle
from dexh2r_gym.types import split_hand_state
from dexh2r_gym.workers import threads
from policies import train as training
from policies.approach import STEADY, ApproachAgent, ApproachModel
from policies.approach_data import ApproachWindows, shifted
from policies.checkpoint import load_checkpoint, make_model, paper_config, read_card, save_checkpoint, shipped
from policies.checkpoint_agent import CheckpointAgent
from policies.dp import DP, DPConfig
from policies.frames import open_frames
from policies.goal_draw import GoalDraw, denoise
from policies.hand_vectors import FRAMES, ROTATIONS, base_of, decode, encode, vector_size
from policies.normalizer import Normalizer
from policies.proprioception import MIDDLE
from policies.train import TrainOptions
from policies.train_approach import _Demonstrations, train
from policies.unet1d import ConditionalUNet1D
from tests.test_env import ID
from tests.trials import object_of, trial_of

SMALL = {
    "flow": {"num_points": 16, "point_widths": (8, 16), "width": 32, "blocks": 1},
    "motionnet": {"num_points": 16, "point_widths": (8, 16), "width": 32, "blocks": 1},
    "dp3": {"num_points": 16, "point_widths": (8, 16), "widths": (16, 16), "feature": 8, "sampling_steps": 2},
    "dp": {
        "image_size": (48, 27),
        "window": (44, 26),
        "crop": (40, 24),
        "image_widths": (8, 16),
        "image_strides": (4, 2),
        "widths": (16, 16),
        "feature": 8,
        "sampling_steps": 2,
    },
}


def states(seed: int, *shape: int) -> torch.Tensor:
    """Hand states anywhere, turned by less than half a turn."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.randn(*shape, 28, generator=generator)
    return unit * torch.cat((torch.full((3,), 0.5), torch.full((3,), 0.8), torch.full((22,), 0.4)))


def seen_by(model: ApproachModel, worlds: int) -> dict[str, torch.Tensor]:
    """What a model may be shown: colours, depths and points drawn at random."""
    c, generator = model.config, torch.Generator().manual_seed(0)
    seen = {"agent_pos": states(0, worlds, c.observed), "goal_pos": states(1, worlds, c.observed)}
    seen["giver_joints"] = torch.randn(worlds, c.observed, 48, generator=generator)
    if "point_cloud" in model.needs:
        seen["point_cloud"] = torch.randn(worlds, c.observed, c.num_points, 3, generator=generator)
    if "image" in model.needs:
        size = (worlds, c.observed, *c.image_size[::-1])
        seen["image"] = torch.randint(256, (*size, 3), dtype=torch.uint8, generator=generator)
        seen["depth"] = torch.rand(size, generator=generator) + 0.6
    return {key: seen[key] for key in model.needs}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six train trials of the embedded ones, as a store of its own."""
    mini = ReplayStore.open("mini")
    replays = [mini.replay(id) for id in mini.ids("train")[:40:8]]
    trials = [trial_of(r, demo=r.demo.numpy(), number=i) for i, r in enumerate(replays)]
    path = tmp_path_factory.mktemp("store") / "few.zarr.zip"
    return write_store(path, trials, {r.object: object_of(r) for r in replays}, licence="CC0-1.0", provenance={})


# ---------------------------------------------------------------- representations


@given(st.integers(0, 2**31), st.sampled_from(sorted(ROTATIONS)), st.sampled_from(FRAMES))
def test_decoding_undoes_encoding(seed, rotation, frame):
    hands = states(seed, 3, 4).double()
    base = base_of(hands[:, 1], frame)
    numbers = encode(hands, base, rotation)
    assert numbers.shape == (3, 4, vector_size(rotation))
    back = decode(numbers, base, rotation)
    pose, joints = split_hand_state(hands)
    found, found_joints = split_hand_state(back)
    torch.testing.assert_close(found[..., :3], pose[..., :3])
    assert quat_angle(found[..., 3:], pose[..., 3:]).max() < 1e-5
    torch.testing.assert_close(found_joints, joints)


def test_known_differences_to_the_present_hand():
    base = torch.zeros(1, 28)
    base[0, :3], base[0, 5] = torch.tensor([1.0, 2.0, 3.0]), torch.pi / 2  # turned left about z
    ahead = base.clone()
    ahead[0, 1] += 0.1  # a step along world y is one along the turned hand's x
    ahead[0, 6] = 0.3
    numbers = encode(ahead[:, None], base, "6d")[0, 0]
    torch.testing.assert_close(numbers[:9], torch.tensor([0.1, 0, 0, 1, 0, 0, 0, 1, 0]), atol=1e-6, rtol=0)
    assert numbers[9] == pytest.approx(0.3) and numbers[10:].abs().max() < 1e-6


def test_rotations_of_6_numbers_need_not_be_orthonormal():
    numbers = torch.zeros(1, 1, 31)
    numbers[..., 3:9] = torch.tensor([2.0, 0, 0, 1, 3, 0])  # columns along x and (1, 3, 0): no turn
    pose, _ = split_hand_state(decode(numbers, torch.zeros(1, 28), "6d"))
    torch.testing.assert_close(pose[0, 0, 3:], torch.tensor([1.0, 0, 0, 0]), atol=1e-6, rtol=0)


def test_a_normalizer_undoes_itself_and_leaves_constants_alone():
    values = torch.randn(500, 2, 3) * torch.tensor([1.0, 5.0, 0.0]) + 4
    normalizer = Normalizer(2, 3)
    normalizer.fit(values)
    normal = normalizer(values)
    assert normal[..., :2].mean().abs() < 1e-5 and (normal[..., :2].std(0) - 1).abs().max() < 1e-5
    assert normal[..., 2].abs().max() < 1e-2  # not blown up
    torch.testing.assert_close(normalizer.inverse(normal), values)
    assert set(normalizer.state_dict()) == {"mean", "deviation"}


@pytest.mark.parametrize("steps", [8, 16])
def test_a_unet_answers_in_the_shape_of_its_sequence_and_heeds_all_it_is_told(steps):
    net = ConditionalUNet1D(5, 7, (16, 24, 32), 5)
    sequence, time, condition = torch.randn(2, steps, 5), torch.tensor([3, 50]), torch.randn(2, 7)
    answer = net(sequence, time, condition)
    assert answer.shape == (2, steps, 5)
    assert not torch.allclose(answer, net(sequence, time + 9, condition), atol=1e-4)
    assert not torch.allclose(answer, net(sequence, time, condition + 1), atol=1e-4)
    torch.testing.assert_close(answer[:1], net(sequence[:1], time[:1], condition[:1]), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- windows of demonstrations


def test_windows_are_the_frames_of_the_demonstrations(store, tmp_path):
    opened = ReplayStore.open(store)
    needs = ("agent_pos", "goal_pos", "giver_joints", "point_cloud")
    options = {"observed": 3, "ahead": 4, "frames": {"num_points": 32}, "cache": tmp_path, "labels": "demonstrations"}
    windows = ApproachWindows(opened, "train", needs=needs, **options)
    batch = windows.batch(64, torch.Generator().manual_seed(0))
    demos = torch.cat([opened[i].demo for i in range(len(opened))]).float()
    last = torch.cat([torch.arange(opened[i].num_frames) == opened[i].num_frames - 1 for i in range(len(opened))])
    assert batch["agent_pos"].shape == (64, 3, 28) and batch["future"].shape == (64, 4, 28)
    assert batch["giver_joints"].shape == (64, 3, 48) and batch["point_cloud"].shape == (64, 3, 32, 3)
    for past, future in zip(batch["agent_pos"], batch["future"], strict=True):
        row = int((demos == past[-1]).all(1).nonzero()[0, 0])
        assert not last[row]
        assert torch.equal(future[0], demos[row + 1])
    # the cloud is at the object: half a metre at most from the goal's palm
    middle = batch["point_cloud"].mean(2)
    assert (middle - batch["goal_pos"][..., :3]).norm(dim=-1).max() < 0.3
    # the next training reads what the first one wrote
    files = sorted(tmp_path.iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    again = ApproachWindows(opened, "train", needs=needs, **options).batch(64, torch.Generator().manual_seed(0))
    assert torch.equal(again["point_cloud"], batch["point_cloud"])
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == times


def test_recorded_clouds_and_pictures_are_preferred_to_made_ones(tmp_path):
    replay = ReplayStore.open("mini")[0]
    frames = replay.num_frames
    number = np.arange(frames, dtype=np.int64)
    sensors = {
        "cloud": np.broadcast_to(number[:, None, None] / 100, (frames, 9, 3)).astype(np.float32),
        "image": np.broadcast_to(number[:, None, None, None, None], (frames, 1, 20, 32, 3)).astype(np.uint8),
        "depth": np.broadcast_to(1000 + number[:, None, None, None], (frames, 1, 20, 32)).astype(np.uint16),
    }
    path = write_store(
        tmp_path / "sensed.zarr.zip",
        [trial_of(replay, demo=replay.demo.numpy(), split="train", has_giver=False, sensors=sensors)],
        {replay.object: object_of(replay)},
        licence="CC0-1.0",
        provenance={},
    )
    needs = ("point_cloud", "image", "depth")
    shown = open_frames(
        ReplayStore.open(path), [replay.id], needs, tmp_path / "cache", num_points=12, image_size=(16, 10)
    ).read(torch.tensor([[3, 40]]))
    assert shown["image"].shape == (1, 2, 10, 16, 3) and shown["image"].unique().tolist() == [3, 40]
    torch.testing.assert_close(shown["depth"][0, 1], torch.full((10, 16), 1.04))
    torch.testing.assert_close(shown["point_cloud"][0, 0], torch.full((12, 3), 0.03), atol=1e-4, rtol=0)


def windows_of(store, **options):
    options = {"observed": 1, "ahead": 1, "needs": ("agent_pos", "goal_pos"), **options}
    return ApproachWindows(ReplayStore.open(store), "train", **options)


def test_the_goal_is_carried_along_with_the_object_and_met_at_the_end(store):
    batch = windows_of(store, labels="demonstrations").batch(400, torch.Generator().manual_seed(1))
    d = (batch["goal_pos"][:, 0, :3] - batch["future"][:, 0, :3]).norm(dim=-1)
    assert d.min() < 0.02 and d.max() > 0.3  # the object moves on by a frame at most


def test_waiting_and_resting_are_left_out(store):
    opened = ReplayStore.open(store)
    taught = 0
    for i in range(len(opened)):
        demo = opened[i].demo
        went = (demo[:, :3] - demo[0, :3]).norm(dim=-1) >= 0.005
        taught += int(went.sum())
    windows = windows_of(store)
    assert len(windows) <= taught + 4 * len(opened)
    batch = windows.batch(2000, torch.Generator().manual_seed(0))
    d = (batch["goal_pos"][:, 0, :3] - batch["agent_pos"][:, 0, :3]).norm(dim=-1)
    assert (d < 0.005).float().mean() < 0.15


def test_who_is_not_told_the_goal_does_not_learn_where_the_environment_aligns(store):
    batch = windows_of(store, needs=("agent_pos",)).batch(2000, torch.Generator().manual_seed(0))
    d = (batch["goal_pos"][:, 0, :3] - batch["agent_pos"][:, 0, :3]).norm(dim=-1)
    assert (d < 0.04).float().mean() < 0.1 and d.min() < 0.06


def test_the_future_is_what_the_expert_would_do_from_where_the_hand_is(store):
    windows = windows_of(store, observed=2, ahead=60)
    batch = windows.batch(64, torch.Generator().manual_seed(0))
    shown = windows_of(store, observed=2, ahead=60, labels="demonstrations").batch(64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(batch["goal_pos"], shown["goal_pos"])
    off = (batch["agent_pos"][:, -1] - shown["agent_pos"][:, -1])[:, :3].norm(dim=-1)
    assert 0.7 < (off > 1e-6).float().mean() < 0.9 and 0.01 < off.mean() < 0.1
    began, ended = (
        (batch["future"][:, t, :3] - shown["future"][:, -1, :3]).norm(dim=-1) for t in (0, -1)
    )  # both go to the same grasp
    assert ended.median() < 0.03 < 0.1 < began.median()


def test_hands_are_shifted_with_their_past_and_a_little_unsteadily():
    hands = states(0, 400, 3)
    moved = shifted(hands, torch.Generator().manual_seed(0), told=True)
    off = (moved - hands)[..., :3]
    some = off[:, -1].norm(dim=-1) > 1e-6
    assert 0.7 < some.float().mean() < 0.9 and off[~some].abs().max() < 1e-6
    now, before = off[some, -1], off[some, 0]
    assert 0.005 < (now - before).norm(dim=-1).mean() < 0.02 < now.norm(dim=-1).mean() < 0.06


def test_a_store_that_cannot_show_what_a_policy_sees_is_refused_at_once(store, tmp_path):
    mini = ReplayStore.open("mini")
    replay = mini[0]
    bare = write_store(
        tmp_path / "bare.zarr.zip",
        [trial_of(replay, demo=replay.demo.numpy(), has_giver=False, split="train")],
        {replay.object: object_of(replay)},
        licence="CC0-1.0",
        provenance={},
    )
    for policy, what in (("dp3", "cloud"), ("dp", "image and depth")):
        with pytest.raises(ValueError, match=f"no recorded {what} and no giver"):
            train(policy, str(bare), tmp_path / "out", config=SMALL[policy])
    with pytest.raises(ValueError, match="no demonstrations"):
        ApproachWindows(ReplayStore.open(store), "test", observed=1, ahead=1, needs=("agent_pos",))


# ---------------------------------------------------------------- carrying a plan out


class Counting(ApproachModel):
    """Plans palm x = 1, 2, 3 ... from the present one on, and keeps what it was shown."""

    needs = ("agent_pos",)

    def __init__(self, observed: int = 2, executed: int = 3):
        super().__init__()
        self.config = type("Config", (), {"observed": observed, "executed": executed})()
        self.shown: list[tuple[torch.Tensor, torch.Tensor]] = []

    ahead = 4

    def fit(self, batch): ...

    def loss(self, batch, generator):
        raise AssertionError

    def plan(self, seen, key):
        self.shown.append((seen["agent_pos"].clone(), key.clone()))
        out = seen["agent_pos"][:, -1:].repeat(1, self.ahead, 1)
        out[..., 0] += torch.arange(1, self.ahead + 1)
        return out


def test_a_plan_is_carried_out_frame_by_frame_and_made_anew_when_used_up():
    agent = ApproachAgent(Counting())
    state, actions = None, []
    for t in range(7):
        observation = {"agent_pos": np.full((2, 28), 10.0 * t, np.float32)}
        action, state = agent.predict(observation, state)
        actions.append(action[0, 0])
    assert actions == [1, 2, 3, 31, 32, 33, 61]
    shown = agent.model.shown
    assert [int(s[0, 0, 0]) for s, _ in shown] == [0, 20, 50] and [int(s[0, 1, 0]) for s, _ in shown] == [0, 30, 60]
    assert [k.tolist() for _, k in shown] == [[0, 0]] * 3


def test_for_one_world_it_thinks_on_one_thread_and_leaves_the_others_as_they_were():
    """On several, small products take longer, and ten times longer where another core is busy."""
    used = []

    class Looking(Counting):
        def plan(self, seen, key):
            used.append(torch.get_num_threads())
            return super().plan(seen, key)

    with threads(2):
        for worlds in (1, 2):
            ApproachAgent(Looking()).predict({"agent_pos": np.zeros((worlds, 28), np.float32)})
        ApproachAgent(Looking(), least=STEADY).predict({"agent_pos": np.zeros((1, 28), np.float32)})
        assert used == [1, 2, 2] and torch.get_num_threads() == 2


def test_where_a_plan_is_not_needed_none_is_made_and_what_was_seen_is_remembered():
    agent, state = ApproachAgent(Counting()), None
    for t in range(7):
        if t in (1, 2, 3, 4):
            state = state.sparing(torch.tensor([False, True]))
        action, state = agent.predict({"agent_pos": np.full((2, 28), 10.0 * t, np.float32)}, state)
    shown = [[int(n) for n in s[:, 1, 0]] for s, _ in agent.model.shown]
    assert shown == [[0, 0], [30], [50], [60]]  # the second world plans again in frame 5, the first every third
    assert int(agent.model.shown[2][0][0, 0, 0]) == 40  # and has seen the frame before
    assert action[:, 0].tolist() == [61, 52]


class Trying(Counting):
    """Draws from other noise every 4 frames."""

    attempt = 4


def test_another_attempt_draws_from_other_noise_in_each_world_by_its_own_time():
    agent, state = ApproachAgent(Trying(executed=2), seed=7), None
    for t in range(8):
        start = np.array([t == 0, t in (0, 4)])
        _, state = agent.predict({"agent_pos": np.zeros((2, 28), np.float32)}, state, episode_start=start)
    first, second = zip(*[key.tolist() for _, key in agent.model.shown], strict=True)
    assert first[0] == first[1] == 7 and first[2] == first[3] != 7
    assert second == (7,) * 4


@pytest.mark.parametrize("policy", ["dp3", "dp"])
def test_a_plan_is_carried_out_at_its_pace(policy):
    """Twice as fast: every second of the same hand states, of which enough must be left."""
    torch.manual_seed(0)
    slow = make_model(policy, SMALL[policy] | {"pace": 1}).eval()
    fast = make_model(policy, SMALL[policy] | {"pace": 2}).eval()
    fast.load_state_dict(slow.state_dict())
    seen = seen_by(slow, 3)
    with torch.no_grad():
        plan, faster = (model.plan(seen, torch.arange(3)) for model in (slow, fast))
    assert plan.shape[1] == slow.ahead == slow.config.horizon - 1
    torch.testing.assert_close(faster, plan[:, 1::2], rtol=0, atol=0)
    assert (faster[:, 0] - plan[:, 0]).abs().max() > 1e-4  # it does go further
    with pytest.raises(ValueError, match="choose a longer horizon"):
        make_model(policy, SMALL[policy] | {"pace": slow.ahead})


@pytest.mark.parametrize("policy", ["dp3", "dp"])
def test_noise_is_taken_off_from_the_middle_of_its_parts_or_as_published(policy):
    steps = {}
    for midway in (True, False):
        scheduler = make_model(policy, SMALL[policy] | {"sampling_steps": 5, "midway": midway}).scheduler
        scheduler.set_timesteps(5)
        steps[midway] = scheduler.timesteps.tolist()
    assert steps == {True: [90, 70, 50, 30, 10], False: [80, 60, 40, 20, 0]}
    assert not paper_config(policy)["midway"]


def test_a_goal_is_drawn_where_the_mean_of_all_is_none():
    """Goals are -1 or 1 in the first number, and in the second what the condition's first says."""
    torch.manual_seed(0)
    draws, generator = GoalDraw(2, 8), torch.Generator().manual_seed(0)
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False)
    optimizer = torch.optim.Adam(draws.parameters(), 2e-3)
    for _ in range(600):
        told = layer_norm(torch.randn(128, 8, generator=generator), (8,))
        side = torch.randint(2, (128, 1), generator=generator) * 2.0 - 1.0
        optimizer.zero_grad()
        draws.loss(torch.cat((side, told[:, :1]), dim=-1), told, scheduler, generator).backward()
        optimizer.step()
    told = layer_norm(torch.randn(200, 8, generator=generator), (8,))
    noise = torch.randn(200, 2, generator=generator)
    with torch.no_grad():
        goal = denoise(draws, noise, told, scheduler, 10)
    assert 0.3 < (goal[:, 0] > 0).float().mean() < 0.7
    assert (goal[:, 0].abs() - 1).abs().median() < 0.3  # of the mean it were 1
    assert (goal[:, 1] - told[:, 0]).abs().median() < 0.3


def test_a_world_that_starts_forgets_and_its_neighbour_does_not():
    agent = ApproachAgent(Counting(executed=2))
    _, state = agent.predict({"agent_pos": np.zeros((2, 28), np.float32)})
    kept = {name: value.clone() for name, value in vars(state).items() if name != "seen"}
    action, later = agent.predict(
        {"agent_pos": np.full((2, 28), 5, np.float32)}, state, episode_start=np.array([False, True])
    )
    assert action[:, 0].tolist() == [2, 6]  # goes on with its plan; plans from where it stands
    seen, key = agent.model.shown[-1]
    assert seen.tolist() == [[[5.0] * 28] * 2] and key.tolist() == [0]
    for name, value in kept.items():
        assert torch.equal(getattr(state, name), value), "what was handed out must stay as it was"
    again, _ = agent.predict(
        {"agent_pos": np.full((2, 28), 5, np.float32)}, state, episode_start=np.array([False, True])
    )
    np.testing.assert_array_equal(action, again)
    assert later.left.tolist() == [0, 1]


@pytest.mark.parametrize("policy", SMALL)
def test_agents_of_policies_do_not_depend_on_their_neighbours(policy, tmp_path):
    torch.manual_seed(0)
    model = make_model(policy, SMALL[policy])
    options = model.env_options() | {"backend": "kinematic", "split": "test", "released_metrics": False}
    ids = ReplayStore.open("mini").ids("test")[:3]

    def actions(which):
        env = gym.make_vec(ID, num_envs=len(which), vectorization_mode="vector_entry_point", **options).unwrapped
        agent, state, done = ApproachAgent(model), None, []
        observation, _ = env.reset(seed=[7 + i for i in which], options={"replay": [ids[i] for i in which]})
        for _ in range(6):
            action, state = agent.predict(observation, state)
            assert env.action_space.shape == action.shape and action.dtype == np.float32
            done.append(action)
            observation, *_ = env.step(action)
        env.close()
        return np.stack(done, axis=1)

    np.testing.assert_allclose(actions([0, 1, 2])[[0, 2]], actions([0, 2]), atol=1e-4)


def test_an_observation_without_what_is_looked_at_says_how_to_make_the_environment():
    agent = ApproachAgent(make_model("motionnet", SMALL["motionnet"]), name="motionnet")
    with pytest.raises(ValueError, match=r"no point_cloud, goal_pos.*obs_mode='point_cloud', num_points=16, goal"):
        agent.predict({"agent_pos": np.zeros((1, 28), np.float32)})
    with pytest.raises(ValueError, match="motionnet looks at"):
        agent.predict(np.zeros((1, 148), np.float32))


def test_the_published_sizes_can_be_made():
    with torch.device("meta"):
        for policy, millions in (("motionnet", 20), ("dp3", 100)):
            model = make_model(policy, paper_config(policy))
            assert sum(p.numel() for p in model.parameters()) > millions * 1e6
    assert paper_config("dp")["crop"] == (200, 100) and paper_config("dp3")["rotation"] == "axis_angle"


def test_what_was_not_published_has_no_paper_size():
    with pytest.raises(ValueError, match="flow was not published"):
        paper_config("flow")


def test_the_store_to_train_on_has_no_object_that_mini_keeps_for_tests():
    infos = ReplayStore.open("mini").infos
    unseen = {info.object for info in infos} - {info.object for info in infos if info.split == "train"}
    assert len(unseen) == 7 and not unseen & set(PRESETS["train"].objects)


def test_dp_crops_in_the_middle_and_in_training_anywhere():
    model = DP(DPConfig(**SMALL["dp"]))
    picture = torch.arange(48.0).expand(1, 2, 27, 48)
    model.eval()
    assert model._cropped(picture, model._corner(1))[0, 0, 0, [0, -1]].tolist() == [4, 43]
    model.train()
    corners = model._corner(200)
    left = model._cropped(picture.expand(200, -1, -1, -1), corners)[:, :, 0, 0]
    assert torch.equal(left, corners[:, :1].expand(-1, 2).float())
    assert set(corners[:, 0].tolist()) == set(range(2, 7))  # 4 of the window are to spare
    assert set(corners[:, 1].tolist()) == {0, 1, 2}


def test_dp_remembers_the_middle_of_its_pictures_and_plans_the_same_from_it():
    model = DP(DPConfig(**SMALL["dp"])).eval()
    seen = seen_by(model, 3)
    frames = [model.kept({key: value[:, t] for key, value in seen.items()}) for t in range(2)]
    kept = {key: torch.stack([frame[key] for frame in frames], dim=1) for key in seen}
    assert kept["image"].shape == (3, 2, 24, 40, 3) and kept["depth"].shape == (3, 2, 24, 40)
    with torch.no_grad():
        assert torch.equal(*(model.plan(what, torch.arange(3)) for what in (seen, kept)))


@pytest.mark.parametrize("name", ["dp", "dp3", "motionnet", "flow"])
def test_a_plan_has_the_same_bits_beside_any_number_of_others(name):
    """From 16 on; see `STEADY`. PyTorch's Mish gave DP and DP3 other last bits beside 16 than beside 15."""
    model = policies.load(name).model
    seen, key = seen_by(model, 33), torch.arange(33)
    with torch.no_grad(), threads(1):
        plan = model.plan(seen, key)
        for count in (STEADY, STEADY + 1, 2 * STEADY):
            fewer = model.plan({what: value[:count] for what, value in seen.items()}, key[:count])
            assert torch.equal(fewer, plan[:count]), count


def test_dp_sees_a_crop_as_it_sees_the_whole():
    """Training crops every world elsewhere; colours, depths and places in space stay together."""
    model = DP(DPConfig(**SMALL["dp"] | {"window": (48, 27)}))
    seen = seen_by(model, 3)
    given = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    model.train()
    torch.manual_seed(1)
    corners = model._corner(3)
    torch.manual_seed(1)
    model.observe(seen)
    whole = model._points(seen["agent_pos"], seen["depth"], model.across.expand(3, -1), model.down.expand(3, -1))
    channels, points, depth = given[0]
    for world, (x, y) in enumerate(corners.tolist()):
        there = (slice(y, y + 24), slice(x, x + 40))
        for t in range(2):
            k = 2 * world + t
            torch.testing.assert_close(channels[k, :3].movedim(0, -1), seen["image"][world, t][there] / 255)
            torch.testing.assert_close(channels[k, 4:], whole[world, t][:, *there])
            torch.testing.assert_close(points[k], 10 * channels[k, 4:])
            torch.testing.assert_close(depth[k], seen["depth"][world, t][there])


def test_dp_knows_where_in_the_world_its_pixels_are():
    """A picture of a known point: the pixel and depth at which a camera sees it give its place back."""
    for frame in ("world", "palm"):
        model = DP(DPConfig(**SMALL["dp"], frame=frame))
        hand = torch.zeros(1, 1, 28)
        hand[..., :3], hand[..., 5] = torch.tensor([0.1, 0.2, 1.0]), 0.5
        pose, _ = split_hand_state(hand[0, 0])
        point = torch.tensor([0.2, 0.1, 1.1])
        seen = pose_apply(pose_inverse(model.camera.pose_world(pose)).float(), point)  # camera frame
        u, v = (torch.from_numpy(model.camera.intrinsics()).float() @ (seen / seen[2]))[:2]
        column, row = round(float(u)), round(float(v))
        depth = torch.full((1, 1, 27, 48), float(seen[2]))
        found = model._points(hand, depth, model.across[None], model.down[None])[0, 0, :, row, column]
        wanted = point - torch.tensor(MIDDLE) if frame == "world" else pose_apply(pose_inverse(pose), point)
        assert (found - wanted).norm() < 0.7 * float(seen[2]) / (0.477 * 48)  # half a pixel's diagonal


# ---------------------------------------------------------------- training, checkpoints


@pytest.mark.parametrize("policy", SMALL)
def test_training_goes_on_bit_for_bit_and_the_checkpoint_acts(policy, store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_STATE_EVERY", 8)
    monkeypatch.setattr(training, "_LOG_EVERY", 4)
    monkeypatch.setattr("policies.train_approach._FITTED", 256)
    options = TrainOptions(steps=24, batch_size=8, learning_rate=3e-3, warmup=2, seed=3)
    arguments = {"config": SMALL[policy], "cache": tmp_path / "frames", "max_trials": 2}
    whole = train(policy, str(store), tmp_path / "whole", options, **arguments)
    real, count = ApproachWindows.batch, 0

    def stops(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 15:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ApproachWindows, "batch", stops)
    with pytest.raises(KeyboardInterrupt):
        train(policy, str(store), tmp_path / "parts", options, **arguments)
    with pytest.raises(ValueError, match="another training"):
        train(policy, str(store), tmp_path / "parts", TrainOptions(steps=25), **arguments)
    parts = train(policy, str(store), tmp_path / "parts", options, **arguments)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "parts.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()

    path = tmp_path / "whole.safetensors"
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["layout"]["observation"] == list(whole.needs) and about["card"]["trials"] == 2
    assert policy in about["card"]["command"] and str(tmp_path) not in path.with_suffix(".json").read_text()
    maker = CheckpointAgent(path)
    report = evaluate(
        maker, out=tmp_path / "run", replays=store, split="train", backend="kinematic", num_envs=2, progress=False
    )
    assert report["config"]["evaluation"]["agent_identity"] == maker.identity
    assert maker.identity.startswith(about["sha256"])
    assert policies.load(str(path)).name == "whole" and policies.env_options(str(path)) == whole.env_options()


def test_other_settings_of_the_same_weights_are_another_agent(tmp_path):
    """A run that goes on where it was stopped must not mix the two."""
    names, model = [], make_model("dp3", SMALL["dp3"])
    for pace in (1, 2):
        model.config = replace(model.config, pace=pace)
        save_checkpoint(model, tmp_path / f"{pace}.safetensors", {})
        names.append(CheckpointAgent(tmp_path / f"{pace}.safetensors").identity.split())
    assert names[0][0] == names[1][0] and names[0][1] != names[1][1]
    card = tmp_path / "1.json"
    card.write_text(card.read_text().replace('"pace": 1', '"pace": 2'))
    assert CheckpointAgent(tmp_path / "1.safetensors").identity.split() == names[1]


def test_training_from_a_checkpoint_keeps_its_sizes_and_statistics(store, tmp_path, monkeypatch):
    monkeypatch.setattr("policies.train_approach._FITTED", 256)
    begun = train(
        "motionnet",
        str(store),
        tmp_path / "begun",
        TrainOptions(steps=2, batch_size=8, warmup=1),
        config={**SMALL["motionnet"], "width": 40},
        max_trials=1,
    )
    init, options = tmp_path / "begun.safetensors", TrainOptions(steps=3, batch_size=8, learning_rate=1e-3, seed=9)
    longer = train("motionnet", str(store), tmp_path / "longer", options, max_trials=2, init=init)
    assert longer.config == begun.config and longer.config.width == 40
    before = begun.state_dict()
    moved = {name: (value - before[name]).abs().max() for name, value in longer.state_dict().items()}
    statistics = {name for name in moved if "numbers" in name}
    assert statistics and all(moved[name] == 0 for name in statistics)  # those of other trials would differ
    weights = [moved[name] for name, _ in longer.named_parameters()]
    assert 0 < max(weights) < 0.02  # AdamW moves by at most a learning rate a step: from there, not from anew
    about = read_card(tmp_path / "longer.safetensors")
    assert about["card"]["init"] == read_card(init)["sha256"] and "--init begun.safetensors" in about["card"]["command"]
    with pytest.raises(ValueError, match="has its own sizes"):
        train("motionnet", str(store), tmp_path / "other", options, init=init, size="paper")
    with pytest.raises(ValueError, match="a checkpoint of motionnet, flow was asked for"):
        train("flow", str(store), tmp_path / "other", options, init=init)


def test_several_stores_are_drawn_from_by_their_windows(store, tmp_path, monkeypatch):
    one, two = windows_of(store, max_trials=1), windows_of(store)
    opened = [ReplayStore.open(str(store))] * 2
    data = _Demonstrations([one, two], opened)
    assert data.about["windows"] == len(one) + len(two) and data.about["trials"] == one.num_trials + two.num_trials
    taken = []
    real = ApproachWindows.batch
    monkeypatch.setattr(
        ApproachWindows, "batch", lambda self, size, *a, **k: (taken.append((self, size)), real(self, size, *a, **k))[1]
    )
    batch = data.batch(4000, torch.Generator().manual_seed(0))
    assert [part for part, _ in taken] == [one, two] and len(batch["agent_pos"]) == len(batch["future"]) == 4000
    share = len(one) / (len(one) + len(two))
    assert abs(taken[0][1] / 4000 - share) < 0.04  # five standard deviations of 4000 draws
    again = data.batch(4000, torch.Generator().manual_seed(0))
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    fast = ReplayStore.open(str(store))[0]
    trial = trial_of(fast, demo=fast.demo.numpy(), fps=60.0)
    other = write_store(
        tmp_path / "fast.zarr.zip", [trial], {fast.object: object_of(fast)}, licence="CC0-1.0", provenance={}
    )
    with pytest.raises(ValueError, match=r"trials of \[30\.0, 60\.0\] frames a second"):
        train("motionnet", [str(store), str(other)], tmp_path / "none")
    with pytest.raises(ValueError, match="no store to learn from"):
        train("motionnet", [], tmp_path / "none")
    monkeypatch.setattr("policies.train_approach._FITTED", 64)
    train("motionnet", [str(store)] * 2, tmp_path / "both", TrainOptions(steps=2, batch_size=8, warmup=1),
          config=SMALL["motionnet"], max_trials=1)  # fmt: skip
    card = read_card(tmp_path / "both.safetensors")["card"]
    assert f"--replays {store.name} {store.name}" in card["command"] and card["trials"] == 2


def test_a_checkpoint_of_another_layout_or_kind_is_refused(tmp_path):
    model = make_model("motionnet", SMALL["motionnet"])
    path = tmp_path / "other.safetensors"
    save_checkpoint(model, path, {})
    about = json.loads(path.with_suffix(".json").read_text())
    about["layout"]["observation"] = ["agent_pos", "smell"]
    path.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"smell.*motionnet of this version has.*goal_pos"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="a checkpoint of motionnet, dp3 was asked for"):
        load_checkpoint(path, "dp3")
    grasps = Path(policies.__file__).parent / "checkpoints" / "grasp_cvae.safetensors"
    with pytest.raises(ValueError, match="is no approach policy but a GraspCVAE"):
        policies.env_options(str(grasps))
    with pytest.raises(ValueError, match="acts on an environment"):
        policies.load("scripted")


def test_what_cannot_be_learned_is_said_before_training(store, tmp_path):
    with pytest.raises(RuntimeError, match="cannot be learned by heart"):
        train(
            "motionnet",
            str(store),
            tmp_path / "out",
            TrainOptions(steps=5, batch_size=8, learning_rate=1e-9),
            config=SMALL["motionnet"],
            max_trials=1,
        )
    assert not (tmp_path / "out.safetensors").exists()


# ---------------------------------------------------------------- what is shipped


def approaches() -> list[Path]:
    return [path for path in shipped() if not path.stem.startswith("grasp_")]


def test_shipped_policies_have_cards_of_trials_that_they_never_saw():
    mini = ReplayStore.open("mini")
    train_objects = {info.object for info in mini.infos if info.split == "train"}
    unseen = {info.object for info in mini.infos} - train_objects
    assert "motionnet" in {path.stem for path in approaches()}
    for path in approaches():
        about = read_card(path)
        card = about["card"]
        assert path.stat().st_size < 25e6 and about["policy"] == path.stem
        assert {"command", "replays", "trials", "options", "expected", "measured_on"} <= set(card)
        assert not unseen & set(card["objects"]), "scores must be on unseen objects too"
        assert card["measured_on"]["split"] == "test"
        assert all(low <= value <= high for value, low, high in card["expected"].values())


@pytest.mark.parametrize("name", [path.stem for path in approaches()])
def test_shipped_policies_approach_the_object(name):
    """A second of each of six unseen trials: the palm comes nearer to the nearest goal."""
    ids = [info.id for info in ReplayStore.open("mini").infos if info.kind.startswith("unseen_object")][:24:4]
    options = policies.env_options(name) | {"backend": "kinematic", "split": "test", "released_metrics": False}
    env = gym.make_vec(ID, num_envs=6, vectorization_mode="vector_entry_point", **options).unwrapped
    agent, state = policies.load(name, env), None
    observation, info = env.reset(seed=0, options={"replay": ids})
    begin = info["goal_distance"]
    for _ in range(30):
        action, state = agent.predict(observation, state)
        observation, _, _, _, info = env.step(action)
    nearer = begin - info["goal_distance"]
    assert nearer.mean() > 0.1 and (nearer > 0).sum() >= 5
    env.close()
