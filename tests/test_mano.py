"""MANO's files and the hand made of them, against smplx's own forward pass, in MuJoCo, and damaged in every way."""

import os
import pickle
import pickletools
import struct
import warnings

import mujoco
import numpy as np
import pytest
import smplx
import smplx.utils
import torch
import trimesh

from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.giver import GiverHand, correct_skin, move_mano, set_giver_geoms
from dexh2r_gym.giver import hand as hand_module
from dexh2r_gym.giver.mano_file import FOLDER_VARIABLE, MAX_FILE_SIZE, load_mano
from dexh2r_gym.objects import load_object
from dexh2r_gym.replay import ReplayStore, write_store
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_from_axis_angle
from dexh2r_gym.scene import scene_model
from dexh2r_gym.sim import make_simulator
from tests.mano_files import NUM_FACES, WRIST, mano_data, write_mano_file
from tests.test_giver import capsule_distance, compiled, place
from tests.trials import object_of, trial_of

SIDES = ("right", "left")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


# --- the file ---


@pytest.mark.parametrize("side", SIDES)
def test_a_file_of_python_2_gives_back_every_array(folder, side):
    path = write_mano_file(folder, side, seed=3)
    names = {arg for op, arg, _ in pickletools.genops(path.read_bytes()) if op.name == "GLOBAL"}
    assert {"chumpy.ch Ch", "chumpy.reordering Select", "scipy.sparse.csc csc_matrix", "__builtin__ set"} < names
    model, data = load_mano(side), mano_data(side, seed=3)
    pairs = {
        "template": "v_template", "faces": "f", "shape_directions": "shapedirs", "pose_directions": "posedirs",
        "weights": "weights", "components": "hands_components", "mean_pose": "hands_mean",
    }  # fmt: skip
    for field, key in pairs.items():
        np.testing.assert_array_equal(getattr(model, field).numpy(), data[key], err_msg=key)
    np.testing.assert_array_equal(model.joint_regressor.numpy(), data["J_regressor"].toarray())
    assert model.faces.shape == (NUM_FACES, 3) and model.template.dtype == torch.float64
    assert load_mano(side) is model  # read once
    write_mano_file(folder, side, seed=4)
    os.utime(path, ns=(0, 0))
    other = load_mano(side).shape_directions.numpy()  # the file is another now
    np.testing.assert_array_equal(other, mano_data(side, seed=4)["shapedirs"])


def test_files_written_again_by_python_3_and_reached_by_a_link(folder, tmp_path):
    data = mano_data("right")
    elsewhere = tmp_path / "elsewhere.pkl"
    for protocol in (2, 4):
        plain = data | {"J_regressor": data["J_regressor"].toarray()} if protocol == 4 else data
        elsewhere.write_bytes(pickle.dumps(plain, protocol=protocol))
        link = folder / "MANO_RIGHT.pkl"
        link.unlink(missing_ok=True)
        link.symlink_to(elsewhere)
        os.utime(elsewhere, ns=(protocol, protocol))
        np.testing.assert_array_equal(load_mano("right").joint_regressor.numpy(), data["J_regressor"].toarray())


def test_no_file_says_where_to_get_one(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"MANO_LEFT\.pkl.*mano\.is\.tue\.mpg\.de.*\$DEXH2R_MANO"):
        load_mano("left")
    monkeypatch.delenv(FOLDER_VARIABLE)
    with pytest.raises(FileNotFoundError, match=r"\$DEXH2R_MANO is not set"):
        load_mano("left")
    with pytest.raises(ValueError, match="valid: right, left"):
        load_mano("../right")


class Evil:
    """Calls what it is given when a pickle that holds it is read by pickle itself."""

    def __init__(self, call, *args):
        self.parts = call, args

    def __reduce__(self):
        return self.parts


def huge_array(shape, data=b"1234"):
    """An array whose header says (shape) and whose bytes are few."""
    array = np.zeros(1, np.float32)
    head = array.__reduce__()
    return Evil(head[0], *head[1]), (1, shape, array.dtype, False, data)


def with_state(parts):
    """What `Evil` makes, given a state (a BUILD)."""
    evil, state = parts
    evil.parts = (*evil.parts, state)
    return evil


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f": None}, "lacks f"),
        ({"v_template": np.zeros((777, 3))}, r"v_template has shape \(777, 3\) instead of \(778, 3\)"),
        ({"posedirs": np.zeros((778, 3, 207))}, r"posedirs has shape \(778, 3, 207\)"),
        ({"weights": np.full((778, 16), np.nan)}, "weights has values that are not finite"),
        ({"weights": np.zeros((778, 16))}, "weights of a vertex do not sum to 1"),
        ({"f": np.zeros((10, 3))}, "f has dtype float64"),
        ({"f": np.full((10, 3), 778, np.uint32)}, "f names vertices outside of 0 to 777"),
        ({"f": np.zeros((0, 3), np.uint32)}, "f names vertices"),
        ({"kintree_table": np.zeros((2, 16), np.int64)}, "kintree_table has parents"),
        ({"hands_mean": "zeros"}, "hands_mean: not an array but str"),
        ({"hands_mean": np.zeros(45, complex)}, "hands_mean: numbers of type 'c16'"),
        ({"hands_mean": np.array(["x"] * 45, object)}, "hands_mean: numbers of type 'O8'"),
        ({"v_template": with_state(huge_array((1 << 40, 3)))}, "v_template: an array of shape .* from 4 bytes"),
        ({"v_template": with_state(huge_array((-1, 3)))}, r"v_template: an array of shape \(-1, 3\)"),
        ({"v_template": with_state(huge_array((1,), 4))}, "v_template: not an array"),
        ({"extra": Evil(os.system, "true")}, r"asks for posix.system.*refused"),
        ({"extra": Evil(eval, "1")}, r"asks for __builtin__.eval.*refused"),
        ({"extra": Evil(np.load, "x")}, r"asks for numpy.load.*refused"),
    ],
    ids=lambda x: "" if isinstance(x, dict) else x[:30],
)  # fmt: skip
def test_damaged_files_are_named_with_what_is_wrong(folder, changes, message):
    path = write_mano_file(folder, "right", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_mano("right")
    assert str(caught.value).startswith(f"{path}: ")


def test_a_sparse_matrix_that_points_outside_of_itself_is_refused(folder):
    for part, value in (("indices", 16), ("indices", -1), ("indptr", 1 << 30)):
        matrix = mano_data("right")["J_regressor"].copy()
        getattr(matrix, part)[5] = value
        write_mano_file(folder, "right", J_regressor=matrix)
        with pytest.raises(ValueError, match="J_regressor: not a sound sparse matrix"):
            load_mano("right")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.4, 0.999])
def test_truncated_files(folder, share):
    path = write_mano_file(folder, "left")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"MANO_LEFT\.pkl: truncated, or no pickle"):
        load_mano("left")


def test_bytes_changed_at_random_never_do_more_than_raise(folder):
    raw = bytearray(write_mano_file(folder, "right").read_bytes())
    path, rng = folder / "MANO_RIGHT.pkl", np.random.default_rng(0)
    structure = [pos or 0 for _, _, pos in pickletools.genops(bytes(raw))]
    errors = 0
    for trial in range(60):
        changed = raw.copy()
        changed[rng.choice(structure) + rng.integers(3)] = rng.integers(256)
        path.write_bytes(changed)
        os.utime(path, ns=(trial, trial))
        try:
            load_mano("right")
        except ValueError as error:
            assert str(path) in str(error)
            errors += 1
    assert errors > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x96" + struct.pack("<Q", 1 << 62) + b".", "truncated, or no pickle"),  # BYTEARRAY8 of 4 EiB
        (b"\x80\x02]r\xff\xff\xff\x7f.", "other than a dictionary"),  # the two-billionth object of the memo
        (b"\x80\x02cnumpy\ndtype\nN}U\x01aK\x01s\x86b.", "sets attributes"),  # state for the class itself
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"(S'true'\nios\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", r"builtins\.eval"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", r"numpy\.ndarray\.__class__"),
        (b"]", "truncated, or no pickle"),
    ],
)
def test_hand_made_attacks(folder, content, message):
    (folder / "MANO_RIGHT.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_mano("right")


def test_a_file_larger_than_any_of_manos_is_not_read(folder):
    with (folder / "MANO_RIGHT.pkl").open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(ValueError, match="larger than 16 MiB"):
        load_mano("right")


# --- the hand ---


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with both made-up files."""
    folder = tmp_path_factory.mktemp("mano")
    for side in SIDES:
        write_mano_file(folder, side)
    return folder


@pytest.fixture
def mano(models, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(models))


def numbers(seed: int, count: int, bend: float = 0.6, size: float = 1.0) -> torch.Tensor:
    """MANO numbers (count, 61) of one person."""
    out = torch.randn(count, 61, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out[:, 3:51] *= bend
    out[:, 51:] = size * out[0, 51:]
    return out


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vertices_and_joints_are_those_of_smplx(mano, side, dtype):
    data = smplx.utils.Struct(**mano_data(side))
    for seed in range(3):
        poses = numbers(seed, 8).to(dtype)
        theirs = smplx.MANO(
            "",
            data_struct=data,
            use_pca=False,
            flat_hand_mean=True,
            is_rhand=side == "right",
            dtype=dtype,
            batch_size=8,
        )
        want = theirs(betas=poses[:, 51:], global_orient=poses[:, 3:6], hand_pose=poses[:, 6:51], transl=poses[:, :3])
        hand = GiverHand.from_mano(poses, side, "mano")
        tolerance = 1e-5 if dtype == torch.float32 else 2e-8  # smplx adds 1e-8 to every angle
        torch.testing.assert_close(hand.vertices(poses), want.vertices.detach(), atol=tolerance, rtol=0)
        torch.testing.assert_close(hand.joints(poses), want.joints.detach(), atol=tolerance, rtol=0)
        faces = hand.faces.numpy()
        assert np.array_equal(faces, theirs.faces.astype(int))


@pytest.mark.parametrize("side", SIDES)
def test_wrist_is_at_the_translation_plus_the_root(mano, side):
    hand = GiverHand(side, model="mano")
    np.testing.assert_allclose(hand.root.numpy(), WRIST * [1 if side == "right" else -1, 1, 1], atol=2e-3)
    poses = numbers(0, 4)
    torch.testing.assert_close(hand.joints(poses)[:, 0], poses[:, :3] + hand.root)
    assert hand.rest_joints[0].norm() == 0


def test_skin_of_the_bones_is_the_skin_of_the_numbers_in_any_batch_and_subset(mano):
    poses = numbers(1, 6)
    hand = GiverHand.from_mano(poses, "left", "mano")
    assert torch.equal(hand.skin(hand.bone_poses(poses)), hand.vertices(poses))
    one = torch.stack([hand.vertices(p) for p in poses]).reshape(2, 3, -1, 3)
    torch.testing.assert_close(hand.vertices(poses.reshape(2, 3, 61)), one)
    ids = torch.tensor([0, 7, 777])
    torch.testing.assert_close(hand.vertices(poses, ids), hand.vertices(poses)[:, ids])
    torch.testing.assert_close(hand.vertices(poses.float()).double(), hand.vertices(poses), atol=1e-6, rtol=0)
    correction = hand.pose_correction(hand.bone_poses(poses))
    assert correction is not None and correction.norm(dim=-1).max() > 1e-3  # it does matter


def test_moving_the_wrist_moves_the_whole_hand_rigidly(mano):
    hand, poses = GiverHand("right", model="mano"), numbers(2, 3, size=0)
    turn = quat_from_axis_angle(torch.tensor([[0.3, -2.0, 0.5]], dtype=torch.float64))
    pose = torch.cat((torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64), turn), -1)
    moved = hand.vertices(move_mano(pose, poses, hand.root))
    torch.testing.assert_close(moved, pose_apply(pose[:, None], hand.vertices(poses)))


def test_numbers_written_are_the_numbers_read(mano):
    poses = numbers(4, 3)
    hand = GiverHand.from_mano(poses, "right", "mano")
    wrist = hand.bone_poses(poses)[:, 0]
    torch.testing.assert_close(hand.mano(wrist[:, :3], wrist[:, 3:], poses[:, 6:51]), poses)


def test_tips_are_the_ends_of_the_fingers(mano):
    """The made-up hand is the open hand with fewer vertices: its tips are within a vertex of the open hand's."""
    tips = GiverHand("left", model="mano").rest_tips
    assert (tips - GiverHand("left").rest_tips).norm(dim=-1).max() < 0.004


@pytest.mark.parametrize("size", [0.0, 2.0])
@pytest.mark.parametrize("side", SIDES)
def test_capsules_follow_the_skin(mano, side, size):
    poses = numbers(3, 3, bend=0, size=size)
    poses[1, 6:42].unflatten(-1, (12, 3))[:, 2] = 1.2 if side == "right" else -1.2  # a fist
    hand = GiverHand.from_mano(poses, side, "mano")
    flat, fist = capsule_distance(hand, poses[0]), capsule_distance(hand, poses[1])
    assert flat.abs().median() < 0.0011 and flat.abs().quantile(0.95) < 0.0035 and flat.max() < 0.008
    assert fist.abs().quantile(0.95) < 0.006 and fist.max() < 0.010


@pytest.mark.parametrize("side", SIDES)
def test_without_files_the_open_hand_stands_in_and_says_so_once(monkeypatch, side):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    hand_module._warn_of_stand_in.cache_clear()
    with pytest.warns(UserWarning, match=r"\$DEXH2R_MANO is not set"):
        hand = GiverHand(side, [3.0] * 10, "mano")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GiverHand(side, model="mano")
    mean = GiverHand(side)
    assert torch.equal(hand.rest_vertices, mean.rest_vertices) and hand.betas[0] == 3.0
    poses = numbers(0, 3)
    where = poses.clone()
    where[:, :3] += torch.tensor(WRIST * [1 if side == "right" else -1, 1, 1])
    torch.testing.assert_close(hand.vertices(poses), mean.vertices(where))


def test_a_variable_without_the_file_is_an_error_not_a_stand_in(folder):
    write_mano_file(folder, "right")
    GiverHand("right", model="mano")
    with pytest.raises(FileNotFoundError, match=r"MANO_LEFT\.pkl"):
        GiverHand("left", model="mano")
    with pytest.raises(ValueError, match="valid: open, mano"):
        GiverHand(model="nano")
    with pytest.raises(ValueError, match=r"inside out.*-3 to 3.*40"):
        GiverHand("right", [40.0] * 10, "mano")


# --- in MuJoCo ---


def own_hull(hand: GiverHand, bone: int) -> trimesh.Trimesh:
    """Hull of all triangles with a vertex that a bone moves most, frame of the bone."""
    most = hand.weights.argmax(-1) == bone
    own = hand.faces[most[hand.faces].any(-1)].unique()
    return trimesh.convex.convex_hull((hand.rest_vertices[own] - hand.rest_joints[bone]).numpy())


@pytest.mark.parametrize("side", SIDES)
def test_contact_distance_is_that_to_the_hulls_of_the_skin(mano, side):
    radius, margin = 0.01, 0.01
    pose = numbers(5, 1, bend=0.3)[0]
    hand = GiverHand.from_mano(pose, side, "mano")
    model = compiled(hand, visuals=False)
    model.geom_margin[:] = margin / 2
    data, bones = place(model, hand, pose), hand.bone_poses(pose)
    hulls = [own_hull(hand, b) for b in range(16)]
    skin, rng = hand.vertices(pose)[::12], np.random.default_rng(0)
    seen = 0
    for point in skin + torch.from_numpy(0.008 * rng.normal(size=skin.shape)):
        data.qpos[:3] = point.numpy()
        mujoco.mj_forward(model, data)
        found = {}
        for c in data.contact:
            name = next(n for n in (model.geom(g).name for g in c.geom) if n.startswith("giver_hull_"))
            found[int(name.removeprefix("giver_hull_"))] = c.dist
        local = pose_apply(pose_inverse(bones), point.expand(16, 3)).numpy()
        for bone in range(16):
            gap = -trimesh.proximity.signed_distance(hulls[bone], local[bone : bone + 1])[0] - radius
            if bone in found:
                assert found[bone] == pytest.approx(gap, abs=1e-3)
                seen += 1
            else:
                assert gap > margin - 1e-3
    assert seen > 100


def test_hulls_cover_the_skin(mano):
    for side, size in (("right", 0.0), ("left", 1.5)):
        hand = GiverHand.from_mano(numbers(6, 1, bend=0, size=size), side, "mano")
        model = compiled(hand, visuals=False)
        outside = np.full(len(hand.rest_vertices), np.inf)
        for bone in range(16):
            geom = model.geom(f"giver_hull_{bone}")
            mesh = model.mesh(geom.dataid[0])
            first, count = mesh.vertadr[0], mesh.vertnum[0]
            assert count <= 64
            turn = np.zeros(9)
            mujoco.mju_quat2Mat(turn, geom.quat)
            points = model.mesh_vert[first : first + count] @ turn.reshape(3, 3).T + geom.pos
            hull = trimesh.convex.convex_hull(points)
            at = (hand.rest_vertices - hand.rest_joints[bone]).numpy()
            outside = np.minimum(outside, -trimesh.proximity.signed_distance(hull, at))
        assert outside.max() < 0.0006 and np.median(outside) > -0.0005


@pytest.mark.parametrize("side", SIDES)
def test_the_skin_that_is_drawn_is_exact(mano, side):
    pose = numbers(7, 1)[0]
    hand = GiverHand.from_mano(pose, side, "mano")
    model = compiled(hand)
    data = place(model, hand, pose)
    correct_skin(model, hand, hand.bone_poses(pose))
    mujoco.mj_forward(model, data)
    scene, camera, option = mujoco.MjvScene(model, 100), mujoco.MjvCamera(), mujoco.MjvOption()
    mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    np.testing.assert_allclose(scene.skinvert.reshape(-1, 3), hand.vertices(pose).numpy(), atol=2e-6)


def test_a_hand_of_hulls_is_not_dressed_on_a_model(mano):
    with pytest.raises(ValueError, match="compile a model"):
        set_giver_geoms(compiled(None), GiverHand(model="mano"))


@pytest.mark.parametrize("backend", ["mujoco", "mjwarp"])
def test_worlds_of_other_objects_and_hands_step_side_by_side_and_report_force(mano, backend):
    """The robot's hand comes from -x at the back of a hand whose fingers point up; the object is out of the way."""
    objects = [load_object(name) for name in ("mallet", "hammer") for _ in SIDES]
    hands = [GiverHand(s, [0.5 * i, -0.5 * i] * 5, "mano") for i, s in enumerate(SIDES * 2)]
    assert len({scene_model(o, h).nbvh for o, h in zip(objects, hands, strict=True)}) == 1
    still = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    wrist = torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64)
    bones = torch.stack([h.bone_poses(h.mano(wrist, still)) for h in hands])
    middle = torch.stack([h.rest_vertices.mean(0) for h in hands]) + wrist
    thing = torch.tensor([[0.0, 2.0, 1.0, 1, 0, 0, 0]], dtype=torch.float64).expand(4, 7)
    joints = torch.zeros(4, 22, dtype=torch.float64)

    def palm(away: float) -> torch.Tensor:
        return torch.cat((middle + torch.tensor([0.0, away, 0.0]), still.expand(4, 4)), dim=-1)

    if backend == "mjwarp":
        pytest.importorskip("mujoco_warp")
    simulator, everywhere = make_simulator(backend, 4, 1 / 30, num_threads=1), torch.ones(4, dtype=torch.bool)
    simulator.prepare(list(zip(objects, hands, strict=True)))
    simulator.reset(torch.arange(4), torch.arange(4), palm(0.5), joints, thing, bones)
    forces = []
    for away in torch.linspace(0.5, 0.0, 30).tolist():
        simulator.step(palm(away), joints, thing, bones, everywhere, held=everywhere)
        forces.append(simulator.state.giver_force.clone())
    assert not simulator.state.diverged.any()
    force = torch.stack(forces)
    assert (force[:10] == 0).all() and (force[-1] > 1.0).all()


@pytest.fixture
def mano_store(mano, tmp_path):
    """Four embedded trials, their givers as hands of MANO of other shapes at the same wrists."""
    mini = ReplayStore.open("mini")
    some = {(r.object, r.side): r for r in map(mini.replay, mini.ids()) if r.object in ("hammer", "flashlight")}
    trials, objects = [], {}
    for i, replay in enumerate(some.values()):
        hand = GiverHand(replay.side, [0.4 * i - 0.5] * 10, "mano")
        wrist = GiverHand.from_mano(replay.giver, replay.side).bone_poses(replay.giver)[:, 0]
        given = hand.mano(wrist[:, :3], wrist[:, 3:], replay.giver[:, 6:51])
        objects[replay.object] = object_of(replay)
        trials.append(trial_of(replay, subject=i, split="train", giver=given.numpy()))
    assert len(objects) == 2 and {t.side for t in trials} == set(SIDES)
    path = tmp_path / "mano.zarr.zip"
    return write_store(path, trials, objects, licence="CC0-1.0", provenance={}, giver_model="mano"), len(trials)


@pytest.mark.parametrize("backend", ["mujoco", "kinematic"])
def test_an_env_replays_a_store_of_mano(mano_store, backend):
    path, count = mano_store
    env = HandoverVectorEnv(count, backend=backend, replays=str(path))
    store = ReplayStore.open(path)
    observation, _ = env.reset(seed=0, options={"replay": store.ids()})
    goal = slice(117, 145)  # goal_state in the flat observation
    for _ in range(40):
        observation, reward, *_ = env.step(observation[:, goal])
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
    shown = env.task.goals_now().giver_joints
    for world in range(count):
        replay = env.task.replay_of(world)
        want = GiverHand.from_mano(replay.giver, replay.side, "mano").joints(replay.giver[env.task.time[world]])
        torch.testing.assert_close(shown[world], want)
    env.close()
