"""MuJoCo Warp on the processor beside MuJoCo: the same motions and contacts, worlds on their own, errors, parity.

Its kernels are compiled at first use, about a minute; Warp keeps them. All simulators here share them.
"""

import json
import re
import sys
from types import SimpleNamespace

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from dexh2r_gym.bench_sweep import machine, measure, sweep, sweep_markdown
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.recordings import Recordings, open_split
from dexh2r_gym.parity import FREE, compare, markdown
from dexh2r_gym.scene import scene_model
from dexh2r_gym.sim import make_simulator
from dexh2r_gym.sim.randomise import SCALED
from dexh2r_gym.sim.union import DIFFERS, Union
from dexh2r_gym.types import HAND_STATE_SIZE, split_hand_state
from tests.blind import nothing_is_read

pytest.importorskip("mujoco_warp")
from dexh2r_gym.sim import mjwarp

DT = 1 / 30
WORLDS = 4
FRAMES = 40  # the last of each recording, in which the robot takes the object
PRESSED = 12  # more, in which the giver's hand moves into the robot's
POSES = ("hand_pose", "hand_joints", "object_pose")
TOUCH = ("giver_force", "giver_peak", "giver_impulse", "contact_speed", "load")


class Trials:
    """Recorded trials with four objects, of one to several parts, that four givers hold."""

    def __init__(self):
        store, ids, _ = open_split("mini", "all")
        rec = self.rec = Recordings(store)
        rec.indices([ids[i] for i in (3, 64, 125, 186)])
        self.pairs = [(rec.object_of(i), rec.givers[i]) for i in range(WORLDS)]
        assert len({len(obj.parts) for obj, _ in self.pairs}) > 2

    def frame(self, t, *, away=0.0):
        """Poses of frame t, the hand as demonstrated, `away` m from object and giver; the last frame lasts."""
        rec = self.rec
        at = [r.num_frames - FRAMES + min(t, FRAMES - 1) for r in rec.replays]
        rows = rec.offset[:WORLDS] + torch.tensor(at)
        demo = torch.stack([torch.as_tensor(r.demo[i]) for r, i in zip(rec.replays, at, strict=True)])
        hand_pose, joints = split_hand_state(demo.double())
        bones = rec.giver_bones[rows].clone()
        hand_pose[:, 1] += away
        bones[..., 1] -= away
        return hand_pose, joints, rec.object_pose[rows], bones


@pytest.fixture(scope="module")
def trials():
    return Trials()


EVERYWHERE = torch.ones(WORLDS, dtype=torch.bool)
ALL = torch.arange(WORLDS)


def started(trials, backend, *, away=0.0, factors=None, pairs=None):
    sim = make_simulator(backend, WORLDS, DT, num_threads=1)
    sim.prepare(pairs or trials.pairs)
    sim.reset(ALL, ALL, *trials.frame(0, away=away), factors)
    return sim


def values(state):
    return {name: getattr(state, name).clone() for name in (*POSES, "hand_velocity", "object_velocity", *TOUCH)}


def test_free_motion_is_mujocos(trials):
    """Hand, object and giver a metre apart from each other, as recorded, a whole episode."""
    ours, theirs = (started(trials, backend, away=1.0) for backend in ("mjwarp", "mujoco"))
    for t in range(1, FRAMES):
        for sim in (ours, theirs):
            sim.step(*trials.frame(t, away=1.0), EVERYWHERE, EVERYWHERE)
        for name in POSES:
            assert (getattr(ours.state, name) - getattr(theirs.state, name)).abs().max() < FREE / 10, (t, name)
        assert (ours.state.hand_velocity - theirs.state.hand_velocity).abs().max() < 1e-3
    assert not ours.state.diverged.any() and ours.state.giver_force.max() == 0


@pytest.fixture(scope="module")
def episodes(trials):
    """The states of both simulators, with contacts."""
    out = {}
    for backend in ("mjwarp", "mujoco"):
        sim = started(trials, backend)
        out[backend] = []
        for t in range(1, FRAMES + PRESSED):
            hand_pose, joints, object_pose, bones = trials.frame(t)
            bones[..., :3] += max(t - FRAMES, 0) / PRESSED * (hand_pose[:, None, :3] - bones[:, 5:6, :3])
            sim.step(hand_pose, joints, object_pose, bones, EVERYWHERE, EVERYWHERE)
            out[backend].append(sim.state)
    return out


def test_contacts_are_mujocos(episodes):
    """Forces agree within a few per cent until many contacts at once decide differently in single precision."""
    ours, theirs = episodes["mjwarp"], episodes["mujoco"]
    pressed = torch.stack([s.giver_force for s in theirs])
    assert (pressed.max(dim=0).values > 5.0).all(), "the giver's hands are pressed"
    assert (torch.stack([s.load.norm(dim=-1) for s in theirs]).amax(dim=0) > 0.1).sum() > 2, "objects are touched"
    for name in TOUCH:
        a, b = (torch.stack([getattr(s, name) for s in run]) for run in (ours, theirs))
        close = torch.isclose(a, b, rtol=0.05, atol=0.05 * float(b.abs().max()) / 10)
        assert close.float().mean() > 0.97, name
    for name in POSES:
        a, b = (torch.stack([getattr(s, name) for s in run]) for run in (ours, theirs))
        assert (a - b).abs().median() < FREE and (a - b).abs().quantile(0.95) < 1e-3, name
    assert not ours[-1].diverged.any()


def test_each_world_is_as_it_would_be_alone(trials, episodes):
    """The same bits with other objects beside it, and with a model that has no other object's meshes."""
    first = [(trials.pairs[2])] * WORLDS
    sim = make_simulator("mjwarp", WORLDS, DT)
    sim.prepare(first)
    rows = torch.full((WORLDS,), 2)
    sim.reset(ALL, ALL, *(x[rows] for x in trials.frame(0)))
    for t in range(1, FRAMES):
        sim.step(*(x[rows] for x in trials.frame(t)), EVERYWHERE, EVERYWHERE)
        beside = values(episodes["mjwarp"][t - 1])
        for name, value in values(sim.state).items():
            assert torch.equal(value[0], value[3]), "all worlds here are one"
            torch.testing.assert_close(value[0], beside[name][2], rtol=0, atol=0, msg=f"{name}, frame {t}")


def test_nothing_is_read_back_from_the_device(trials):
    """Frames, and resets by mask, as on a GPU that the host must not wait for."""
    sim = started(trials, "mjwarp", factors=torch.ones(WORLDS, 3, dtype=torch.float64))
    frames = [trials.frame(t) for t in range(3)]
    some = torch.tensor([True, False, True, False])
    with nothing_is_read():
        sim.step(*frames[1], EVERYWHERE, EVERYWHERE)
        sim.reset(some, ALL, *frames[0], torch.full((WORLDS, 3), 1.2, dtype=torch.float64))
        sim.step(*frames[2], some, EVERYWHERE)
    assert not sim.state.diverged.any()


def test_an_environment_on_it_reads_nothing_either():
    """Steps with observations, goals, alignment and metrics, and resets by mask, all as tensors."""
    options = {"backend": "mjwarp", "device": "cpu", "output": "torch", "released_metrics": False}
    env = HandoverVectorEnv(WORLDS, split="validation", autoreset_mode="Disabled", **options)
    env.reset(seed=1)
    env.step(torch.zeros(WORLDS, HAND_STATE_SIZE))  # brings what never changes to the device
    masks = torch.tensor([[True, False, True, False], [False] * WORLDS])
    with nothing_is_read():
        for mask in masks.unbind():
            observation, reward, terminated, truncated, _ = env.step(torch.zeros(WORLDS, HAND_STATE_SIZE))
            env.reset(options={"reset_mask": terminated | truncated | mask})
    assert observation.isfinite().all() and reward.isfinite().all()
    env.close()


def test_torch_sees_the_arrays_of_warp_themselves(trials):
    """What is read and written of them are no copies."""
    sim = started(trials, "mjwarp")
    seen = [(sim._qpos, sim._data.qpos), (sim._qvel, sim._data.qvel), (sim._felt, sim._sensed)]
    seen += list(zip(sim._plan, sim._told, strict=True))
    seen += [(field, getattr(sim._model, name)) for name, field in sim._fields.items()]
    assert len(seen) > 10
    for view, array in seen:
        assert view.data_ptr() == array.ptr


@pytest.mark.parametrize("masked", [False, True])
def test_resets_and_frames_of_some_worlds_leave_the_others(trials, masked):
    """A world that stands still keeps its bits; so does one beside a world that is reset; a reset forgets what was."""
    sim = started(trials, "mjwarp")
    some = torch.tensor([True, False, True, False])
    for t in range(1, 12):
        sim.step(*trials.frame(t), EVERYWHERE, EVERYWHERE)
    before = values(sim.state)
    sim.step(*trials.frame(12), some, EVERYWHERE)
    for name, value in values(sim.state).items():
        assert torch.equal(value[~some], before[name][~some]), name
    assert not torch.equal(sim.state.hand_pose[some], before["hand_pose"][some])
    before = values(sim.state)
    start = trials.frame(0)
    if masked:
        sim.reset(some, ALL, *start)
    else:
        w = some.nonzero().squeeze(1)
        sim.reset(w, w, *(x[w] for x in start))
    torch.testing.assert_close(sim.state.hand_pose[some], start[0][some], rtol=0, atol=1e-6)
    for name, value in values(sim.state).items():
        assert torch.equal(value[~some], before[name][~some]), name
    fresh = started(trials, "mjwarp")
    for t in range(1, 5):
        for each in (sim, fresh):
            each.step(*trials.frame(t), some, EVERYWHERE)
    for name, value in values(fresh.state).items():
        assert torch.equal(value[some], values(sim.state)[name][some]), name


def test_a_world_may_change_its_object(trials):
    """Also to one that is told of later: the model is built anew, and the other worlds go on as they were."""
    sim, whole = started(trials, "mjwarp", pairs=trials.pairs[:3] + trials.pairs[:1]), started(trials, "mjwarp")
    for t in range(1, 6):
        sim.step(*trials.frame(t), EVERYWHERE, EVERYWHERE)
    sim.prepare(trials.pairs[3:])
    last = torch.tensor([3])
    sim.reset(last, torch.tensor([4]), *(x[last] for x in trials.frame(0)))
    for t in range(1, 20):
        whole.step(*trials.frame(t), EVERYWHERE, EVERYWHERE)
        sim.step(*trials.frame(t), last == ALL, EVERYWHERE)
    for name, value in values(whole.state).items():
        assert torch.equal(value[3], values(sim.state)[name][3]), name


def test_a_new_giver_needs_no_new_model(trials):
    sim = started(trials, "mjwarp")
    model, last = sim._model, torch.tensor([3])
    sim.prepare([(trials.pairs[3][0], trials.pairs[0][1])])
    before = sim._fields["geom_size"].clone()
    sim.reset(last, torch.tensor([4]), *(x[last] for x in trials.frame(0)))
    assert sim._model is model
    assert torch.equal(sim._fields["geom_size"][:3], before[:3]) and not torch.equal(
        sim._fields["geom_size"][3], before[3]
    )


def test_objects_fall_when_they_are_let_go(trials):
    sims = [started(trials, backend, away=1.0) for backend in ("mjwarp", "mujoco")]
    for _ in range(6):
        for sim in sims:
            sim.step(*trials.frame(0, away=1.0), EVERYWHERE, torch.tensor([True, False, True, False]))
    ours, theirs = (sim.state.object_pose for sim in sims)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=FREE)
    assert (trials.frame(0)[2][:, 2] - ours[:, 2] > 0.1).tolist() == [False, True, False, True]


def test_factors_are_those_of_mujoco(trials):
    """Friction, mass and strength of each world: motions as with `randomised_model`."""
    factors = torch.tensor([[0.5, 2.0, 0.7], [1.5, 0.6, 1.4], [1.0, 1.0, 1.0], [2.0, 1.3, 0.5]], dtype=torch.float64)
    ours, theirs, plain = (
        started(trials, backend, away=1.0, factors=f)
        for backend, f in (("mjwarp", factors), ("mujoco", factors), ("mujoco", None))
    )
    for t in range(1, 15):
        for sim in (ours, theirs, plain):
            hand_pose, joints, *rest = trials.frame(t, away=1.0)
            sim.step(hand_pose, joints + 0.1 * (t % 3), *rest, EVERYWHERE, EVERYWHERE)
        for name in POSES:
            torch.testing.assert_close(getattr(ours.state, name), getattr(theirs.state, name), rtol=0, atol=FREE)
    moved = (theirs.state.hand_joints - plain.state.hand_joints).abs().amax(dim=-1)
    assert (moved > 1e-3).tolist() == [True, True, False, True]
    for name, field in ours._fields.items():
        if name in SCALED and name != "geom_friction":
            assert not torch.equal(field[0], field[3]), name


def test_tables_are_what_models_of_one_pair_have(trials):
    """Beside meshes and what only MuJoCo's own tree of boxes, renderer or resting bodies use, nothing else differs."""
    union = Union.of(trials.pairs, DT / 6)
    models = [scene_model(*pair, timestep=DT / 6) for pair in trials.pairs]
    known = {*DIFFERS, "body_sameframe", "dof_M0", "dof_length", "geom_conaffinity", "geom_contype", "geom_dataid"}
    for name in dir(mujoco.MjModel):
        first = getattr(models[0], name)
        if isinstance(first, np.ndarray) and not name.startswith(("mesh_", "bvh_", "_")) and name not in known:
            if name not in ("geom_rgba", "geom_sameframe"):
                assert all(np.array_equal(first, getattr(m, name)) for m in models), name
    for row, model in enumerate(models):
        for geom in range(model.ngeom):
            mesh, other = int(union.geom_dataid[row, geom]), model.geom_dataid[geom]
            if mesh < 0:  # what is not there, or collides with nothing, or is no mesh
                assert other < 0 or model.geom_conaffinity[geom] == 0
                continue
            a, b = union.model.mesh(mesh), model.mesh(other)
            np.testing.assert_array_equal(
                union.model.mesh_vert[int(a.vertadr[0]) :][: int(a.vertnum[0])],
                model.mesh_vert[int(b.vertadr[0]) :][: int(b.vertnum[0])],
            )
            assert a.graphadr >= 0


def test_givers_are_of_one_kind(trials):
    with pytest.raises(ValueError, match="all hands of MANO"):
        Union.of([trials.pairs[0], (trials.pairs[0][0], SimpleNamespace(convex=True))], DT / 6)


def test_what_finds_no_room_is_not_dropped_in_silence(trials, monkeypatch):
    """Contacts beyond the room there is end the episode."""
    monkeypatch.setattr(mjwarp, "CONTACTS", 0)
    monkeypatch.setattr(mjwarp, "SPARE_CONTACTS", 2)
    sim = started(trials, "mjwarp")
    for t in range(FRAMES - 12, FRAMES):
        sim.step(*trials.frame(t), EVERYWHERE, EVERYWHERE)
    assert sim.state.diverged.all()
    assert torch.isfinite(sim.state.hand_pose).all()


def test_a_world_that_diverges_does_so_alone(trials):
    sim, whole = started(trials, "mjwarp"), started(trials, "mjwarp")
    sim._qvel[1, 0] = float("nan")
    for t in range(1, 6):
        for each in (sim, whole):
            each.step(*trials.frame(t), EVERYWHERE, EVERYWHERE)
    assert sim.state.diverged.tolist() == [False, True, False, False]
    sound = ~sim.state.diverged
    for name, value in values(sim.state).items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value[sound], values(whole.state)[name][sound]), name
    sim.reset(torch.tensor([1]), torch.tensor([1]), *(x[1:2] for x in trials.frame(0)))
    sim.step(*trials.frame(1), EVERYWHERE, EVERYWHERE)
    assert not sim.state.diverged.any()


# --- the environment ---


@pytest.mark.parametrize("ending", ["grasp", "hold"])
def test_checkers(ending):
    env = gym.make("DexH2R-Handover-v0", backend="mjwarp", device="cpu", ending=ending)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_parity_is_measured_and_written(dexh2r, tmp_path):
    """A few episodes here; README has 64."""
    assert dexh2r(f"parity --device cpu --episodes 4 --num-envs 4 --out {tmp_path}") == 0
    result = json.loads((tmp_path / "parity.json").read_text())
    assert result["agreement"] == 1.0 and len(result["rows"]) == 4
    assert all(row["free"] < FREE for row in result["rows"])
    assert {verdict for row in result["rows"] for verdict in row["verdicts"]} >= {"REACHED"}
    assert "4 of 4" in (tmp_path / "parity.md").read_text()


def record(status="REACHED", frames=10, touch=5, shift=0.0, shifted=8):
    moved = np.zeros((frames, HAND_STATE_SIZE))
    moved[shifted:, 0] = shift
    thing = np.tile([0.0, 0, 1, 1, 0, 0, 0], (frames, 1))
    load = np.zeros((frames, 3))
    load[touch:, 2] = 1.0
    zero = np.zeros(frames)
    return {
        "replay": "a",
        "d": zero,
        "depth": zero,
        "giver_force": zero,
        "hand_state": moved,
        "object_pose": thing,
        "load": load,
        "status": status,
        "outcome": "NOT_REACHED",
        "reason": "r",
    }


def test_differences_are_listed():
    row = compare(record(), record(status="TIMEOUT_ALIGNMENT", frames=12, shift=0.01))
    assert row["verdicts"] == ["REACHED", "TIMEOUT_ALIGNMENT"] and not row["same"]
    assert (row["touch"], row["parted"], row["free"], row["frames"]) == (5, 8, 0.0, [10, 12])
    assert row["apart"] == pytest.approx(0.01)
    flipped = record()
    flipped["object_pose"][:, 3] = -1.0
    assert compare(record(), flipped)["apart"] == 0.0, "one rotation has two quaternions"
    setting = {"agent": "scripted", "mode": "hard", "ending": "grasp", "replays": "mini", "split": "all"}
    text = markdown(setting | {"backends": ["mujoco", "mjwarp"], "rows": [row], "agreement": 0.0})
    assert "0 of 1" in text and "| a | REACHED | TIMEOUT_ALIGNMENT | frame 5 | frame 8 |" in text


def test_speed_is_measured():
    row = measure("state", 2, "cpu", 0.1, "mini")
    assert row["steps_per_s"] > 0 and row["diverged"] == 0 and row["memory_gb"] >= 0
    result = {"versions": {"torch": "9"}, "seconds": 1.0, "rows": [row]}
    here = sweep_markdown(result | {"machine": machine("cpu")})
    assert here.startswith("**No GPU**") and "| state | 2 |" in here
    card = {"device": "cuda", "name": "H200", "memory_gb": 141.0, "driver": "999.9"}
    assert sweep_markdown(result | {"machine": card}).startswith("H200 (141 GB), driver 999.9; torch 9; 1 s")


def test_without_a_gpu_a_sweep_runs_on_the_processor_and_says_so(tmp_path):
    text = sweep(tmp_path / "sweep", device="cpu", num_envs=(2,), seconds=0.1, progress=False)
    assert text == (tmp_path / "sweep/sweep.md").read_text() and text.startswith("**No GPU**")
    found = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert [(row["observation"], row["num_envs"]) for row in found["rows"]] == [("state", 2), ("point_cloud", 2)]
    assert all(row["steps_per_s"] > 0 and row["diverged"] == 0 for row in found["rows"])
    assert found["machine"]["device"] == "cpu" and found["versions"]["mujoco-warp"]


# --- errors ---


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    with pytest.raises(ImportError, match=re.escape('pip install "dexh2r-gym[gpu]"')):
        make_simulator("mjwarp", 2, DT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named():
    with pytest.raises(RuntimeError, match=r"needs an NVIDIA GPU, its driver and a build.*device='cpu' needs no GPU"):
        make_simulator("mjwarp", 2, DT, device="cuda")


def test_other_devices_are_refused():
    with pytest.raises(RuntimeError, match="'cuda' and 'cpu', not on 'meta'"):
        make_simulator("mjwarp", 2, DT, device="meta")


def test_grips_are_asked_for_at_first(trials):
    with pytest.raises(ValueError, match="without grips"):
        started(trials, "mjwarp").grip(ALL)
    sim = make_simulator("mjwarp", WORLDS, DT, grips=True)
    sim.prepare(trials.pairs)
    sim.reset(ALL, ALL, *trials.frame(0))
    sim.grip(ALL[1:2])
    assert sim._grip.tolist() == [False, True, False, False]
    sim.reset(ALL[:2], ALL[:2], *(x[:2] for x in trials.frame(0)))
    assert not sim._grip.any(), "until they are reset"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_environment_runs_it_on_a_gpu_unless_told_otherwise():
    with pytest.raises(ValueError, match=r"device 'cuda' needs an NVIDIA GPU.*device='cpu' needs no GPU"):
        HandoverVectorEnv(2, backend="mjwarp")
