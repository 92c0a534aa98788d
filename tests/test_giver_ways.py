"""How the giver holds an object: closing fingers, judging and naming grasps, the library of ways and its adaptation."""

import io
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.giver import GiverHand, adapt_ways, grasp_near, load_ways
from dexh2r_gym.giver import search as search_module
from dexh2r_gym.giver.closing import FingerDrive, Grip, close_fingers
from dexh2r_gym.giver.fit import CONTACT, MAX_OVERLAP, MIN_FREE, GraspFit, close_palm_first, judge, judge_best
from dexh2r_gym.giver.pinch import draw_postures
from dexh2r_gym.giver.search import open_goals, wrists_over
from dexh2r_gym.giver.ways import FOLDER, GiverWays, read_ways, write_ways
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.objects import load_object, object_names
from dexh2r_gym.rotations import quat_from_axis_angle, quat_rotate

SIDES = ("right", "left")
SAMPLE = ("hammer", "mobile_phone", "wine_glass", "power_drill")


class Solid:
    """A box or a cylinder (axis z) with its exact distance: all that a grasp asks of an object."""

    def __init__(self, half: tuple[float, ...], handle: torch.Tensor | None = None):
        self.half = half
        self.handle = handle
        mesh = (
            trimesh.creation.box([2 * h for h in half])
            if len(half) == 3
            else trimesh.creation.cylinder(half[0], 2 * half[1], sections=96)
        )
        points, index = trimesh.sample.sample_surface(mesh, 2048, seed=0)
        self.points = torch.as_tensor(np.array(points)).float()
        self.normals = torch.as_tensor(mesh.face_normals[index]).float()

    def signed_distance(self, p: torch.Tensor) -> torch.Tensor:
        half = torch.tensor(self.half, dtype=p.dtype)
        q = p.abs() - half if len(half) == 3 else torch.stack((p[..., :2].norm(dim=-1), p[..., 2].abs()), -1) - half
        return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)

    signed_distance_fast = signed_distance


def hold_end(hand: GiverHand, solid: Solid, count: int = 96, seed: int = 3) -> GraspFit:
    """Palm-first grasps at the upper end of a solid."""
    g = torch.Generator().manual_seed(seed)
    up = torch.tensor([0, 0, 1.0])
    held = solid.points[:, 2] > solid.half[-1] - 0.08
    position, rotation = wrists_over(hand, solid, held, up, count, g)
    return judge_best(hand, solid, *close_palm_first(hand, solid, position, rotation, g))


def bar_in_palm(side: str, shift: float, handle: torch.Tensor | None = None) -> GraspFit:
    """Hand-made: a bar of 5 cm by 30 cm lies across the palm, which holds it `shift` metres above its middle."""
    hand, bar = GiverHand(side), Solid((0.025, 0.15), handle)
    drive = FingerDrive(hand)
    mano = torch.zeros(1, 61)
    mano[0, :3] = torch.tensor([0.09 if side == "right" else -0.09, 0.025 + 0.0145, shift])
    third = torch.full((1,), 0.3)
    grip, touched = close_fingers(drive, mano, Grip.opened(third, 4 * third, 0 * third), bar.signed_distance_fast)
    assert touched[:, :, 1:].any(-1).all()
    return judge(hand, bar, drive.hold(mano, grip), grip, torch.zeros(1), torch.zeros(1, dtype=torch.long))


# --- closing ---


@pytest.mark.parametrize("side", SIDES)
def test_fingers_close_around_a_cylinder_in_the_palm(side):
    """Hand-made: a bar of 5 cm lies across the palm; the long fingers must reach round it to its far side."""
    hand, bar = GiverHand(side), Solid((0.025, 0.12))
    drive = FingerDrive(hand)
    sign = 1.0 if side == "right" else -1.0
    mano = torch.zeros(3, 61)
    mano[:, 0], mano[:, 1] = 0.09 * sign, 0.025 + 0.022  # palm towards -y, bar's axis along z below it
    half = torch.full((3,), 0.5)
    grip, touched = close_fingers(drive, mano, Grip.opened(half, half, 0 * half), bar.signed_distance_fast)
    closed = drive.hold(mano, grip)
    assert touched[:, :4].any(-1).all()
    assert torch.equal(closed[0], closed[2]) and torch.equal(closed[:, :6], mano[:, :6])
    skin = hand.vertices(closed)
    fingers = hand.weights[:, 1:13].sum(-1) > 0.9
    assert bar.signed_distance(skin[0, fingers]).min() > -0.002
    assert (hand.tips(closed)[0, [0, 1, 3], 1] < 0).all()  # beyond the bar's axis as seen from the palm


def test_fingers_that_meet_nothing_rest_in_a_light_curl():
    hand = GiverHand()
    drive = FingerDrive(hand)
    half = torch.full((2,), 0.5)
    mano, opened = torch.zeros(2, 61), Grip.opened(half, half, 0 * half)
    grip, touched = close_fingers(drive, mano, opened, lambda p: p.norm(dim=-1) + 1.0)
    closed = drive.hold(mano, grip)
    assert not touched.any()
    drop = (hand.rest_tips - hand.tips(closed.double())[0])[:4, 1]
    assert ((drop > 0.01) & (drop < 0.08)).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.integers(0, 4))
def test_bending_moves_one_finger_within_its_limits_and_back(amount, finger):
    half = torch.full((1,), 0.5)
    grip = Grip.opened(half, half, half)
    change = torch.zeros(1, 5)
    change[0, finger] = amount
    bent = grip.bent(change)
    others = [f for f in range(5) if f != finger]
    assert torch.equal(bent.flexion[:, others], grip.flexion[:, others])
    assert (bent.flexion >= Grip.opened(half, half, 0 * half).flexion).all() and bent.flexion.max() <= 1.8
    if 0 < amount < 0.5:
        torch.testing.assert_close(bent.bent(-change).flexion, grip.flexion)


# --- judging and naming ---


@pytest.mark.parametrize(
    ("side", "half"),
    [
        ("right", (0.03, 0.1)),
        ("left", (0.012, 0.12)),
        ("left", (0.03, 0.045, 0.1)),
        ("right", (0.012, 0.07, 0.1)),
    ],
    ids=str,
)
def test_what_is_said_of_a_grasp_is_measured_on_its_skin(side, half):
    hand, solid = GiverHand(side, [0.5, -0.5] * 5), Solid(half)
    fit = hold_end(hand, solid)
    assert len(fit) >= 3
    assert (fit.score.diff() <= 0).all()
    skin = hand.vertices(fit.mano)
    distance = solid.signed_distance(skin)
    torch.testing.assert_close((-distance).amax(-1).clamp_min(0), fit.overlap, atol=1e-6, rtol=0)
    assert fit.overlap.max() <= MAX_OVERLAP and fit.overlap.median() < 0.0015
    assert fit.contacts[:, 4].all() and (fit.contacts[:, 0] | (fit.contacts[:, :4].sum(-1) >= 2)).all()
    near = distance < CONTACT
    for f in range(5):  # what is called a contact is one on the skin
        own = hand.weights[:, 1 + 3 * f : 4 + 3 * f].sum(-1) > 0.5
        assert torch.equal(near[:, own].any(-1), fit.contacts[:, f])
    for bone in range(16):
        own = near & (hand.weights.argmax(-1) == bone)
        torch.testing.assert_close(fit.touch[:, bone], own.sum(-1) / near.sum(-1), check_dtype=False)
    assert torch.equal(fit.mano[:, 51:], hand.betas.expand(len(fit), 10))
    torch.testing.assert_close(
        FingerDrive(hand).pose(fit.grip), fit.mano[:, 6:51], atol=1e-5, rtol=0, check_dtype=False
    )
    forearm = quat_rotate(
        quat_from_axis_angle(fit.mano[:, 3:6]),
        torch.tensor([1.0 if side == "right" else -1.0, 0, 0], dtype=torch.float64).expand(len(fit), 3),
    )
    line = fit.mano[:, None, :3] + torch.linspace(0.05, 0.2, 6, dtype=torch.float64)[:, None] * forearm[:, None]
    assert solid.signed_distance(line).min() > 0.025  # clear of the forearm
    along = (skin[..., 2] + half[-1]) / (2 * half[-1])  # 0 at the lower end, 1 at the upper
    for k, place in enumerate(fit.place):
        if place == "end":
            assert fit.room[k] == (along[k].min() > 0.3)
        elif place == "other_end":
            assert fit.room[k] == (along[k].max() < 0.7)
        else:
            assert fit.room[k] == (fit.free[k] >= MIN_FREE)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("shift", "place", "room"), [(0.0, "middle", True), (0.1, "end", True), (-0.1, "other_end", True)]
)
def test_a_bar_in_the_palm_is_a_power_grasp_where_it_is_held(side, shift, place, room):
    fit = bar_in_palm(side, shift)
    assert (fit.style, fit.place, fit.room.tolist()) == (("power",), (place,), [room])
    assert fit.touch[0, 0] > 0.05  # the palm
    reach = GiverHand(side).vertices(fit.mano)[0, :, 2]
    assert reach.min() < shift < reach.max()


def test_a_handle_is_held_if_the_contacts_lie_in_its_box():
    box = torch.tensor([[-0.05, -0.05, 0.03], [0.05, 0.05, 0.15]])
    assert bar_in_palm("right", 0.09, handle=box).place == ("handle",)
    assert bar_in_palm("right", 0.0, handle=box).place == ("middle",)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lateral", [False, True])
def test_pinches_hold_a_card_between_thumb_and_fingers_on_its_two_faces(side, lateral):
    hand, card = GiverHand(side), Solid((0.04, 0.004, 0.1))
    g = torch.Generator().manual_seed(0)
    fit = search_module._pinch(hand, card, draw_postures(hand, g)[lateral], card.normals[:, 1] > 0.5, g)
    pinch = torch.tensor([style == "pinch" for style in fit.style])
    assert pinch.sum() >= 5
    skin = hand.vertices(fit.mano[pinch])
    near = card.signed_distance(skin) < CONTACT
    bone = hand.weights.argmax(-1)
    outer = torch.isin(bone, torch.tensor([2, 3, 5, 6, 8, 9, 11, 12, 14, 15]))
    assert not near[:, ~outer].any()  # neither palm nor first phalanges
    above = skin[..., 1] > 0
    assert (near & above & (bone > 12)).any(-1).float().mean() > 0.9  # the thumb on the face it was meant for
    assert (near & ~above & (bone > 0) & (bone < 13)).any(-1).float().mean() > 0.9
    if lateral:
        assert (near & (bone == 2)).any(-1).float().mean() > 0.5  # the side of the index finger's middle phalanx


def test_no_grasp_is_an_empty_result():
    hand, wall = GiverHand(), Solid((0.3, 0.3, 0.3))  # far too large for a hand
    fit = hold_end(hand, wall, count=32)
    assert len(fit) == 0 and fit.mano.shape == (0, 61) and fit.contacts.shape == (0, 5) and fit.style == ()


def test_a_grasp_near_a_measured_wrist_stays_near_it():
    hand, solid = GiverHand(), Solid((0.02, 0.12))
    known = hold_end(hand, solid, seed=0).mano[0]
    wrist = torch.cat((known[:3], quat_from_axis_angle(known[3:6])))
    fits = []
    for _ in range(2):
        fits.append(grasp_near(hand, solid, wrist, num_candidates=64, generator=torch.Generator().manual_seed(1)))
        torch.rand(5)
    assert torch.equal(fits[0].mano, fits[1].mano)  # fixed by its generator and by nothing else
    fit = fits[0]
    assert len(fit) >= 1 and fit.overlap.max() <= MAX_OVERLAP
    assert (fit.mano[0, :3] - known[:3]).norm() < 0.08


def test_grasps_are_taken_by_row_and_joined_again():
    fit = hold_end(GiverHand(), Solid((0.03, 0.1)))
    mask = torch.arange(len(fit)) % 2 == 0
    back = GraspFit.joined([fit[mask], fit[~mask]])
    order = torch.cat((mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]))
    assert torch.equal(back.mano, fit.mano[order]) and torch.equal(back.grip.flexion, fit.grip.flexion[order])
    assert back.place == tuple(fit.place[i] for i in order) and torch.equal(back.index, fit.index[order])


# --- the library ---


def as_grasps(ways: GiverWays) -> torch.Tensor:
    """The stored ways as MANO numbers of the mean hand."""
    hand = GiverHand(ways.side)
    return hand.mano(ways.wrist[:, :3], ways.wrist[:, 3:], FingerDrive(hand).pose(ways.grip))


def test_every_object_has_several_ways_for_both_hands():
    assert sorted(path.stem for path in FOLDER.glob("*.npz")) == object_names()
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 1_000_000
    for name in object_names():
        for side in SIDES:
            ways = load_ways(name, side)
            assert ways.name == name and 8 <= len(ways) <= 16, name
            assert set(ways.style) == {"power", "pinch"}, name
            assert len(set(zip(ways.style, ways.place, strict=True))) >= 3, name
    held = {name for name in object_names() if "handle" in load_ways(name, "right").place}
    assert held <= {name for name in object_names() if load_object(name).handle is not None}
    assert len(held) >= 12


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("side", SIDES)
def test_shipped_ways_are_sound_and_named_as_measured(name, side):
    ways, hand, obj = load_ways(name, side), GiverHand(side), load_object(name)
    mano = as_grasps(ways)
    rows = torch.arange(len(ways))
    fit = judge(hand, obj, mano, ways.grip, torch.zeros(len(ways)), rows)
    assert torch.equal(fit.index, rows) and fit.room.all()
    assert (fit.style, fit.place) == (ways.style, ways.place)
    torch.testing.assert_close(fit.touch.float(), ways.touch, atol=0.02, rtol=0)
    assert (open_goals(hand, load_pool(name), fit.mano) >= search_module.MIN_GOALS).all()
    shift = (ways.wrist[:, None, :3] - ways.wrist[:, :3]).norm(dim=-1)
    turn = 2 * (ways.wrist[:, None, 3:] * ways.wrist[:, 3:]).sum(-1).abs().clamp_max(1).acos()
    assert ((shift > 0.01) | (turn > 0.2))[~torch.eye(len(ways), dtype=torch.bool)].all()  # no two alike


def test_ways_are_adapted_to_every_hand():
    """Givers as different as people are: within two standard deviations in every number."""
    g = torch.Generator().manual_seed(4)
    overlap, tried, kept = [], 0, 0
    for name in SAMPLE:
        obj = load_object(name)
        for number in range(5):
            hand = GiverHand(SIDES[number % 2], torch.randn(10, generator=g, dtype=torch.float64).clamp(-2, 2))
            ways = load_ways(name, hand.side)
            fit = adapt_ways(hand, obj, ways, generator=g, limit=8)
            assert len(fit) >= 3, (name, number)
            assert len(fit.index.unique()) == len(fit) and fit.room.all()
            assert torch.equal(fit.mano[:, 51:], hand.betas.expand(len(fit), 10))
            distance = obj.signed_distance(hand.vertices(fit.mano).float())
            torch.testing.assert_close((-distance).amax(-1).clamp_min(0).double(), fit.overlap, atol=1e-5, rtol=0)
            assert (distance.amin(-1) < CONTACT).all()
            overlap.append(fit.overlap)
            tried, kept = tried + 8, kept + len(fit)
    assert torch.cat(overlap).max() <= MAX_OVERLAP and torch.cat(overlap).median() < 0.0012
    assert kept / tried > 0.75


def test_a_larger_hand_meets_the_same_place_of_the_object():
    """Held points stay: fingertips of a hand 12% larger touch where those of the mean hand do."""
    obj, ways = load_object("mobile_phone"), load_ways("mobile_phone", "right")
    large = GiverHand("right", [2.0] + [0.0] * 9)
    fit = adapt_ways(large, obj, ways, generator=torch.Generator().manual_seed(0))
    pinch = torch.tensor([style == "pinch" for style in fit.style])
    thumb = large.tips(fit.mano)[:, 4]
    mean = GiverHand().tips(as_grasps(ways).double())[fit.index, 4]
    shift = (fit.mano[:, :3] - ways.wrist[fit.index, :3]).norm(dim=-1)
    assert (thumb - mean)[pinch].norm(dim=-1).median() < 0.012 < shift[pinch].median()


def test_adapting_is_fixed_by_the_generator():
    hand, obj, ways = GiverHand("left", [0.5] * 10), load_object("hammer"), load_ways("hammer", "left")
    fits = []
    for seed in (1, 1, 2):
        fits.append(adapt_ways(hand, obj, ways, generator=torch.Generator().manual_seed(seed), limit=4))
        torch.rand(3)
    assert torch.equal(fits[0].mano, fits[1].mano) and fits[0].place == fits[1].place
    assert not torch.equal(fits[0].mano, fits[2].mano)
    none = adapt_ways(hand, obj, ways, generator=torch.Generator(), limit=0)
    assert len(none) == 0 and none.mano.shape == (0, 61)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 16))
def test_drawn_ways_cover_as_many_pairs_as_they_can(seed, count):
    ways = load_ways("hammer", "right")
    rows = ways.draw(count, torch.Generator().manual_seed(seed)).tolist()
    pairs = [(ways.style[i], ways.place[i]) for i in rows]
    every = set(zip(ways.style, ways.place, strict=True))
    assert len(rows) == len(set(rows)) == min(count, len(ways))
    assert len(set(pairs)) == min(count, len(every))


def test_the_wrong_hand_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"for the right hand.*left one"):
        adapt_ways(GiverHand("left"), load_object("hammer"), load_ways("hammer", "right"), generator=torch.Generator())
    with pytest.raises(ValueError, match="did you mean 'hammer'"):
        load_ways("hamer", "right")
    with pytest.raises(ValueError, match="valid: right, left"):
        load_ways("hammer", "both")


def test_ways_are_made_written_and_read_again(tmp_path, monkeypatch):
    for name, count in (("_POWER", 32), ("_PINCH", 80), ("_CLOSED", 16)):
        monkeypatch.setattr(search_module, name, count)
    line = search_module._make_file("screwdriver", 0, tmp_path)
    assert line.startswith("screwdriver: right ")
    path = tmp_path / "screwdriver.npz"
    first = path.read_bytes()
    obj, pool = load_object("screwdriver"), load_pool("screwdriver")
    made = search_module.find_ways(obj, pool, "right", torch.Generator().manual_seed(0))
    read = read_ways(path, "right")
    assert torch.equal(made.wrist, read.wrist) and made.place == read.place and made.style == read.style
    assert {"power", "pinch"} == set(read.style) and "handle" in read.place
    hands = [made, read_ways(path, "left")]
    write_ways(path, hands, seed=0, volume=obj.volume)
    with np.load(io.BytesIO(first)) as before, np.load(path) as after:
        assert before.files == after.files
        assert all(np.array_equal(before[key], after[key]) for key in before.files)
    assert list(tmp_path.iterdir()) == [path]


def damage(key: str, change):
    def apply(arrays):
        arrays[key] = change(arrays[key].copy())

    return apply


def nan_first(array):
    array.flat[0] = math.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("touch"), "keys missing: touch"),
        (damage("wrist", nan_first), "wrist.*not finite"),
        (damage("wrist", lambda x: 2 * x), "unit quaternion"),
        (damage("wrist", lambda x: x[:, :6]), r"wrist is float32.*expected float32 \(\d+, 7\)"),
        (damage("flexion", lambda x: x.astype(np.float64)), "flexion is float64"),
        (damage("adduction", lambda x: x[:-1]), "adduction is"),
        (damage("touch", lambda x: 0 * x), "sum to 1"),
        (damage("style", lambda x: x + 2), "style must be"),
        (damage("side", lambda x: x.astype(np.int64)), "side must be"),
        (damage("metadata", lambda x: np.array('{"format": 99}')), "another format"),
        (damage("metadata", lambda x: np.array("[")), "not a readable"),
        (lambda a: a.update({k: v[:0] for k, v in a.items() if k != "metadata"}), "0 ways"),
        (lambda a: a.update(wrist=np.array([None], dtype=object)), "not a readable"),
        (lambda a: a.update(more=np.zeros(10**6)), "8006804 bytes unpacked, at most"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path, change, message):
    with np.load(FOLDER / "hammer.npz") as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        read_ways(path, "right")
    assert "bad.npz" in str(error.value)


def test_what_is_no_archive_is_refused(tmp_path):
    whole = (FOLDER / "hammer.npz").read_bytes()
    for number, content in enumerate((b"", whole[: len(whole) // 2], pickle.dumps([1, 2]))):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{number}.npz: not a readable"):
            read_ways(path, "right")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("metadata.npy", "no array")
    with pytest.raises(ValueError, match="not a readable"):
        read_ways(tmp_path / "text.npz", "right")
