"""The IsaacGymEnvs task against doubles of Isaac Gym and of `VecTask`: the same task as our own environment."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from omegaconf import MissingMandatoryValue, OmegaConf

import dexh2r_gym
from dexh2r_gym.alignment import SpeedLimits
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.rewards import DEPTH_WEIGHT
from dexh2r_gym.export.isaacgym import export_isaacgym
from dexh2r_gym.rotations import quat_conjugate, quat_from_axis_angle, quat_multiply, quat_to_axis_angle

DOUBLE = Path(__file__).parent / "isaacgym_double"
SCRIPT = Path(__file__).parent / "isaacgym_vectask.py"
ROOT = Path(dexh2r_gym.__file__).parent
TASK = ROOT / "isaacgymenvs"
POSITION, GOAL = slice(0, 28), slice(117, 145)


def run(arguments, script=SCRIPT):
    """A script in a process that knows the doubles and the folder of the task, and nothing else of this project."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(DOUBLE), str(TASK)))}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


RESOLVERS = {  # of IsaacGymEnvs' train.py
    "eq": lambda a, b: a.lower() == b.lower(),
    "contains": lambda part, whole: part.lower() in whole.lower(),
    "if": lambda condition, yes, no: yes if condition else no,
    "resolve_default": lambda default, given: default if given == "" else given,
}


def composed(**changes):
    """Both yamls as IsaacGymEnvs' own config.yaml, given on its command line what differs, resolves them."""
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_resolver(name, resolver, replace=True)
    given = {"num_envs": "", "max_iterations": "", "experiment": "", "checkpoint": "", "seed": 42, "multi_gpu": False}
    given |= {
        "physics_engine": "physx",
        "pipeline": "gpu",
        "sim_device": "cuda:0",
        "num_threads": 4,
        "num_subscenes": 4,
    }
    parts = {"task": "DexH2RHandover", "train": "DexH2RHandoverPPO"}
    yamls = {part: OmegaConf.load(TASK / "cfg" / part / f"{name}.yaml") for part, name in parts.items()}
    try:
        return OmegaConf.to_container(OmegaConf.merge(given, yamls, changes), resolve=True, throw_on_missing=True)
    finally:
        OmegaConf.clear_resolvers()


def config(assets, num_envs, mode="easy"):
    """The task's part on a CPU."""
    task = {"env": {"assets": str(assets), "mode": mode}}
    return composed(num_envs=num_envs, pipeline="cpu", sim_device="cpu", task=task)["task"]


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    return export_isaacgym(tmp_path_factory.mktemp("isaac") / "validation", replays="mini", split="validation")


def towards(observation, dt):
    """Delta actions (B, 28) towards the goals that are shown."""
    seen = torch.from_numpy(observation).double()
    here, there, limits = seen[:, POSITION], seen[:, GOAL], SpeedLimits()
    turn = quat_multiply(quat_from_axis_angle(there[:, 3:6]), quat_conjugate(quat_from_axis_angle(here[:, 3:6])))
    return torch.cat(
        (
            (there - here)[:, :3] / (limits.palm_linear * dt / 3**0.5),
            quat_to_axis_angle(turn) / (limits.palm_angular * dt / 3**0.5),
            (there - here)[:, 6:] / (limits.joint * dt),
        ),
        dim=-1,
    ).clamp(-1, 1).float().numpy()  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    """All validation trials in our own environment, kinematic: what was done, seen and earned until each ended."""
    options = {"backend": "kinematic", "control_mode": "delta", "mode": "easy", "split": "validation"}
    env = HandoverVectorEnv(36, autoreset_mode=AutoresetMode.DISABLED, released_metrics=False, **options)
    observation, _ = env.reset(seed=0, options={"replay": env.replay_ids})
    out = {"obs": [observation], "reward": [], "done": [], "action": [], "late": []}
    over = np.zeros(36, bool)
    while not over.all():
        out["action"].append(towards(observation, 1.0 / env.task.fps))
        observation, reward, terminated, truncated, _ = env.step(out["action"][-1])
        over |= terminated | truncated
        for name, value in (("obs", observation), ("reward", reward), ("done", over), ("late", truncated)):
            out[name].append(value.copy())
    return {name: np.array(value) for name, value in out.items()}


def test_it_is_the_same_task(assets, ours, tmp_path):
    np.save(tmp_path / "actions.npy", ours["action"])
    done = run([json.dumps(config(assets, 36)), tmp_path / "actions.npy", tmp_path / "out.npz"])
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = np.load(tmp_path / "out.npz")
    trial = theirs["trial"]
    assert sorted(trial) == list(range(36))  # as many worlds as trials: each has its own
    assert theirs["actors"] == 36 * (1 + 2 + 16)  # hand, object twice, bones: nothing is made that is not shown
    agree, reached = [], 0
    for world, number in enumerate(trial):
        end = int(ours["done"][:, number].argmax())  # index of the last step
        first = int(theirs["done"][:, world].argmax()) if theirs["done"][:, world].any() else 10**6
        near = int((ours["obs"][: end + 1, number, 146] > 0).argmax() or end)  # alignment begins: by grids from here on
        a, b = ours["obs"][: near + 1, number], theirs["obs"][: near + 1, world]
        flip = np.sign((a[:, 59:63] * b[:, 59:63]).sum(-1, keepdims=True))  # a quaternion's sign means nothing
        b[:, 59:63] *= flip
        plain = np.r_[0:3, 6:31, 56:117, 117:120, 123:148]  # an axis-angle near half a turn has two signs
        np.testing.assert_allclose(b[:, plain], a[:, plain], atol=5e-3, err_msg=f"trial {number}")
        error = np.abs(theirs["reward"][:near, world] - ours["reward"][:near, number])
        assert error.max() < DEPTH_WEIGHT * 0.004 and np.median(error) < 1e-3  # m, of a distance that is looked up
        late = bool(ours["late"][end, number])
        reached += not late
        agree.append(abs(first - end) <= 3 and bool(theirs["late"][first, world]) == late)
    assert reached > 20
    assert np.mean(agree) > 0.9, agree


def test_worlds_share_out_the_trials(assets, tmp_path):
    np.save(tmp_path / "actions.npy", np.zeros((150, 36, 28), np.float32))
    done = run([json.dumps(config(assets, 2, "hard")), tmp_path / "actions.npy", tmp_path / "out.npz"])
    assert done.returncode == 0, done.stderr[-3000:]
    seen = np.load(tmp_path / "out.npz")
    assert seen["obs"].shape == (151, 2, 148) and np.isfinite(seen["obs"]).all()
    assert seen["done"].any() and (seen["done"] == seen["late"]).all()  # a hand that stands still is late
    ends = np.argwhere(seen["done"])
    for step, world in ends:  # what is seen then is the next beginning
        assert seen["obs"][step + 1, world, 147] == 0 and (seen["obs"][step + 1, world, 28:56] == 0).all()
    assert float(seen["succ"]) == 0.0


def test_errors(assets, tmp_path):
    np.save(tmp_path / "actions.npy", np.zeros((1, 36, 28), np.float32))
    tail = [tmp_path / "actions.npy", tmp_path / "out.npz"]
    for change, message in (
        ({"mode": "soft"}, "unknown mode 'soft'; choose one of easy, hard"),
        ({"assets": str(tmp_path)}, "dexh2r export isaacgym"),
        ({"controlFrequencyInv": 2}, "controlFrequencyInv must be 1"),
    ):
        cfg = config(assets, 1)
        cfg["env"].update(change)
        assert message in run([json.dumps(cfg), *tail]).stderr
    cfg = config(assets, 1)
    cfg["sim"]["dt"] = 0.01
    assert "it must be 0.016667" in run([json.dumps(cfg), *tail]).stderr


def test_the_launcher_registers_the_task_and_shows_its_configs():
    out = run(["task=DexH2RHandover", "headless=True"], TASK / "train.py")
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.splitlines()[-1])
    assert told["tasks"] == ["DexH2RHandover"]
    assert told["arguments"] == ["--config-dir", str(TASK / "cfg"), "task=DexH2RHandover", "headless=True"]


def test_the_yamls_resolve_as_isaacgymenvs_resolves_them():
    with pytest.raises(MissingMandatoryValue, match="assets"):
        composed()
    cfg = composed(task={"env": {"assets": "x"}})
    task, ppo = cfg["task"], cfg["train"]["params"]
    assert task["physics_engine"] == "physx" and task["env"]["numEnvs"] == 1024 and task["name"] == "DexH2RHandover"
    assert task["sim"]["use_gpu_pipeline"] is True and task["sim"]["physx"]["use_gpu"] is True
    assert task["sim"]["physx"]["num_threads"] == task["sim"]["physx"]["num_subscenes"] == 4
    assert ppo["algo"]["name"] == "a2c_continuous" and ppo["seed"] == 42
    assert ppo["load_checkpoint"] is False and ppo["load_path"] == ""
    assert ppo["config"]["name"] == ppo["config"]["full_experiment_name"] == "DexH2RHandover"
    assert ppo["config"]["num_actors"] == 1024 and ppo["config"]["max_epochs"] == 2000
    assert ppo["config"]["horizon_length"] * 1024 % ppo["config"]["minibatch_size"] == 0  # rl_games refuses others
    told = {"num_envs": 64, "max_iterations": 5, "experiment": "mine", "checkpoint": "a.pth", "multi_gpu": True}
    cfg = composed(**told, pipeline="cpu", task={"env": {"assets": "x"}})
    task, ppo = cfg["task"], cfg["train"]["params"]
    assert task["env"]["numEnvs"] == ppo["config"]["num_actors"] == 64 and not task["sim"]["use_gpu_pipeline"]
    assert ppo["load_checkpoint"] is True and ppo["load_path"] == "a.pth"
    assert (ppo["config"]["max_epochs"], ppo["config"]["name"], ppo["config"]["multi_gpu"]) == (5, "mine", True)


def test_the_yaml_has_the_worker_s_parameters():
    """`sim_params` of the worker, read from its source, against the yaml of the task."""
    source = (ROOT / "sim" / "isaacgym_worker.py").read_text()
    physx = config("x", 1)["sim"]["physx"]
    for name in ("solver_type", "rest_offset", "bounce_threshold_velocity", "max_depenetration_velocity"):
        value = re.search(rf"physx\.{name}(?:, params\.physx\.\w+)* = ([^#\n]+)", source)
        assert value is not None, name
        assert physx[name] == pytest.approx(float(value[1].split(",")[-1])), name
    assert config("x", 1)["sim"]["substeps"] == int(re.search(r"SUBSTEPS = (\d+)", source)[1])
    assert config("x", 1)["sim"]["dt"] == pytest.approx(1 / int(re.search(r"CALLS_PER_SECOND = (\d+)", source)[1]))


def readable():
    sys.path.insert(0, str(TASK))
    try:
        import package
    finally:
        sys.path.pop(0)
    return [ROOT / (name.replace(".", "/") + ".py") for name in package.READABLE] + sorted(TASK.glob("*.py"))


@pytest.mark.parametrize("path", readable(), ids=lambda p: str(p.relative_to(ROOT)))
def test_python_3_8_can_read_it(path):
    """Its syntax, and what it does when it runs, but for annotations, which are never looked at."""
    source = path.read_text()
    ast.parse(source, feature_version=(3, 8))
    vermin = pytest.importorskip("vermin", reason="vermin is not installed")
    assert "from __future__ import annotations" in source or path.name == "__init__.py"
    checked = vermin.Config()
    checked.add_exclusion("long")  # Python 2's, which a local function shares its name with
    visitor = vermin.visit(source, checked)
    minimum = max((v for v in visitor.minimum_versions() if v), default=(3, 0))
    assert minimum <= (3, 8), visitor.output_text()
    for node in ast.walk(ast.parse(source)):  # `zip(strict=)` is of 3.10
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "zip":
            assert not node.keywords, f"{path}:{node.lineno}"


def test_export_wants_a_new_folder(assets):
    with pytest.raises(FileExistsError, match="name a new folder"):
        export_isaacgym(assets, replays="mini", split="validation")
