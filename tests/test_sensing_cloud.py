"""Clouds as observed: known answers by hand, properties, and against true depth renderings."""

from dataclasses import replace
from functools import lru_cache

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.giver.hand import SIDES
from dexh2r_gym.hand import forward_kinematics
from dexh2r_gym.objects import load_object
from dexh2r_gym.render import pose_scene
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import pose_apply, pose_inverse, quat_to_matrix
from dexh2r_gym.scene import scene_model
from dexh2r_gym.sensing.cameras import CAMERAS, CORNER_CAMERAS, look_at
from dexh2r_gym.sensing.cloud import CLOUDS, SAMPLERS, CloudSensor, DepthNoise, check_crop
from dexh2r_gym.sensing.occlusion import aim, giver_balls, picture, robot_balls
from dexh2r_gym.sensing.sampling import pick_evenly, pick_farthest
from dexh2r_gym.sensing.visibility import NUM_VIEWS, view_directions, view_of, visibility
from dexh2r_gym.show.timeline import Timeline
from tests.test_mano import mano, models  # noqa: F401  fixtures
from tests.test_sensing_rgbd import given_by

AWAY = torch.tensor([5.0, 5, 0, 1, 0, 0, 0])  # a pose behind all cameras
STAND = torch.tensor([0.05, 0, 1.05, 1, 0, 0, 0], dtype=torch.float64)  # in the middle of the corner cameras
VISIBLE = 0.003  # m along the ray, some pixels and the balls that stand for the hands
SPACING = 0.01  # m: some 900 different points on 0.05 m^2 are 7.5 mm apart; 1 cm finds one with 99% chance
NEAR, FAR = 0.02, 5.0  # m, between which the renderer draws
TRIALS = {
    "kitchen_knife": 0.95,
    "hair_dryer": 0.9,
    "spray_bottle": 0.95,
    "wine_bottle": 0.95,
    "book": 0.8,
}  # part of the trial
WRIST_CAMERAS = ("wrist_0", "wrist_1")
SOLID = ("crisps_tube", "book")  # drawn as the solid that they are


def alone(obj, sensor, pose=STAND, key=0):
    """What a sensor of one world sees of an object with the hands far away."""
    sensor.place(torch.tensor([0]), [obj], [GiverHand()])
    far = AWAY.double()
    return sensor.look(pose[None], far.expand(1, 16, 7), far.expand(1, 18, 7), torch.tensor([key]))


def local(cloud, pose=STAND):
    return pose_apply(pose_inverse(pose), cloud.points[0].double())


def test_directions_fall_into_their_own_cells():
    directions = torch.from_numpy(view_directions())
    assert view_of(directions).tolist() == list(range(NUM_VIEWS))
    assert view_of(3 * directions).tolist() == list(range(NUM_VIEWS))


def test_of_a_box_a_view_sees_the_faces_towards_it():
    obj = load_object("pasta_box")
    table = visibility(obj, 1024, 1.7)
    eye = torch.tensor([0.3, -2.0, 0.2])
    view = int(view_of(eye))
    seen = np.zeros(1024, dtype=bool)
    seen[table.seen[table.first[view] : table.first[view + 1]]] = True
    normals, points = obj.normals[::4].numpy(), obj.points[::4].numpy()
    eye = 1.7 * view_directions()[view]
    np.testing.assert_array_equal(seen, ((eye - points) * normals).sum(-1) > 0)


@pytest.mark.parametrize("name", ["beer_mug", "scissors"])
def test_visibility_agrees_with_marching_along_rays(name):
    obj = load_object(name)
    table = visibility(obj, 512, 1.7)
    low, high = obj.vertices.min(0), obj.vertices.max(0)
    steps = torch.linspace(0.0007, 0.2, 160, dtype=torch.float64)
    wrong = total = 0
    for view in range(0, NUM_VIEWS, 149):
        eye = torch.from_numpy(1.7 * view_directions()[view] + (low + high) / 2)
        points, normals = obj.points[::8].double(), obj.normals[::8].double()
        rays = torch.nn.functional.normalize(eye - points, dim=-1)
        free = (obj.penetration(points[:, None] + steps[:, None] * rays[:, None]) < 2e-5).all(1)
        clear = (rays * normals).sum(-1).abs() > 0.1  # a ray along the surface may be told either way
        seen = torch.zeros(512, dtype=torch.bool)
        seen[torch.from_numpy(table.seen[table.first[view] : table.first[view + 1]]).long()] = True
        wrong += int(((free & ((rays * normals).sum(-1) > 0)) != seen)[clear].sum())
        total += int(clear.sum())
    assert wrong <= 0.01 * total


@given(st.floats(0.005, 0.2), st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_ball_hides_what_lies_behind_it(radius, u, v, seed):
    """The disc in the stereographic picture, against a ray through the ball."""
    from dexh2r_gym.sensing.occlusion import _discs

    eye = torch.tensor([[[1.0, -0.5, 0.7]]], dtype=torch.float64)
    views = aim(eye, torch.eye(3, dtype=torch.float64)[None, :2])
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.3, 0.3, (3, 200)).astype(np.float32)
    centre = np.array([u, v, 0.1], dtype=np.float32)
    seen, distance = picture(views, [torch.from_numpy(p)[None] for p in points])
    x, y, r, tangent = _discs(torch.cat(views, dim=1).T.numpy(), *centre[:, None], np.float32([radius]))
    inside = (seen[0, 0] - x[0]) ** 2 + (seen[0, 1] - y[0]) ** 2 < r[0] ** 2
    hidden = (inside & (distance[0] > tangent[0])).numpy()
    start = eye[0, 0].numpy()
    ray = points.T - start
    t = ((centre - start) @ ray.T) / (ray**2).sum(-1)
    gap = np.linalg.norm(start + t[:, None] * ray - centre, axis=1) - radius
    outside = np.linalg.norm(points.T - centre, axis=1) > radius + 1e-4
    clear = outside & (np.abs(gap) > 1e-4)
    np.testing.assert_array_equal(hidden[clear], ((gap < 0) & (t < 1))[clear])


def test_balls_cover_the_hands():
    """Points on the axes of the giver's capsules and the middles of the robot's shapes are in a ball."""
    low, high = GiverHand().capsules()[1:3]
    balls = giver_balls(GiverHand())
    for k in range(len(low)):
        own = balls.shape == k
        line = low[k] + torch.linspace(0, 1, 50, dtype=torch.float64)[:, None] * (high[k] - low[k])
        nearest = np.linalg.norm(line.numpy()[:, None] - balls.centre[own], axis=-1).min(1)
        assert (nearest < 0.8 * balls.radius[own][0]).all()
    assert len(robot_balls().radius) == len(robot_balls().shape)


def test_a_hand_hides_the_side_it_is_on():
    """A giver's hand between one camera and the object: that camera sees less, all others as much."""
    obj = load_object("pasta_box")
    for name in CORNER_CAMERAS:
        sensor = CloudSensor(1, 1024, cameras=(name,), noise=None)
        free = alone(obj, sensor)
        eye = torch.tensor(CAMERAS["kinect_0"].pose[:3], dtype=torch.float64)
        palm = STAND.clone()
        palm[:3] += 0.12 * torch.nn.functional.normalize(eye - STAND[:3], dim=0)
        palm[0] += 0.06  # its middle is 6 cm along -x
        hand = GiverHand()
        bones = hand.bone_poses(hand.mano(palm[:3], palm[3:]))
        among = sensor.look(STAND[None], bones[None], AWAY.double().expand(1, 18, 7), torch.tensor([0]))
        if name == "kinect_0":
            assert among.seen < 0.7 * free.seen
        else:
            assert torch.equal(among.seen, free.seen)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", CLOUDS)
def test_points_lie_on_the_surface(kind, sampler):
    obj = load_object("wine_glass")
    cloud = alone(obj, CloudSensor(1, 256, kind=kind, sampler=sampler, noise=None))
    assert cloud.points.shape == (1, 256, 3) and cloud.points.dtype == torch.float32
    assert obj.signed_distance(local(cloud)).abs().max() < 1e-5
    assert cloud.seen > 256


def test_one_camera_sees_no_back():
    obj = load_object("water_bottle")
    cloud = alone(obj, CloudSensor(1, 512, cameras=("kinect_0",), noise=None))
    towards = torch.tensor(CAMERAS["kinect_0"].pose[:3]) - STAND[:3] - local(cloud)
    assert ((towards * normals_at(obj, local(cloud))).sum(-1) > 0).all()


def normals_at(obj, points):
    """Normals of points (N, 3) of an object's surface, object frame."""
    return obj.normals[torch.from_numpy(cKDTree(obj.points.numpy()).query(points.numpy())[1])].double()


def test_noise_is_along_the_ray_and_of_the_stated_size():
    obj = load_object("pasta_box")
    noise = DepthNoise(axial=0.001, slant=90, steepest=90, dropout=0)
    camera = CAMERAS["kinect_0"]
    clean, noisy = (
        alone(obj, CloudSensor(1, 1024, cameras=(camera.name,), noise=n)).points[0].double() for n in (None, noise)
    )
    ray = clean - torch.tensor(camera.pose[:3], dtype=torch.float64)
    distance = ray.norm(dim=-1)
    error = noisy - clean
    along = (error * ray).sum(-1) / distance
    assert (error - along[:, None] * ray / distance[:, None]).norm(dim=-1).max() < 2e-6
    normals = normals_at(obj, pose_apply(pose_inverse(STAND), clean))
    cosine = (-ray / distance[:, None] * normals).sum(-1)
    z = along / (0.001 * distance**2 / cosine)
    assert abs(float(z.std()) - 1) < 0.1 and abs(float(z.mean())) < 0.15


def test_what_is_steep_is_lost():
    noise = DepthNoise()
    for angle, chance, lost in ((0, 0.5, False), (0, 0.99, True), (77, 0.5, False), (88, 0.0, True), (82, 0.9, True)):
        needed = noise.needed_cosine(torch.tensor(chance))
        assert bool(np.cos(np.radians(angle)) <= needed) == lost


def test_crop_holds_every_point_and_an_empty_one_says_so():
    obj = load_object("pasta_box")
    box = ((-1.0, -1.0, 1.05), (1.0, 1.0, 2.0))
    cloud = alone(obj, CloudSensor(1, 1024, crop=box, noise=DepthNoise(axial=0.005)))
    assert cloud.seen > 100
    assert ((cloud.points > torch.tensor(box[0])) & (cloud.points < torch.tensor(box[1]))).all()
    cloud = alone(obj, CloudSensor(1, 1024, crop=((-1.0, -1.0, 3.0), (1.0, 1.0, 4.0))))
    assert cloud.seen == 0 and (cloud.points == 0).all()


def test_few_seen_points_are_repeated_with_other_errors():
    obj = load_object("pasta_box")
    cloud = alone(obj, CloudSensor(1, 1024, crop=((-1.0, -1.0, 1.12), (1.0, 1.0, 2.0))))
    assert 0 < cloud.seen < 1024
    assert len(cloud.points[0].unique(dim=0)) > 2 * int(cloud.seen)


def test_a_wrist_camera_sees_what_is_before_it_and_not_what_is_behind():
    obj = load_object("tv_remote")
    sensor = CloudSensor(1, 256, cameras=("wrist_0",), noise=None)
    sensor.place(torch.tensor([0]), [obj], [GiverHand()])
    state = torch.cat((torch.tensor([0.0, 0, 1, 1, 0, 0, 0]), torch.zeros(22))).double()
    links = forward_kinematics(state[None, :7], state[None, 7:])
    for z, seen in ((0.25, True), (-0.6, False)):
        pose = torch.tensor([[0.0, -0.06, 1 + z, 1, 0, 0, 0]], dtype=torch.float64)
        cloud = sensor.look(pose, AWAY.double().expand(1, 16, 7), links, torch.tensor([0]))
        assert bool(cloud.seen > 0) == seen


@given(st.integers(1, 40), st.integers(1, 30), st.floats(0, 0.999))
@settings(deadline=None, max_examples=60)
def test_even_picks_are_kept_ones_and_different_while_they_last(size, count, phase):
    kept = np.random.default_rng(size).random((2, size)) < 0.6
    kept[0, 0] = True
    picked = pick_evenly(kept, count, np.array([phase, phase]))
    for row, own in zip(picked, kept, strict=True):
        if own.any():
            assert own[row].all()
            assert len(set(row)) == min(count, own.sum())


def test_farthest_picks_the_corners_of_a_line_first():
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0, 10.0]])
    points = torch.stack((x, 0 * x, 0 * x))
    kept = torch.tensor([[True, True, True, True, False]])
    picked = pick_farthest(points, kept, 6, torch.tensor([0.0]))[0].tolist()
    assert picked[:3] in ([0, 3, 1], [0, 3, 2])
    assert sorted(picked[:4]) == [0, 1, 2, 3] and picked[4:] == picked[:2]


@lru_cache
def trial(name, part, side=None):
    store = ReplayStore.open("mini")
    replays = map(store.replay, store.ids("all"))
    replay = next(r for r in replays if r.object == name and side in (None, r.side))
    return store.object_model(name), Timeline.of(replay), int(part * (replay.num_frames - 1))


def scene_tensors(trials):
    state = [(t.scene.object_pose[f], t.bones[f], t.scene.hand_pose[f], t.scene.hand_joints[f]) for _, t, f in trials]
    pose, bones, hand, joints = (torch.stack(parts) for parts in zip(*state, strict=True))
    return pose, bones, forward_kinematics(hand, joints)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_world_depends_on_its_key_alone(sampler):
    trials = [trial(*item) for item in TRIALS.items()]
    cameras = (*CORNER_CAMERAS, "wrist_1")
    keys = torch.arange(5) * 1_000_003

    def clouds(which):
        which = list(which)
        sensor = CloudSensor(len(which), 128, sampler=sampler, cameras=cameras)
        chosen = [trials[i] for i in which]
        sensor.place(torch.arange(len(which)), [o for o, _, _ in chosen], [t.giver for _, t, _ in chosen])
        return sensor.look(*scene_tensors(chosen), keys[which])

    together = clouds(range(5))
    for which in ([3], [4, 0], [0, 1, 2, 3, 4]):
        cloud = clouds(which)
        assert torch.equal(cloud.points, together.points[which]) and torch.equal(cloud.seen, together.seen[which])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(clouds(range(5)).points, together.points)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(together.points[0], clouds([0]).points[0] + 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "seen"}, "observed, clean"),
        ({"sampler": "fps"}, "random, farthest"),
        ({"cameras": ("kinect_9",)}, "kinect_0"),
        ({"crop": ((0, 0, 0), (1, 1, 0))}, "crop"),
        ({"crop": 3}, "crop"),
        ({"num_points": 0}, "1 to 4096"),
    ],
)
def test_errors_list_what_is_valid(options, words):
    with pytest.raises(ValueError, match=words):
        CloudSensor(1, **options)


def test_crop_must_be_finite_in_no_axis_but_ordered_in_all():
    check_crop(None)
    check_crop(((0, 0, float("-inf")), (1, 1, 1)))
    with pytest.raises(ValueError, match="crop"):
        check_crop(((0, 0, float("nan")), (1, 1, 1)))


def aimed(camera, scene, frame):
    """Where a camera is in this frame; of a corner, turned at the object and closer."""
    if camera.mount == "palm":
        palm = camera.pose_world(scene.hand_pose[frame])
        return replace(camera, mount="world", pose=tuple(palm.tolist()), width=960, height=540)
    pose = look_at(camera.pose[:3], scene.object_pose[frame, :3].tolist(), (0, 0, 1))
    return replace(camera, pose=pose, focal=3.0, width=640, height=640)


def depth_pictures(obj, timeline, frame, names):
    """Of each camera, `aimed`: camera, depth (H, W) and whether a pixel shows the object's solid."""
    shared = scene_model(obj, timeline.giver, visuals=True)
    model = scene_model.__wrapped__(obj, timeline.giver, visuals=True)
    assert model is not shared
    thing = [g for g in range(model.ngeom) if model.body(model.geom_bodyid[g]).name == "object"]
    for g in thing:  # the solid instead of the finer mesh, which is open where the solid is not
        model.geom_group[g] = 2 if model.geom_group[g] == 3 else 3
    model.vis.map.znear, model.vis.map.zfar = NEAR / model.stat.extent, FAR / model.stat.extent
    data = mujoco.MjData(model)
    pose_scene(model, data, timeline.scene, frame, timeline.giver, timeline.bones[frame])
    out = []
    cameras = [aimed(CAMERAS[name], timeline.scene, frame) for name in names]
    renderer = mujoco.Renderer(model, cameras[0].height, cameras[0].width)
    try:
        for camera in cameras:
            half = NEAR * 0.5 * camera.height / (camera.focal * camera.width)
            pictures = []
            for enable in (renderer.enable_depth_rendering, renderer.enable_segmentation_rendering):
                enable()
                renderer.update_scene(data)
                turn = quat_to_matrix(torch.tensor(camera.pose[3:], dtype=torch.float64)).numpy()
                for view in renderer.scene.camera:
                    view.pos, view.forward, view.up = camera.pose[:3], turn[:, 2], -turn[:, 1]
                    view.frustum_center, view.frustum_near, view.frustum_far, view.frustum_width = 0, NEAR, FAR, 0
                    view.frustum_bottom, view.frustum_top = -half, half
                pictures.append(renderer.render().copy())
                renderer.disable_depth_rendering()
                renderer.disable_segmentation_rendering()
            depth, ids = pictures
            shown = np.isin(ids[..., 0], thing) & (ids[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM))
            out.append((camera, depth, shown))
    finally:
        renderer.close()
    return out


def look(obj, timeline, frame, names):
    """The cloud of these cameras without noise, (N, 3)."""
    sensor = CloudSensor(1, 1024, cameras=names, noise=None)
    sensor.place(torch.tensor([0]), [obj], [timeline.giver])
    return sensor.look(*scene_tensors([(obj, timeline, frame)]), torch.tensor([7])).points[0].double().numpy()


def compare(cloud, pictures):
    """A cloud beside depth pictures -> how much of it is visible in them, how much of what they show it covers."""
    visible, surface = np.zeros(len(cloud), dtype=bool), []
    for camera, depth, shown in pictures:
        pose, k = torch.tensor(camera.pose, dtype=torch.float64), camera.intrinsics()
        x, y, z = pose_apply(pose_inverse(pose), torch.from_numpy(cloud)).numpy().T
        pixels = ((0, x, camera.width), (1, y, camera.height))
        column, row = (np.rint(k[i, i] * v / z + k[i, 2]).astype(int).clip(1, n - 2) for i, v, n in pixels)
        for i, j in np.ndindex(3, 3):
            at = row + i - 1, column + j - 1
            visible |= shown[at] & (np.abs(depth[at] - z) < VISIBLE)
        v, u = np.nonzero(shown)
        z = depth[v, u]
        points = np.stack(((u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z), axis=-1)
        surface.append(pose_apply(pose, torch.from_numpy(points)).numpy()[::7])
    gaps = cKDTree(cloud).query(np.concatenate(surface))[0]
    return visible.mean(), (gaps < SPACING).mean()


@pytest.mark.parametrize(
    ("name", "part", "cameras"),
    [(*item, CORNER_CAMERAS) for item in TRIALS.items()]
    + [(name, 0.95, (wrist,)) for name in SOLID for wrist in WRIST_CAMERAS]
    + [("crisps_tube", 0.6, ("wrist_0",)), ("book", 0.6, ("wrist_1",))],  # on the way, 0.3 m and more
)
def test_against_true_depth(name, part, cameras):
    scene = trial(name, part)
    visible, covered = compare(look(*scene, cameras), depth_pictures(*scene, cameras))
    assert visible >= 0.95 and covered >= 0.90


@pytest.mark.usefixtures("mano")
@pytest.mark.parametrize("side", SIDES)
def test_a_hand_of_mano_hides_what_it_hides_in_true_depth(side):
    obj, timeline, frame = trial("lint_roller", 0.95, side)
    timeline = given_by(timeline, GiverHand(side, [1.0, -1.0] * 5, "mano"))
    pictures = depth_pictures(obj, timeline, frame, CORNER_CAMERAS)
    visible, covered = compare(look(obj, timeline, frame, CORNER_CAMERAS), pictures)
    assert visible >= 0.95 and covered >= 0.90
    away = replace(timeline, bones=AWAY.double().expand_as(timeline.bones))
    assert compare(look(obj, away, frame, CORNER_CAMERAS), pictures)[0] < 0.92  # what the hand hides is not visible
