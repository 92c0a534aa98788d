"""Objects: one solid behind parts, surface, points, distances and mass; the packaged library; users' meshes."""

from dataclasses import replace
from pathlib import Path

import mujoco
import mujoco.batch
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym.objects import (
    MAX_PARTS,
    ObjectBatch,
    ObjectModel,
    add_object,
    load_object,
    object_names,
    read_object,
    write_object,
)
from dexh2r_gym.objects.build import build_object
from dexh2r_gym.objects.catalogue import HANDLES, volume_error
from dexh2r_gym.objects.geometry import reduce_hull, union
from dexh2r_gym.objects.grid import decode_grid, encode_grid
from dexh2r_gym.objects.shapes import box, facing, plate, ring, tilted, tube

torch.set_num_threads(1)  # the tensors here are small

YCB = Path(__file__).parents[2] / "shared" / "testdata" / "objects_ycb"
HALF = torch.tensor([0.02, 0.03, 0.08], dtype=torch.float64)
NAMES = object_names()


@pytest.fixture(scope="module")
def brick() -> ObjectModel:
    return build_object("brick", box((0.04, 0.06, 0.16)), mass=0.5)


def box_distance(points: torch.Tensor) -> torch.Tensor:
    gap = points.abs() - HALF.to(points.dtype)
    return gap.clamp_min(0).norm(dim=-1) + gap.amax(-1).clamp_max(0)


def cloud(count: int, reach: float = 0.2, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1).mul(reach).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_distance_is_analytic(brick: ObjectModel, dtype: torch.dtype) -> None:
    points = torch.cat((cloud(4000, dtype=dtype), cloud(2000, 0.03, seed=1, dtype=dtype)))
    distance = brick.signed_distance(points.reshape(3, 2000, 3))
    assert distance.shape == (3, 2000) and distance.dtype == dtype
    assert (distance.reshape(-1) - box_distance(points)).abs().max() < 1e-6
    assert (brick.penetration(points) - (-box_distance(points)).clamp_min(0)).abs().max() < 1e-6


def test_box_mass_properties(brick: ObjectModel) -> None:
    assert brick.volume == pytest.approx(0.04 * 0.06 * 0.16, rel=1e-6)
    a, b, c = (2 * HALF.numpy()) ** 2
    np.testing.assert_allclose(brick.inertia, np.diag([b + c, a + c, a + b]) * 0.5 / 12, rtol=1e-6, atol=1e-12)
    assert brick.radius == pytest.approx(float(HALF.norm()), rel=1e-6)
    assert (brick.signed_distance(brick.points).abs().max()) < 1e-7


def test_distance_to_a_prism_of_many_sides_is_that_of_a_cylinder() -> None:
    """256 corners: the surface lies within 5e-6 m of the cylinder; checked along axis and radius."""
    from dexh2r_gym.objects.exact import ExactDistance
    from dexh2r_gym.objects.geometry import union

    parts = tube(256, (-0.1, 0.03), (0.1, 0.03))
    vertices, faces = union(parts)
    exact = ExactDistance.build([parts], [vertices[faces]])
    radial = torch.linspace(-0.029, 0.1, 50, dtype=torch.float64)
    beside = torch.stack((0.03 + radial, torch.zeros(50), torch.full((50,), 0.01)), -1)
    above = torch.stack((torch.full((50,), 0.01), torch.zeros(50), 0.1 + radial), -1)
    index = torch.zeros(50, dtype=torch.long)
    beside_error = exact.signed(index, beside) - radial
    assert beside_error.abs().max() < 5e-6
    truth = torch.where(radial > 0, radial, -torch.minimum(-radial, torch.tensor(0.02)))
    assert (exact.signed(index, above) - truth).abs().max() < 5e-6


@pytest.mark.parametrize("name", ["spray_bottle", "hammer", "banana"])
def test_distance_agrees_with_trimesh(name: str) -> None:
    obj = load_object(name)
    points = torch.cat((cloud(300), obj.points[:200].double() + cloud(200, 0.01, seed=2)))
    mesh = trimesh.Trimesh(obj.vertices, obj.faces, process=False)
    reference = -trimesh.proximity.signed_distance(mesh, points.numpy())
    np.testing.assert_allclose(obj.signed_distance(points).numpy(), reference, atol=1e-6)


@pytest.mark.parametrize("name", ["spray_bottle", "hammer", "wine_bottle"])
def test_grid_keeps_its_bounds(name: str) -> None:
    """Inside the grid the error is bounded; outside, the lookup is never above the truth, and grows with distance."""
    obj = load_object(name)
    near = obj.points + cloud(4096, 0.015, dtype=torch.float32)
    error = (obj.signed_distance_fast(near) - obj.signed_distance(near)).abs()
    assert error.max() < obj.sdf_spacing * 3**0.5 / 2 + 1e-4
    assert error.mean() < 3e-4
    far = cloud(2000, 1.0, dtype=torch.float32)
    assert (obj.signed_distance_fast(far) <= obj.signed_distance(far) + 3e-3).all()
    ray = torch.tensor([0.3, 0.5, 0.8]) * torch.linspace(0.5, 3, 20)[:, None]
    assert (obj.signed_distance_fast(ray).diff() > 0).all()


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5), st.integers(0, 2**31))
def test_batch_gives_the_bits_of_single_objects(names: list[str], seed: int) -> None:
    objects = [load_object(name) for name in names]
    batch = ObjectBatch(objects)
    points = cloud(20, 0.08, seed, torch.float32)
    index = torch.arange(20) % len(objects)
    for method in ("signed_distance", "signed_distance_fast", "penetration"):
        together = getattr(batch, method)(index, points)
        alone = torch.stack([getattr(objects[i], method)(p) for i, p in zip(index.tolist(), points, strict=True)])
        assert torch.equal(together, alone), method


def test_penetration_is_the_positive_part_of_the_exact_distance() -> None:
    batch = ObjectBatch([load_object(name) for name in NAMES])
    index = torch.arange(len(NAMES)).repeat_interleave(200)
    points = torch.cat([o.points[:200] for o in batch.objects]) + cloud(len(index), 0.01, dtype=torch.float32)
    depth = batch.penetration(index, points)
    assert (depth - (-batch.signed_distance(index, points)).clamp_min(0)).abs().max() < 1e-6
    assert 0.2 < (depth > 0).float().mean() < 0.8


def test_maybe_inside_never_misses_a_point() -> None:
    batch = ObjectBatch([load_object(name) for name in NAMES])
    points = torch.stack([o.points[:300] for o in batch.objects]) + cloud(300, 0.015, dtype=torch.float32)
    index = torch.arange(len(NAMES))
    inside = batch.penetration(index.repeat_interleave(300), points.reshape(-1, 3)).reshape(len(NAMES), 300) > 0
    maybe = batch.maybe_inside(index, points.movedim(-1, 0))
    assert maybe[inside].all() and inside.any() and not maybe.all()


def test_no_points_no_distances(brick: ObjectModel) -> None:
    assert brick.signed_distance(torch.zeros(0, 3)).shape == brick.penetration(torch.zeros(2, 0, 3))[0].shape == (0,)
    assert (brick.penetration(torch.full((5, 3), 0.5)) == 0).all()


def test_library_has_56_objects() -> None:
    assert len(NAMES) == 56


@pytest.mark.parametrize("name", NAMES)
def test_library_object_describes_one_solid(name: str) -> None:
    obj = load_object(name)
    solid = trimesh.Trimesh(obj.vertices, obj.faces, process=False)
    assert solid.is_watertight and solid.body_count == 1
    assert 1 <= len(obj.parts) <= MAX_PARTS and max(map(len, obj.parts)) <= 32
    assert obj.volume == pytest.approx(solid.volume, rel=1e-6)
    np.testing.assert_allclose(solid.center_mass, 0, atol=1e-5)
    hulls = sum(trimesh.convex.convex_hull(p).volume for p in obj.parts)
    assert max(trimesh.convex.convex_hull(p).volume for p in obj.parts) <= obj.volume * 1.001 <= hulls * 1.002
    assert abs(volume_error(obj)) < 0.10
    # Points lie on the surface; a step along the normal leaves the solid, except in a crevice or a thin edge.
    assert obj.points.shape == obj.normals.shape == (4096, 3)
    assert obj.signed_distance(obj.points).abs().max() < 1e-5
    step = 1e-4 * obj.normals
    assert (obj.signed_distance(obj.points + step) > 0).float().mean() > 0.99
    assert (obj.signed_distance(obj.points - step) < 0).float().mean() > 0.99
    assert (obj.normals.norm(dim=-1) - 1).abs().max() < 1e-5
    # Two hands find room, one robot hand closes around it, and the numbers are those of a thing one hands over.
    assert obj.extents[2] == obj.extents.max() and 0.13 < obj.extents[2] < 0.40
    assert 0.012 < obj.extents.min() < 0.105
    assert 0.05 <= obj.mass <= 1.0 and 80 < obj.mass / obj.volume < 6000
    assert {"creator", "licence", "source", "vessel"} <= set(obj.metadata)
    assert obj.metadata["licence"] in {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US", "Apache-2.0"}


@pytest.mark.parametrize("name", sorted(HANDLES))
def test_handle_box_holds_a_part_of_the_object_that_a_hand_closes_around(name: str) -> None:
    obj = load_object(name)
    low, high = obj.handle
    within = ((obj.points >= low) & (obj.points <= high)).all(-1)
    assert 0.03 < within.float().mean() < 0.9
    assert 0.05 < (high - low).max() < 0.20  # as long as a hand is wide, or longer
    assert (low.numpy() > obj.vertices.min(0) - 0.002).all() and (high.numpy() < obj.vertices.max(0) + 0.002).all()


def test_only_things_with_a_handle_have_one() -> None:
    assert {name for name in NAMES if load_object(name).handle is not None} == set(HANDLES)


@pytest.mark.parametrize(
    "box",
    [
        {"low": [0, 0, 0]},
        {"low": [0, 0], "high": [1, 1]},
        {"low": [0, 0, 0], "high": [1, float("nan"), 1]},
        {"low": [0, 0, 1], "high": [1, 1, 0]},
        {"low": "abc", "high": [1, 1, 1]},
        [[0, 0, 0], [1, 1, 1]],
    ],
)
def test_bad_handle_is_refused(brick: ObjectModel, box: object) -> None:
    with pytest.raises(ValueError, match=r"object 'brick': metadata\['handle'\] is .*, expected"):
        _ = replace(brick, metadata={"handle": box}).handle


def volume(parts: list[np.ndarray]) -> float:
    return float(trimesh.Trimesh(*union(parts), process=False).volume)


@pytest.mark.parametrize("count", [5, 12])
def test_ring_has_the_volume_of_a_round_one_and_an_open_middle(count: int) -> None:
    parts = ring(count, (0, 0.02, 0.03), (0.01, 0.02, 0.03), stretch=1.5)
    assert len(parts) == count
    assert volume(parts) == pytest.approx(1.5 * np.pi * (0.03**2 - 0.02**2) * 0.01, rel=1e-4)
    assert build_object("ring", parts, recentre=False).signed_distance(torch.tensor([0.0, 0.0, 0.005])) > 0.01


def test_plate_facing_and_tilted_put_points_where_they_say() -> None:
    (flat,) = plate([(0, 0), (0.1, 0), (0.1, 0.2), (0, 0.2)], 0.01, 0.002)
    np.testing.assert_allclose([flat.min(0), flat.max(0)], [[0, -0.005, 0], [0.1, 0.005, 0.2]], atol=1e-12)
    assert volume([flat]) < 0.1 * 0.01 * 0.2
    np.testing.assert_allclose(facing([np.array([[1.0, 2.0, 3.0]])], 10.0), [[[1, 7, 2]]])
    np.testing.assert_allclose(tilted([np.array([[0.0, 2.0, 3.0]])], np.pi / 2, (1, 0, 0)), [[[4, 2, 0]]], atol=1e-12)


def test_points_are_spread_by_area() -> None:
    obj = build_object("slab", box((0.1, 0.02, 0.2)))
    on_large_faces = (obj.normals[:, 1].abs() > 0.5).sum().item()
    assert on_large_faces == pytest.approx(4096 * 0.04 / 0.052, abs=3)


def test_reduced_hull_keeps_volume_and_proportions() -> None:
    cylinder = trimesh.creation.cylinder(0.03, 0.2, sections=100)
    few = trimesh.convex.convex_hull(reduce_hull(cylinder.vertices))
    assert len(few.vertices) <= 32
    assert few.volume == pytest.approx(cylinder.volume, rel=1e-4)
    np.testing.assert_allclose(few.extents, cylinder.extents, rtol=0.03)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.tuples(*[st.integers(2, 9)] * 3))
def test_grid_encoding_is_lossless_to_the_quantum(seed: int, shape: tuple[int, int, int]) -> None:
    grid = np.random.default_rng(seed).uniform(-0.3, 0.5, shape).astype(np.float32)
    np.testing.assert_allclose(decode_grid(encode_grid(grid)), grid, atol=1.01e-4)


def test_written_object_reads_back(brick: ObjectModel, tmp_path: Path) -> None:
    write_object(brick, tmp_path / "brick.npz")
    again = read_object(tmp_path / "brick.npz")
    assert torch.equal(again.points, brick.points) and torch.equal(again.sdf_grid, brick.sdf_grid)
    assert (again.name, again.mass, again.volume, again.metadata) == ("brick", 0.5, brick.volume, brick.metadata)
    assert all(np.array_equal(a, b) for a, b in zip(again.parts, brick.parts, strict=True))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("faces", None, "keys missing: faces"),
        ("faces", np.full((4, 3), 99), "faces names vertices"),
        ("vertices", np.zeros((8, 2)), "vertices has shape"),
        ("vertices", np.full((8, 3), np.nan), "not finite"),
        ("part_sizes", np.array([7]), "part_sizes"),
        ("properties", np.array([-1.0, 1.0, 1.0]), "must be positive"),
    ],
)
def test_damaged_file_is_refused(brick: ObjectModel, tmp_path: Path, key: str, value: object, message: str) -> None:
    write_object(brick, tmp_path / "brick.npz")
    data = dict(np.load(tmp_path / "brick.npz"))
    if value is None:
        del data[key]
    else:
        data[key] = value
    np.savez(tmp_path / "bad.npz", **data)
    with pytest.raises(ValueError, match=message):
        read_object(tmp_path / "bad.npz")


def test_truncated_file_is_refused(brick: ObjectModel, tmp_path: Path) -> None:
    write_object(brick, tmp_path / "brick.npz")
    content = (tmp_path / "brick.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"short\.npz: not a readable object file"):
        read_object(tmp_path / "short.npz")


def test_unknown_name_lists_the_library() -> None:
    with pytest.raises(ValueError, match=r"unknown object 'hamer' \(did you mean 'hammer'\?\).*wine_bottle"):
        load_object("hamer")


def compiled(obj: ObjectModel) -> mujoco.MjModel:
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1], contype=1, conaffinity=6)
    add_object(spec, obj)
    return spec.compile()


def test_object_in_mujoco_has_the_solids_mass_and_falls_onto_the_floor() -> None:
    obj = load_object("hammer")
    model = compiled(obj)
    body = model.body("object")
    assert body.mass[0] == pytest.approx(obj.mass)
    np.testing.assert_allclose(np.sort(body.inertia), np.linalg.eigvalsh(obj.inertia), rtol=1e-6)
    contypes = [int(model.geom(f"object_part_{i:02d}").contype[0]) for i in range(MAX_PARTS)]
    assert contypes[: len(obj.parts)] == [2] * len(obj.parts)
    assert not any(
        contype & 0b111 for contype in contypes[len(obj.parts) :]
    )  # no bit that anything in a scene answers to
    data = mujoco.MjData(model)
    data.qpos[:7] = [0, 0, 0.2, 0.8, 0.6, 0, 0]
    mujoco.mj_step(model, data, 2000)
    assert data.ncon > 0 and 0.005 < data.qpos[2] < 0.1 and np.abs(data.qvel).max() < 0.1
    turn = torch.as_tensor(data.body("object").xmat.reshape(3, 3))
    height = obj.points.double() @ turn.T + torch.as_tensor(data.body("object").xpos)
    assert height[:, 2].min() > -2e-3


def test_models_of_all_objects_run_in_one_batch() -> None:
    models = [compiled(load_object(name)) for name in NAMES]
    batch = mujoco.batch.Batch(models[0], len(models), nthread=1, persistent=True)
    batch.set_models(models)
    assert {(m.nq, m.nv, m.nbody, m.ngeom, m.nmesh) for m in models} == {(7, 6, 2, models[0].ngeom, models[0].nmesh)}


def test_mesh_of_a_user_keeps_its_frame(tmp_path: Path) -> None:
    mesh = trimesh.creation.cylinder(radius=30, height=200, sections=48)
    mesh.apply_translation([10, 20, 300])
    mesh.export(tmp_path / "can.stl")
    obj = ObjectModel.from_mesh(tmp_path / "can.stl", scale=0.001, density=1000.0)
    np.testing.assert_allclose(obj.center_of_mass, [0.01, 0.02, 0.3], atol=1e-4)
    assert obj.name == "can" and len(obj.parts) == 1
    assert obj.mass == pytest.approx(1e3 * np.pi * 0.03**2 * 0.2, rel=0.01)
    assert obj.signed_distance(torch.tensor([0.01, 0.02, 0.3])) == pytest.approx(-0.03, abs=1e-3)
    assert compiled(obj).body("object").ipos == pytest.approx(obj.center_of_mass, abs=1e-5)


def test_bad_meshes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no mesh file at"):
        ObjectModel.from_mesh(tmp_path / "none.obj")
    (tmp_path / "empty.obj").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty\.obj"):
        ObjectModel.from_mesh(tmp_path / "empty.obj")
    trimesh.creation.box((100, 100, 200)).export(tmp_path / "mm.obj")
    with pytest.raises(ValueError, match="longest extent is 200 m"):
        ObjectModel.from_mesh(tmp_path / "mm.obj")
    with pytest.raises(ValueError, match="has 13 convex parts, 1 to 12 are allowed"):
        build_object("many", box((0.1, 0.1, 0.1)) * 13)


@pytest.mark.skipif(not YCB.is_dir(), reason="YCB meshes are not here")
@pytest.mark.parametrize("folder", ["006_mustard_bottle", "021_bleach_cleanser"])
def test_ycb_mesh(folder: str) -> None:
    path = YCB / folder / "visual.obj"
    obj = ObjectModel.from_mesh(path, name=folder)
    assert obj.volume == pytest.approx(trimesh.load_mesh(path).volume, rel=0.10)
    np.testing.assert_allclose(obj.center_of_mass, trimesh.load_mesh(path).center_mass, atol=3e-3)
