"""Cameras, colour, depth and segmentation against the geometry that they show; what is written into pictures."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from dexh2r_gym import render
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hand import MODELS, SIDES
from dexh2r_gym.overlay import draw_overlay
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import pose_apply, pose_inverse
from dexh2r_gym.sensing.calibration import back_project, calibration, project
from dexh2r_gym.sensing.cameras import CAMERAS, find_cameras, look_at
from dexh2r_gym.sensing.rgbd import GIVER, MAX_DEPTH, OBJECT, ROBOT, RGBDSensor, picture_keys
from dexh2r_gym.show.hand_meshes import hand_meshes, mesh_poses
from dexh2r_gym.show.timeline import Timeline
from tests.test_mano import mano, models  # noqa: F401  fixtures

HERE = torch.tensor([0.0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
NAMES = tuple(CAMERAS)


# ---------------------------------------------------------------- cameras


def test_a_camera_looks_where_it_is_told_with_its_picture_upright():
    pose = torch.tensor(look_at((1.0, 0.0, 2.0), (0.0, 0.0, 2.0), (0.0, 0.0, 1.0)), dtype=torch.float64)
    # a metre before it; to its right, seen from it, is +y; above is up in the picture, -y of the camera
    points = torch.tensor([[0.0, 0, 2], [0.0, 0.5, 2], [0.0, 0, 2.5]], dtype=torch.float64)
    seen = pose_apply(pose_inverse(pose), points)
    np.testing.assert_allclose(seen, [[0, 0, 1], [0.5, 0, 1], [0, -0.5, 1]], atol=1e-12)


def test_calibration_of_a_known_camera():
    (camera,) = find_cameras(("kinect_0",), (1280, 720))
    known = calibration([camera], HERE)["kinect_0"]
    assert (known["width"], known["height"]) == (1280, 720)
    np.testing.assert_allclose(known["intrinsics"], [[610, 0, 639.5], [0, 610, 359.5], [0, 0, 1]])
    np.testing.assert_allclose(known["camera_to_world"][:3, 3], [-1.05, -1.1, 1.75])
    middle = project(np.array([0.05, 0.0, 1.05]), known["intrinsics"], known["camera_to_world"])
    np.testing.assert_allclose(middle[:2], [639.5, 359.5], atol=1e-9)  # it looks at where objects change hands


def test_wrist_cameras_go_with_the_palm():
    palm = torch.tensor([0.3, -0.2, 1.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    (camera,) = find_cameras(("wrist_0",))
    at_rest, moved = (calibration([camera], pose)["wrist_0"]["camera_to_world"] for pose in (HERE, palm))
    expected = pose_apply(palm, torch.from_numpy(at_rest[:3, 3]))
    np.testing.assert_allclose(moved[:3, 3], expected, atol=1e-12)


@given(st.integers(0, 2**31), st.sampled_from(NAMES))
def test_projecting_undoes_back_projecting(seed, name):
    rng = np.random.default_rng(seed)
    (camera,) = find_cameras((name,), (40, 24))
    known = calibration([camera], HERE)[name]
    matrices = known["intrinsics"], known["camera_to_world"]
    depth = rng.uniform(0.1, 5.0, (24, 40))
    pixels = project(back_project(depth, *matrices), *matrices)
    u, v = np.meshgrid(np.arange(40), np.arange(24))
    np.testing.assert_allclose(pixels, np.stack((u, v, depth), axis=-1), atol=1e-8)


def test_wrong_cameras_list_the_valid_ones():
    for names, message in (
        (("kinect_7",), "choose from kinect_0"),
        ((), "different names"),
        (("wrist_0",) * 2, "different"),
    ):
        with pytest.raises(ValueError, match=message):
            find_cameras(names)
    with pytest.raises(ValueError, match="size must be 8 to"):
        find_cameras(("wrist_0",), (320, 4000))


# ---------------------------------------------------------------- depth against geometry


def trial(name: str) -> Timeline:
    store = ReplayStore.open("mini")
    return Timeline.of(store.replay(next(info.id for info in store.infos if info.object == name)))


def given_by(timeline: Timeline, hand: GiverHand) -> Timeline:
    """The same trial with this hand at the giver's wrist, its fingers bent as the giver's."""
    wrist, pose = timeline.bones[:, 0], timeline.replay.giver[:, 6:51]
    return replace(timeline, giver=hand, bones=hand.bone_poses(hand.mano(wrist[:, :3], wrist[:, 3:], pose)))


def draw(sensor: RGBDSensor, timeline: Timeline, t: int) -> dict[str, np.ndarray]:
    return sensor.draw(timeline.scene, t, timeline.replay.object_model, timeline.giver, timeline.bones[t])


def surfaces(timeline: Timeline, t: int) -> dict[int, trimesh.Trimesh]:
    """What is drawn in this frame, in the world: the meshes of robot, object and giver."""
    obj = timeline.replay.object_model
    vertices = pose_apply(timeline.replay.object_pose[t], torch.from_numpy(obj.visual_vertices).double())
    skin = timeline.giver.skin(timeline.bones[t])
    robot = []
    poses = mesh_poses(timeline.scene.hand_pose[t].numpy(), timeline.scene.hand_joints[t].numpy())
    for mesh in hand_meshes():
        for pose in torch.from_numpy(poses[mesh.name]):
            placed = pose_apply(pose, torch.from_numpy(np.asarray(mesh.vertices)).double())
            robot.append(trimesh.Trimesh(placed.numpy(), mesh.faces, process=False))
    return {
        ROBOT: trimesh.util.concatenate(robot),
        OBJECT: trimesh.Trimesh(vertices.numpy(), obj.visual_faces, process=False),
        GIVER: trimesh.Trimesh(skin.numpy(), timeline.giver.faces.numpy(), process=False),
    }


@pytest.mark.parametrize("name", ["hammer", "thermos"])
def test_depth_meets_what_is_drawn_within_two_millimetres(name):
    """All six cameras: floor, object, robot and giver, each pixel against the meshes that its segmentation names."""
    timeline = trial(name)
    t = timeline.replay.num_frames - 4  # both hands at the object
    cameras = find_cameras(NAMES, (160, 90))
    sensor = RGBDSensor(cameras, segmentation=True)
    pictures = draw(sensor, timeline, t)
    sensor.close()
    known, drawn = calibration(cameras, timeline.scene.hand_pose[t]), surfaces(timeline, t)
    counted = dict.fromkeys(drawn, 0)
    for camera in NAMES:
        depth, kinds = pictures[f"depth_{camera}"], pictures[f"segmentation_{camera}"]
        points = back_project(depth.astype(float), known[camera]["intrinsics"], known[camera]["camera_to_world"])
        floor = points[(kinds == 0) & (depth > 0)]
        assert len(floor) == 0 or np.abs(floor[:, 2]).max() < 0.002
        for kind, mesh in drawn.items():
            found = points[kinds == kind][::7]
            counted[kind] += len(found)
            if len(found):
                assert trimesh.proximity.closest_point(mesh, found)[1].max() < 0.002, (camera, kind)
        assert depth.max() <= MAX_DEPTH and (depth[kinds > 0] > 0).all()
    assert min(counted.values()) > 15  # each was seen


def test_a_picture_is_the_same_alone_and_among_others_and_after_other_worlds():
    first, second = trial("hammer"), trial("thermos")
    one, two = RGBDSensor(find_cameras(("kinect_2",))), RGBDSensor(find_cameras(("wrist_1", "kinect_2")))
    alone = draw(one, first, 9)
    draw(two, second, 30)
    among = draw(two, first, 9)
    np.testing.assert_array_equal(alone["image"], among["image_kinect_2"])
    np.testing.assert_array_equal(alone["depth"], among["depth_kinect_2"])
    assert alone["image"].dtype == np.uint8 and alone["depth"].dtype == np.float32
    assert alone["image"].shape == (180, 320, 3) and alone["depth"].shape == (180, 320)
    assert alone["image"].std() > 10
    one.close(), two.close()


@pytest.mark.usefixtures("mano")
@pytest.mark.parametrize("model", MODELS)
def test_a_giver_is_drawn_the_same_whoever_gave_before(model):
    """Hands of both sides and of two shapes at one wrist, in turn, against a sensor that never drew another."""
    timeline, cameras = trial("hammer"), find_cameras(("kinect_0", "wrist_1"), (160, 90))
    shown = [given_by(timeline, GiverHand(side, [size] * 10, model)) for side in SIDES for size in (0.0, 1.0)]
    t, alone = timeline.replay.num_frames - 4, []
    for each in shown:
        sensor = RGBDSensor(cameras, segmentation=True)
        alone.append(draw(sensor, each, t))
        sensor.close()
    for a, b in combinations(alone, 2):
        assert all(not np.array_equal(a[f"{kind}_kinect_0"], b[f"{kind}_kinect_0"]) for kind in ("image", "depth"))
    sensor = RGBDSensor(cameras, segmentation=True)
    for i in (0, 1, 2, 3, 1, 3, 0, 2, 1, 0):
        for key, picture in draw(sensor, shown[i], t).items():
            np.testing.assert_array_equal(picture, alone[i][key], err_msg=f"{key} of hand {i}")
    sensor.close()


def test_keys_of_pictures():
    assert picture_keys(find_cameras(("wrist_0",)), False) == [{"image": "image", "depth": "depth"}]
    two = picture_keys(find_cameras(("wrist_0", "kinect_1")), True)
    assert two[1]["segmentation"] == "segmentation_kinect_1"


def test_contexts_are_of_objects_and_bounded(monkeypatch):
    monkeypatch.setattr(render, "MAX_CANVASES", 2)
    canvases = render.Canvases(32, 32, samples=0)
    hammer, thermos, banana = (trial(name) for name in ("hammer", "thermos", "banana"))
    first = canvases.canvas(hammer.replay.object_model, hammer.giver)
    assert canvases.canvas(hammer.replay.object_model, thermos.giver) is first  # another giver, the same object
    canvases.canvas(thermos.replay.object_model, thermos.giver)
    assert canvases.canvas(hammer.replay.object_model, hammer.giver) is first
    canvases.canvas(banana.replay.object_model, banana.giver)
    assert canvases.canvas(hammer.replay.object_model, hammer.giver) is first  # the thermos went, the oldest
    canvases.close()


def test_without_opengl_it_is_said_what_to_install(monkeypatch):
    def broken(*size):
        raise ImportError("cannot load libEGL.so")

    monkeypatch.setattr("mujoco.GLContext", broken)
    timeline = trial("hammer")
    sensor = RGBDSensor(find_cameras(("kinect_0",)))
    with pytest.raises(RuntimeError, match=r"libEGL.so.*MUJOCO_GL=egl.*libegl1"):
        draw(sensor, timeline, 0)
    sensor.close()


# ---------------------------------------------------------------- the overlay


def overlay(picture, d=0.1, phase="approach", **numbers):
    numbers = {"frame": 3, "start_distance": 0.05, "depth": 0.0, "giver_force": 0.0} | numbers
    return draw_overlay(picture, d=d, phase=phase, **numbers)


def test_an_overlay_leaves_the_rest_of_the_picture_and_the_original():
    picture = np.full((240, 320, 3), 180, np.uint8)
    written = overlay(picture)
    assert (picture == 180).all() and written.shape == picture.shape and written.dtype == np.uint8
    changed = np.argwhere((written != picture).any(-1))
    assert len(changed) > 1000 and (changed.max(0) < (120, 240)).all()
    for other in ({"d": 0.2}, {"frame": 4}, {"depth": 0.002}, {"giver_force": 5.0}, {"phase": "alignment"}):
        assert not np.array_equal(overlay(picture, **other), written), other
    assert overlay(np.zeros((24, 32, 3), np.uint8)).shape == (24, 32, 3)  # too small for the panel
    overlay(picture, d=float("inf"))


def test_the_bar_of_an_overlay_grows_towards_the_goal():
    picture = np.zeros((480, 640, 3), np.uint8)
    blue = [int((overlay(picture, d=d)[55:75] == (86, 180, 233)).all(-1).sum()) for d in (0.5, 0.2, 0.05, 0.0)]
    assert blue == sorted(blue) and len(set(blue)) == 4
