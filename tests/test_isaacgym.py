"""Isaac Gym's backend against the strict double of its API in `isaacgym_double`: the binary itself is not to be had."""

import ast
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
import trimesh
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import policies
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.hand import OPEN_HAND, clamp_joints
from dexh2r_gym.objects import load_object
from dexh2r_gym.objects.build import build_object
from dexh2r_gym.rotations import quat_angle, quat_from_axis_angle
from dexh2r_gym.sim import isaacgym_process
from dexh2r_gym.sim.isaacgym import IsaacGymSimulator
from dexh2r_gym.sim.isaacgym_process import IsaacGymError

DOUBLE = Path(__file__).parent / "isaacgym_double"
WORKER = Path(isaacgym_process.__file__).with_name("isaacgym_worker.py")
DT = 1.0 / 30.0


@pytest.fixture
def double(monkeypatch):
    """The double stands in for Isaac Gym, in this interpreter."""
    monkeypatch.setenv("DEXH2R_ISAACGYM_PYTHON", sys.executable)
    monkeypatch.setenv("DEXH2R_ISAACGYM_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(DOUBLE))
    monkeypatch.setattr(isaacgym_process, "SUPPORTED_PYTHON", (sys.version_info[:2],))


def vector(backend="isaacgym", num_envs=3, **options):
    options = {"mode": "easy", "split": "test", "released_metrics": False} | options
    return HandoverVectorEnv(num_envs, backend=backend, autoreset_mode=AutoresetMode.DISABLED, **options)


def one_object(seed):
    """Replays of `mini` that show few objects, so that few actors are made."""
    env = vector("kinematic", 1)
    names = sorted({i for i in env.replay_ids if env.task.store.info(i).object == "hammer"})
    return [names[(seed + k) % len(names)] for k in range(3)]


def play(env, replays, frames=None):
    """All worlds to the end, or so many frames, by the scripted expert: states seen, and why each ended."""
    observation, _ = env.reset(seed=1, options={"replay": replays})
    expert, state = policies.load("scripted", env=env), None
    start, seen, why = np.ones(env.num_envs, bool), [observation], [None] * env.num_envs
    while frames is None or len(seen) <= frames:
        action, state = expert.predict(observation, state, start)
        observation, _, terminated, truncated, info = env.step(action)
        start = np.zeros(env.num_envs, bool)
        seen.append(observation)
        for i in np.flatnonzero(terminated | truncated):
            why[i] = why[i] or info["status"][i]
        if all(why):
            break
    return np.stack(seen), why


def gone(pid):
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def nothing_left():
    """What is tried within leaves no folder, no shared memory and no process."""
    before = leftovers(), {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert leftovers() <= before[0]
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before[1]


def leftovers():
    return {p for root in ("/dev/shm", "/tmp") for p in Path(root).glob("dexh2r-isaacgym-*")}


# the simulator


def pose(x, y, z, *turn):
    return torch.cat((torch.tensor([x, y, z]), quat_from_axis_angle(torch.tensor(turn or (0.0, 0.0, 0.0))))).double()


def simulator(*objects, worlds=2):
    sim = IsaacGymSimulator(worlds, DT)
    hand = GiverHand()
    sim.prepare([(obj, hand) for obj in objects])
    n = worlds
    bones = torch.cat((hand.rest_joints, torch.tensor([[1.0, 0, 0, 0]]).double().expand(16, 4)), dim=-1)
    scene = {
        "hand_pose": pose(-0.5, 0.1, 1.0, 0.3, -1.2, 0.4).repeat(n, 1),
        "joints": OPEN_HAND.repeat(n, 1),
        "object_pose": pose(0.1, 0.0, 1.2, 0.0, 0.5, 2.0).repeat(n, 1),
        "giver_bones": bones.repeat(n, 1, 1),
    }
    sim.reset(torch.arange(n), torch.arange(n) % len(objects), *scene.values())
    return sim, scene


def step(sim, scene, held=True, active=True):
    n = len(scene["joints"])
    sim.step(*scene.values(), torch.full((n,), active), torch.full((n,), held))


def test_everything_goes_where_it_is_told(double):
    sim, scene = simulator(load_object("hammer"), load_object("banana"))
    for frame in range(40):
        scene["hand_pose"] = pose(-0.5 + 0.02 * frame, 0.1, 1.0, 0.3 + 0.1 * frame, -1.2, 0.4).repeat(2, 1)
        scene["joints"] = scene["joints"] + 0.01
        scene["object_pose"] = pose(0.1, 0.01 * frame, 1.2, 0.1 * frame, 0.5, 2.0).repeat(2, 1)
        step(sim, scene)
        s = sim.state
        assert torch.allclose(s.hand_pose[:, :3], scene["hand_pose"][:, :3], atol=1e-5)
        assert quat_angle(s.hand_pose[:, 3:], scene["hand_pose"][:, 3:]).max() < 1e-3  # float32, and slerp of a frame
        assert torch.allclose(s.object_pose[:, :3], scene["object_pose"][:, :3], atol=1e-5)
        assert quat_angle(s.object_pose[:, 3:], scene["object_pose"][:, 3:]).max() < 1e-3
        assert torch.allclose(s.hand_joints, clamp_joints(scene["joints"]), atol=1e-4)
    assert torch.allclose(s.hand_velocity[:, 0], torch.tensor(0.6).double(), atol=1e-4)
    assert torch.allclose(s.object_velocity[:, 1], torch.tensor(0.3).double(), atol=1e-4)
    assert torch.allclose(s.hand_velocity[0, 7:9], torch.tensor(0.3).double(), atol=1e-2)
    assert not s.diverged.any()
    sim.close()


LISTENS = """
import json
from isaacgym import _world, gymapi

told = {}

def listens(name, note):
    real = getattr(_world, name)
    def call(*arguments):
        note(*arguments)
        with open(FILE, "w") as file:
            json.dump(told, file)
        return real(*arguments)
    setattr(_world, name, call)

def numbers(thing):
    values = ((name, getattr(thing, name)) for name in vars(thing))
    return {name: value for name, value in values if isinstance(value, (bool, int, float))}

def of_sim(device, graphics, kind, params):
    told["sim"], told["physx"], told["engine"] = numbers(params), numbers(params.physx), int(kind)
    told["gravity"] = numbers(params.gravity)

def of_dofs(env, actor, properties):
    for name in ("driveMode", "stiffness", "damping"):
        told[name] = [float(x) for x in properties[name]]

def of_shapes(env, actor, shapes):
    told.setdefault("friction", []).extend(shape.friction for shape in shapes)

listens("create_sim", of_sim)
listens("set_actor_dof_properties", of_dofs)
listens("set_actor_rigid_shape_properties", of_shapes)
told["modes"] = [int(gymapi.SIM_PHYSX), int(gymapi.DOF_MODE_POS)]
"""


def test_the_simulation_is_told_what_the_released_code_tells_it(double, monkeypatch, tmp_path):
    """1/60 s, 2 substeps, PhysX TGS, stiffness and damping 400, friction 2; not taken over: no gravity."""
    told = tmp_path / "told.json"
    (tmp_path / "sitecustomize.py").write_text(f"FILE = {str(told)!r}\n{LISTENS}")
    monkeypatch.setenv("PYTHONPATH", f"{DOUBLE}{os.pathsep}{tmp_path}")
    sim, _ = simulator(load_object("hammer"), worlds=1)
    sim.close()
    found = json.loads(told.read_text())
    assert found["sim"]["dt"] == pytest.approx(1 / 60) and found["sim"]["substeps"] == 2
    assert found["physx"]["solver_type"] == 1 and found["engine"] == found["modes"][0]
    assert found["gravity"] == {"x": 0, "y": 0, "z": -9.81}
    assert found["stiffness"] == found["damping"] == [400.0] * 28
    assert found["driveMode"] == [found["modes"][1]] * 28
    assert set(found["friction"]) == {2.0}  # of hand, object and giver


def test_what_is_let_go_falls(double):
    sim, scene = simulator(load_object("hammer"))
    for _ in range(3):
        scene["object_pose"][:, 0] += 0.01
        step(sim, scene)
    for n in range(1, 31):
        step(sim, scene, held=False)
        drop = 0.5 * 9.81 * (n * DT) * (n * DT + DT / 2)  # semi-implicit steps of half a frame
        assert torch.allclose(sim.state.object_pose[:, 2], torch.tensor(1.2 - drop).double(), atol=1e-4)
        assert torch.allclose(sim.state.object_pose[:, 0], torch.tensor(0.13 + 0.3 * n * DT).double(), atol=1e-4)
    scene["object_pose"][:, :3] = torch.tensor([0.1, 0.0, 1.2])
    sim.reset(torch.tensor([0]), torch.tensor([0]), *(x[:1] for x in scene.values()))
    z = float(sim.state.object_pose[1, 2])
    sim.step(*scene.values(), torch.ones(2, dtype=torch.bool), torch.tensor([True, False]))
    assert torch.allclose(sim.state.object_pose[0], scene["object_pose"][0], atol=1e-5)
    assert float(sim.state.object_pose[1, 2]) < z - 0.3
    sim.close()


def test_an_object_whose_centre_of_mass_is_not_its_origin(double):
    shift = np.array([0.3, -0.1, 0.05])
    box = build_object("far", [trimesh.creation.box((0.1, 0.05, 0.08)).vertices + shift], mass=0.3, recentre=False)
    assert np.allclose(box.center_of_mass, shift, atol=1e-6)
    sim, scene = simulator(box)
    for frame in range(6):
        scene["object_pose"] = pose(0.1, 0.0, 1.2 + 0.01 * frame, 0.0, 0.0, 0.1 * frame).repeat(2, 1)
        step(sim, scene)
    assert torch.allclose(sim.state.object_pose[:, :3], scene["object_pose"][:, :3], atol=1e-5)
    assert torch.allclose(sim.state.object_velocity[:, 3:], torch.tensor([0.0, 0.0, 3.0]).double(), atol=1e-4)
    # of the origin, about which it turns: what is left is that a chord is not quite its arc
    assert torch.allclose(sim.state.object_velocity[:, :3], torch.tensor([0.0, 0.0, 0.3]).double(), atol=0.06)
    assert sim.state.object_velocity[0, :2].norm() < 0.06 < 3.0 * np.linalg.norm(shift[:2])
    sim.close()


def test_contacts(double, monkeypatch):
    forces = {
        "giver_0_0/bone": [3.0, 0.0, 4.0],
        "giver_0_2/bone": [0.0, 1.0, 0.0],
        "giver_0_15/bone": [0.0, 0.0, 2.0],
        "object_0_held/object": [0.0, 0.0, 2.5],
        "hand/rh_ffdistal": [0.0, -1.0, 0.0],
    }
    monkeypatch.setenv("DEXH2R_DOUBLE_CONTACT", json.dumps(forces))
    sim, scene = simulator(load_object("hammer"))
    scene["hand_pose"][:, 0] += 0.02
    step(sim, scene)
    scene["hand_pose"][:, 0] += 0.02
    step(sim, scene)
    s = sim.state
    assert torch.allclose(s.giver_force, torch.tensor(8.0).double())
    assert torch.allclose(s.giver_peak, torch.tensor([5.0, 1, 0, 0, 0, 2]).double())
    assert torch.allclose(s.giver_impulse, s.giver_peak * DT)
    assert torch.allclose(s.load, torch.tensor([0, 0, 2.5]).double())
    assert torch.allclose(s.contact_speed, torch.tensor(0.6).double(), atol=1e-3)  # the finger's, of bones at rest
    step(sim, scene, held=False)
    assert (sim.state.load == 0).all()  # what is touched is not what is held any more
    sim.close()


def test_worlds_go_on_when_another_asks_for_a_new_object(double):
    objects = load_object("hammer"), load_object("banana")

    def run(known):
        sim, scene = simulator(*objects[:known])
        for frame in range(8):
            if frame == 4:
                sim.prepare([(objects[1], GiverHand())])
                number = torch.tensor([1 if known == 1 else 2])
                sim.reset(torch.tensor([1]), number, *(x[1:] for x in scene.values()))
            scene["hand_pose"][:, 0] += 0.01
            scene["object_pose"][:, 1] += 0.01
            scene["joints"] = scene["joints"] + 0.02
            step(sim, scene, held=frame < 2)
        pid = sim._worker.pid
        sim.close()
        return sim.state, pid

    (plain, _), (grown, pid) = run(2), run(1)
    assert gone(pid)
    for name in ("hand_pose", "hand_joints", "hand_velocity", "object_pose", "object_velocity"):
        assert torch.allclose(getattr(plain, name)[0], getattr(grown, name)[0], atol=1e-5), name


# the environment


def test_an_episode_ends_as_it_does_kinematically(double):
    replays = one_object(0)
    plain, isaac = vector("kinematic"), vector()
    expected, status = play(plain, replays)
    seen, ends = play(isaac, replays)
    assert ends == status and "REACHED" in ends
    assert seen.shape == expected.shape
    poses = np.r_[0:3, 28:31, 56:63, 69:117, 145]  # palm, its velocity, object, giver, d
    error = np.abs(seen - expected)[:, 0, poses]
    assert error[:, :3].max() < 1e-4 and error[:, 6:13].max() < 1e-3 and error[:, 13:].max() < 1e-3
    isaac.close()


@pytest.mark.parametrize("options", [{}, {"obs_mode": "state_dict", "control_mode": "delta"}])
def test_checkers(double, options):
    env = gym.make("DexH2R-Handover-v0", backend="isaacgym", split="test", **options)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_the_vector_environment_resets_to_other_objects(double):
    env = gym.make_vec(
        "DexH2R-Handover-v0", num_envs=2, vectorization_mode="vector_entry_point", backend="isaacgym", split="test"
    )
    shown = set()
    for seed in (0, 5):
        _, info = env.reset(seed=seed)
        shown |= set(info["replay"])
        for _ in range(3):
            observation, *_ = env.step(env.action_space.sample())
    assert len(shown) > 2 and np.isfinite(observation).all()
    pid = env.unwrapped.task._sim._worker.pid
    env.close()
    assert gone(pid)


@pytest.mark.parametrize("load, outcome", [(0.0, "NOT_RELEASED"), (8.0, "DROPPED")])
def test_the_giver_lets_go_of_what_the_robot_carries(double, monkeypatch, load, outcome):
    env = vector(num_envs=1, ending="hold")
    replay = one_object(0)[0]
    number = next(k for obj, k in env.task._sim._objects.items() if obj.name == "hammer")
    monkeypatch.setenv("DEXH2R_DOUBLE_CONTACT", json.dumps({f"object_{number}_held/object": [0, 0, load]}))
    observation, _ = env.reset(seed=0, options={"replay": replay})
    expert, state, start, over = policies.load("scripted", env=env), None, np.ones(1, bool), False
    while not over:
        action, state = expert.predict(observation, state, start)
        observation, _, terminated, truncated, info = env.step(action)
        start, over = np.zeros(1, bool), bool(terminated[0] | truncated[0])
    assert info["outcome"][0] == outcome  # in the double nothing is held: what is let go falls
    env.close()


def test_the_hand_on_an_arm(double):
    env = vector(num_envs=1, robot="ur10e")
    seen, _ = play(env, one_object(0)[:1], frames=10)
    assert np.isfinite(seen).all()
    env.close()


# ends


def running():
    sim, scene = simulator(load_object("hammer"), worlds=1)
    return sim, scene, sim._worker.pid


def test_a_worker_that_is_killed(double):
    before = leftovers()
    sim, scene, pid = running()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(IsaacGymError, match=rf"process {pid}\) died: killed by SIGKILL"):
        step(sim, scene)
    assert gone(pid) and leftovers() <= before


def test_a_worker_that_hangs(double, monkeypatch):
    sim, scene, pid = running()
    monkeypatch.setattr(isaacgym_process, "CALL_TIMEOUT", 0.5)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(IsaacGymError, match=r"did not answer within 0.5 s"):
        step(sim, scene)
    assert gone(pid)


def test_a_worker_that_fails_says_why(double, monkeypatch):
    monkeypatch.setenv("DEXH2R_DOUBLE_CONTACT", '{"nobody/nothing": [0, 0, 0]}')
    before = leftovers()
    with pytest.raises(IsaacGymError, match=r"failed in start:\n(.*\n)*.*nothing is called \['nobody/nothing'\]"):
        running()
    assert leftovers() <= before


def test_a_simulator_that_is_closed_or_forgotten(double):
    before = leftovers()
    sim, scene, pid = running()
    sim.close()
    assert gone(pid)
    sim, scene, pid = running()
    del sim, scene
    gc.collect()
    assert gone(pid) and leftovers() <= before


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_nothing_survives_the_process(double, end):
    before = leftovers()
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_isaacgym as t
t.isaacgym_process.SUPPORTED_PYTHON = (sys.version_info[:2],)
keep = t.running()
print(keep[2], flush=True)
{end}
"""
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((root, str(DOUBLE)))}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True, timeout=120
    )
    pid = int(out.stdout)
    assert gone(pid) and leftovers() <= before


# what is missing


def test_no_interpreter(double, monkeypatch, tmp_path):
    monkeypatch.delenv("DEXH2R_ISAACGYM_PYTHON")
    with pytest.raises(IsaacGymError, match=r"needs DEXH2R_ISAACGYM_PYTHON, which is not set.*conda create.*nvidia"):
        vector()
    monkeypatch.setenv("DEXH2R_ISAACGYM_PYTHON", str(tmp_path / "python"))
    with pytest.raises(IsaacGymError, match="no such file"):
        vector()
    (tmp_path / "python").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(IsaacGymError, match="cannot be executed"):
        vector()
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(IsaacGymError, match="does not run as Python"):
        vector()


def test_wrong_python(double, monkeypatch):
    monkeypatch.setattr(isaacgym_process, "SUPPORTED_PYTHON", ((3, 8),))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(IsaacGymError, match=rf"Python {version}; Isaac Gym Preview 4 needs 3.8.*conda create"):
        vector()


def test_no_isaac_gym(double, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with nothing_left(), pytest.raises(IsaacGymError, match="cannot import Isaac Gym and torch: ModuleNotFoundError"):
        running()


def test_wrong_isaac_gym(double, monkeypatch, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(DOUBLE, old)
    (old / "isaacgym-1.0rc4.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: isaacgym\nVersion: 1.0rc3\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(old))
    with nothing_left(), pytest.raises(IsaacGymError, match=r"found Isaac Gym 1.0rc3; Preview 4 \(1.0rc4\) is needed"):
        running()
    shutil.rmtree(old / "isaacgym-1.0rc4.dist-info")
    api = old / "isaacgym" / "api.txt"
    api.write_text(api.read_text().replace("  acquire_net_contact_force_tensor arg0\n", ""))
    with pytest.raises(IsaacGymError, match="of unknown version, which lacks acquire_net_contact_force_tensor"):
        running()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_no_gpu(double, monkeypatch):
    monkeypatch.delenv("DEXH2R_ISAACGYM_DEVICE")
    with nothing_left(), pytest.raises(IsaacGymError, match=r"no CUDA device.*DEXH2R_ISAACGYM_DEVICE=cpu"):
        running()
    monkeypatch.setenv("DEXH2R_ISAACGYM_DEVICE", "gpu")
    with pytest.raises(ValueError, match="valid: cpu, cuda:0"):
        running()


def test_what_isaac_gym_cannot_do(double):
    with pytest.raises(ValueError, match="backend 'isaacgym' cannot do randomisation of friction"):
        vector(randomisation={"friction": 0.3})


# the worker's file, and the double itself


def test_the_worker_is_a_file_for_python_3_8():
    tree = ast.parse(WORKER.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "isaacgym", "torch"}


MISUSES = {
    "gymapi.SimParams().sub_steps = 2": "no attribute 'sub_steps'",
    "gymapi.AssetOptions().fix_base": "no attribute 'fix_base'",
    "gymapi.SIM_NEWTON": "has no 'SIM_NEWTON'",
    "gym.reset_sim(sim)": "no attribute 'reset_sim'",
    "gym.simulate()": "Gym.simulate takes",
    "gym.simulate(arg0=sim)": "Gym.simulate takes",
    "gym.get_sim_time(sim)": "no behaviour for Gym.get_sim_time",
    "gym.create_actor(env, asset, gymapi.Transform(), collision=1)": "Gym.create_actor takes",
    "gym.acquire_dof_state_tensor(sim)": "before prepare_sim",
    "gym.prepare_sim(sim); gym.create_env(sim, zero, zero, 1)": "create_env after prepare_sim",
    "gym.prepare_sim(sim); gym.refresh_dof_state_tensor(sim)": "never acquired",
    "gym.prepare_sim(sim); gym.simulate(sim); gym.simulate(sim)": "before the last results were fetched",
    "ready(); put(root[[0, 0]].T, index)": "must be contiguous",
    "ready(); put(root.double(), index)": "torch.float64",
    "ready(); put(root, index.long())": "not int32",
    "ready(); put(root, index[:0])": "told",
    "ready(); put(root, index); put(root, index)": "set twice before simulate",
    "ready(); put(root * 0, index)": "no rotation",
}


@pytest.mark.parametrize("line", MISUSES)
def test_the_double_is_strict(line, tmp_path):
    (tmp_path / "ball.urdf").write_text(
        '<robot name="b"><link name="b"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" '
        'izz="1"/></inertial></link></robot>'
    )
    script = f"""
from isaacgym import gymapi, gymtorch
import torch
gym, params, zero = gymapi.acquire_gym(), gymapi.SimParams(), gymapi.Vec3()
params.up_axis = gymapi.UP_AXIS_Z
sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
env = gym.create_env(sim, zero, zero, 1)
asset = gym.load_asset(sim, {str(tmp_path)!r}, "ball.urdf", gymapi.AssetOptions())
gym.create_actor(env, asset, gymapi.Transform(), "ball", 0, 0, 0)
index = torch.zeros(1, dtype=torch.int32)
def ready():
    global root
    gym.prepare_sim(sim)
    root = gymtorch.wrap_tensor(gym.acquire_actor_root_state_tensor(sim))
    gym.refresh_actor_root_state_tensor(sim)
def put(values, index):
    count = 1
    gym.set_actor_root_state_tensor_indexed(sim, gymtorch.unwrap_tensor(values), gymtorch.unwrap_tensor(index), count)
try:
    {line}
except gymapi.Misuse as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(DOUBLE)}
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert MISUSES[line] in out.stdout, out.stdout + out.stderr
