"""Worlds on a torch device: the same episodes as with numpy, and nothing of a step is read back from the device."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.depth import hand_object_depth
from dexh2r_gym.depth_blind import hand_object_depth_blind
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.sb3 import HandoverVecEnv
from dexh2r_gym.envs.tally import Tally
from dexh2r_gym.hand import clamp_joints
from dexh2r_gym.metrics import paper_metrics
from dexh2r_gym.objects import ObjectBatch
from dexh2r_gym.replay import ReplayStore, write_store
from dexh2r_gym.rotations import pose_multiply
from dexh2r_gym.safety import safety_metrics
from dexh2r_gym.sensing.hashing import joined
from dexh2r_gym.sensing.noise import PoseNoise
from dexh2r_gym.sensing.sampling import pick_evenly, pick_evenly_blindly
from dexh2r_gym.sim.kinematic import KinematicSimulator
from dexh2r_gym.types import GIVER_PARTS, join_hand_state
from dexh2r_gym.worlds import among, chosen, mask_of, put, put_, put_at_, take
from tests.blind import nothing_is_read, without_values
from tests.trials import object_of, trial_of

MINI = ReplayStore.open("mini")
EVERYTHING = {
    "obs_mode": "state_dict",
    "pose_noise": PoseNoise(),
    "latency": 2,
    "obs_delay": 2,
    "giver": {"time_warp": 0.2, "hesitation": 0.3, "pose_offset": 0.02},
    "randomisation": {"joints": 0.01},
    "reward_mode": "sparse",
    "control_mode": "delta",
}
CLOUDS = (
    {"num_points": 300, "cloud_cameras": ("kinect_0", "wrist_0")},
    {"num_points": 64, "cloud": "clean", "sampler": "farthest", "crop": ((-1, -1, 0), (1, 1, 2))},
)


def make(output="torch", num_envs=5, autoreset="SameStep", **options):
    options = {"split": "test", "backend": "kinematic", "released_metrics": False} | options
    return HandoverVectorEnv(num_envs, autoreset_mode=autoreset, output=output, **options)


def to_goal(env):
    """Actions (B, 28) that go to the goals."""
    pose, joints = env.task._goal()
    return join_hand_state(pose_multiply(env.task.scene.object_pose, pose), joints)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The path of a store of four trials with two objects: their clouds are soon prepared."""
    names, found = dict.fromkeys(MINI.info(i).object for i in MINI.ids("test")), []
    for name in list(names)[:2]:
        found += [MINI.replay(i) for i in MINI.ids("test") if MINI.info(i).object == name][:2]
    objects = {replay.object: object_of(replay) for replay in found}
    path = tmp_path_factory.mktemp("few") / "few.zarr"
    return write_store(path, [trial_of(r) for r in found], objects, licence="CC0-1.0", provenance={})


@pytest.mark.parametrize("speed", [(1.5, 4.0, 4.0), None])
def test_episodes_and_their_scores_are_those_of_numpy(speed):
    host, blind = (make(output, 16, "Disabled", speed_limits=speed, mode="easy") for output in ("numpy", "torch"))
    replays = host.replay_ids[::3]
    seen, info = host.reset(seed=0, options={"replay": replays})
    tensors, infos = blind.reset(seed=0, options={"replay": replays})
    np.testing.assert_array_equal(seen, tensors.numpy())
    assert [blind.replay_ids[i] for i in infos["trial"]] == info["replay"].tolist() == replays
    scored = np.zeros(16, dtype=bool)
    for _ in range(130):
        a, b = host.step(to_goal(host).numpy()), blind.step(to_goal(blind))
        np.testing.assert_allclose(a[0], b[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(a[1], b[1].numpy(), atol=5e-3)
        for x, y in zip(a[2:4], b[2:4], strict=True):
            np.testing.assert_array_equal(x, y.numpy())
        np.testing.assert_allclose(a[4]["depth"], b[4]["depth"].numpy(), atol=2.5e-4)
        ended = a[4].get("_succ", np.zeros(16, dtype=bool))
        np.testing.assert_array_equal(ended, b[4]["_succ"].numpy())
        scored |= ended
        for key in ("succ", "safe", "pen_fr", "infer_fr", "end_frame", "max_giver_force"):
            if ended.any():
                np.testing.assert_array_equal(a[4][key][ended], b[4][key].numpy()[ended])
        for key in ("pen_dep", "traj_len"):
            if ended.any():
                np.testing.assert_allclose(a[4][key][ended], b[4][key].numpy()[ended], rtol=1e-4, atol=1e-9)
        if scored.all():
            break
    assert scored.all() and blind.task.reached.any()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
@pytest.mark.parametrize("options", [{}, EVERYTHING, *CLOUDS], ids=["state", "everything", "observed", "clean"])
def test_a_step_reads_nothing(few, mode, options):
    if "num_points" in options:
        options = options | {"obs_mode": "point_cloud+state", "goal_pos": True}
    env = make(autoreset=mode, speed_limits=None, replays=few, **options)
    env.reset(seed=1)
    env.step(torch.zeros(5, 28))  # brings what never changes to the device
    ended = torch.zeros(5)
    for _ in range(8):
        action = torch.zeros(5, 28) if options is EVERYTHING else to_goal(env)
        with nothing_is_read():
            _, _, terminated, truncated, _ = env.step(action)
            if mode == "Disabled":
                env.reset(options={"reset_mask": terminated | truncated})
        ended += terminated | truncated
    assert options is EVERYTHING or (ended >= 2).all()
    without_values((env.options, env.task, env._episodes), {})
    object.__setattr__(env.options, "device", "meta")
    env.step(torch.zeros(5, 28, device="meta"))
    with nothing_is_read():
        observation, reward, terminated, *_ = env.step(torch.zeros(5, 28, device="meta"))
    parts = observation.values() if isinstance(observation, dict) else [observation]
    assert {x.device.type for x in (*parts, reward, terminated)} == {"meta"}


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool((x > 0).any()),
        lambda x: float(x[0]),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.index_put((x > 0,), x.new_zeros(())),
        lambda x: x.masked_select(x > 0),
        lambda x: x.to("meta"),
        lambda x: torch.tensor([1.0]) + x,
        lambda x: x.new_tensor([1.0]),
    ],
)
def test_the_guard_finds_what_is_read(read):
    with pytest.raises(AssertionError), nothing_is_read():
        read(torch.ones(3))


@pytest.mark.parametrize("options", CLOUDS)
def test_clouds_are_those_of_numpy(few, options):
    host, blind = (make(o, 4, "Disabled", obs_mode="point_cloud", replays=few, **options) for o in ("numpy", "torch"))
    for env in (host, blind):
        env.reset(seed=0, options={"replay": 2 * env.replay_ids})
    blind.task.observer._key = host.task.observer._key
    same = 0
    for _ in range(20):
        action = to_goal(host)
        (a, *_, seen), (b, *_, seen_blindly) = host.step(action.numpy()), blind.step(action)
        counts, counts_blindly = seen["points_seen"], seen_blindly["points_seen"].numpy()
        assert (np.abs(counts - counts_blindly) <= 3).all()
        same += (a["point_cloud"] == b["point_cloud"].numpy()).all((1, 2)).sum()
    assert same >= 60  # of 80; one point more or less moves those that follow


def test_worlds_draw_trials_by_their_seeds_alone():
    def trials(num_envs, seed):
        env = make(num_envs=num_envs, speed_limits=None)
        _, info = env.reset(seed=seed)
        seen = [info["trial"]]
        for _ in range(8):
            seen.append(env.step(to_goal(env))[-1]["trial"])
        return torch.stack(seen, dim=1)

    a, b, c = trials(4, 3), trials(2, 4), trials(4, [3, None, 5, 6])
    assert torch.equal(a, trials(4, 3)) and torch.equal(a[1:3], b) and torch.equal(a[[0, 2, 3]], c[[0, 2, 3]])
    assert len(a.unique()) > 8
    env = make(num_envs=512)
    _, info = env.reset(seed=0)
    counts = torch.bincount(info["trial"], minlength=48)
    assert len(counts) == 48 and counts.max() < 4 * 512 / 48


def test_same_step_tells_the_end_beside_the_beginning():
    env = make(speed_limits=None)
    env.reset(seed=0)
    for _ in range(6):
        observation, _, terminated, truncated, info = env.step(to_goal(env))
        ended = terminated | truncated
        assert torch.equal(info["_final_obs"], ended) and torch.equal(info["_final_info"], ended)
        assert torch.equal(info["final_info"]["_succ"], ended)
        assert (info["final_obs"][~ended] == observation[~ended]).all()
        if ended.any():
            assert (info["final_obs"][ended] != observation[ended]).any(-1).all()
            assert (info["final_info"]["status"][ended] != 0).all() and (env.task.status == 0).all()
            assert (info["final_info"]["goal_distance"][ended] < 0.01).all()


def test_next_step_and_disabled_are_those_of_numpy():
    """The same flags as with numpy, whose trials are drawn otherwise: episodes of the same trials, one split of one."""
    for mode in ("NextStep", "Disabled"):
        host, blind = (make(o, 3, mode, speed_limits=None) for o in ("numpy", "torch"))
        trial = host.replay_ids[0]
        for env in (host, blind):
            env.reset(seed=0, options={"replay": trial})
        for _ in range(3):
            a, b = host.step(to_goal(host).numpy()), blind.step(to_goal(blind))
            np.testing.assert_array_equal(a[2], b[2].numpy())
            if mode == "Disabled" and a[2].any():
                mask = np.array([True, False, True])
                host.reset(options={"reset_mask": mask, "replay": trial})
                blind.reset(options={"reset_mask": torch.from_numpy(mask), "replay": trial})
                assert host.task.status.tolist() == blind.task.status.tolist() == [0, 1, 0]
                return
            if a[2].any():
                a, b = host.step(to_goal(host).numpy()), blind.step(to_goal(blind))
                assert not a[2].any() and not b[2].any() and (b[1] == 0).all()
                break


def test_an_action_that_is_not_finite_ends_its_world_alone():
    env = make(num_envs=3, autoreset="Disabled")
    env.reset(seed=0)
    action = to_goal(env)
    action[1, 4] = torch.nan
    observation, _, terminated, _, info = env.step(action)
    assert terminated.tolist() == [False, True, False] and info["status"].tolist() == [0, 4, 0]
    assert observation.isfinite().all()
    with pytest.raises(ValueError, match=r"\(3, 28\)"):
        env.step(action[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alignment": "none"}, "alignment='env'.*got alignment='none'"),
        ({"released_metrics": True}, "got released_metrics=True"),
        ({"backend": "mujoco"}, "needs a backend that runs on any device: .*kinematic.*got 'mujoco'"),
        ({"obs_mode": "rgbd"}, "no pictures"),
        ({"output": "jax"}, "numpy, torch"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"output": "numpy", "backend": "mujoco", "device": "meta"}, "runs on the CPU"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**({"output": "torch"} | options))


def test_what_takes_numpy_says_so():
    for made in (lambda: gym.make("DexH2R-Handover-v0", output="torch"), lambda: HandoverVecEnv(2, output="torch")):
        with pytest.raises(ValueError, match="output"):
            made()
    env = make(num_envs=1)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="output='numpy'"):
        env.episode_record(0)
    with pytest.raises(ValueError, match="not of split 'test'"):
        env.reset(options={"replay": MINI.ids("train")[0]})


def test_blind_depth_is_the_exact_one():
    """Hands at goals of every object, moved and closed at random, most of them in the object."""
    rng, batch = torch.Generator().manual_seed(0), ObjectBatch([MINI.object_model(n) for n in MINI.object_names])
    replays = [MINI[i] for i in range(0, len(MINI), 2)]
    goal = [torch.randint(len(r.goal_pose), (3,), generator=rng) for r in replays]
    pose = torch.cat([r.goal_pose[g] for r, g in zip(replays, goal, strict=True)])
    joints = torch.cat([r.goal_joints[g] for r, g in zip(replays, goal, strict=True)])
    index = torch.tensor([MINI.object_names.index(r.object) for r in replays]).repeat_interleave(3)
    pose[:, :3] += 0.01 * torch.randn(len(pose), 3, generator=rng, dtype=torch.float64)
    state = join_hand_state(pose, clamp_joints(joints + 0.2 * torch.randn(joints.shape, generator=rng).double()))
    still = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64).repeat(len(state), 1)
    exact = hand_object_depth(state, still, index, batch)
    error = (hand_object_depth_blind(state, still, index, batch) - exact).abs()
    assert (exact > 0.001).float().mean() > 0.8
    assert error.max() < 2.5e-4 and (error < 1e-6).float().mean() > 0.98
    rough = hand_object_depth(state, still, index, batch, exact=False)
    torch.testing.assert_close(
        hand_object_depth_blind(state, still, index, batch, exact=False), rough, atol=1e-4, rtol=0
    )
    away = still.clone()
    away[:, 0] = 3.0
    assert not hand_object_depth_blind(state, away, index, batch).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_the_tally_is_the_metrics(seed, frames):
    """Worlds that start again at some frames, against what stands in the metrics of whole episodes."""
    rng, worlds = torch.Generator().manual_seed(seed), 3
    scene, tally = KinematicSimulator(worlds, 0.1).state, Tally(worlds)
    past: list[list[tuple]] = [[] for _ in range(worlds)]
    for _ in range(frames):
        scene.hand_pose = torch.randn(worlds, 7, generator=rng, dtype=torch.float64)
        scene.giver_peak = 100 * torch.randn(worlds, len(GIVER_PARTS), generator=rng).double().clamp_min(0)
        scene.giver_impulse, scene.giver_force = scene.giver_peak / 10, scene.giver_peak.sum(-1)
        scene.contact_speed = torch.rand(worlds, generator=rng, dtype=torch.float64)
        depth = 0.003 * torch.rand(worlds, generator=rng, dtype=torch.float64)
        on, anew = (torch.rand(worlds, generator=rng) < p for p in (0.8, 0.2))
        tally.start(anew)
        tally.add(on, scene, depth)
        for w in range(worlds):
            past[w] = [] if anew[w] else past[w]
            if on[w]:
                values = depth, scene.hand_pose[:, :3], scene.giver_peak, scene.giver_impulse, scene.contact_speed
                past[w].append(tuple(x[w] for x in values))
    got = tally.scores(torch.zeros(worlds, dtype=torch.bool), 0.1, physical=True)
    for w in range(worlds):
        if not past[w]:
            assert got["infer_fr"][w] == 0
            continue
        depths, palm, peak, impulse, speed = (torch.stack(x)[None] for x in zip(*past[w], strict=True))
        length = torch.tensor([depths.shape[1]])
        told = paper_metrics(depths, palm, length, torch.zeros(1, dtype=torch.bool))
        told |= safety_metrics(peak, impulse, speed, length, 0.1)
        for key, value in told.items():
            torch.testing.assert_close(got[key][w], value[0], atol=1e-12, rtol=1e-12, msg=key)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_numbers_and_masks_of_worlds_do_the_same(seed):
    rng = torch.Generator().manual_seed(seed)
    mask, where, values = torch.rand(6, generator=rng) < 0.5, torch.rand(6, generator=rng) < 0.5, torch.rand(6, 4)
    new, column = torch.rand(6, 4), torch.randint(4, (6,), generator=rng)
    rows, before = chosen(mask, blindly=False), values.clone()
    assert chosen(mask, blindly=True) is mask and torch.equal(mask_of(rows, 6), mask)
    assert torch.equal(put(values, rows, new[rows]), put(values, mask, new)) and torch.equal(values, before)
    assert torch.equal(put(values, rows, 2), put(values, mask, 2))
    assert torch.equal(take(values, rows), take(values, mask)[mask])
    assert torch.equal(mask_of(among(rows, where[rows]), 6), among(mask, where))
    a, b = values.clone(), values.clone()
    put_at_(a, rows, column[rows], new[rows, 0])
    put_at_(b, mask, column, new[:, 0])
    assert torch.equal(a, b)
    put_(a, rows, new[rows])
    put_(b, mask, new)
    assert torch.equal(a, b)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 30))
def test_points_are_picked_as_with_numpy(seed, slots, count):
    rng = torch.Generator().manual_seed(seed)
    kept, phase = torch.rand(5, slots, generator=rng) < 0.4, torch.rand(5, generator=rng, dtype=torch.float64)
    np.testing.assert_array_equal(
        pick_evenly_blindly(kept, count, phase).numpy(), pick_evenly(kept.numpy(), count, phase.numpy())
    )


def test_joined_keys_are_all_different():
    seeds, episodes = torch.arange(100).repeat_interleave(100), torch.arange(100).repeat(100)
    keys = joined(seeds, episodes)
    assert len(keys.unique()) == 10000 and keys.min() >= 0 and keys.max() < 1 << 62
    assert torch.equal(joined(seeds, 7), joined(seeds, torch.full_like(seeds, 7)))
