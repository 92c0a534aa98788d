"""The table of proposed grasps: scores of known displacements, first choices, and the whole on made-up generators."""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dexh2r_gym import cli, table4_report
from dexh2r_gym.extras import MissingExtraError
from dexh2r_gym.giver import GiverHand
from dexh2r_gym.grasps import load_pool
from dexh2r_gym.grasps.generators import Proposals
from dexh2r_gym.grasps.splits import TRAIN_OBJECTS
from dexh2r_gym.grasps.stability import displacements
from dexh2r_gym.hand import OPEN_HAND
from dexh2r_gym.objects import load_object
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.rotations import quat_angle, quat_rotate
from dexh2r_gym.table4 import (
    FILTERS,
    Measured,
    choose,
    choose_trials,
    clear_of_giver,
    disturb,
    down_in_object,
    first_choices,
    measure,
    table4,
)
from dexh2r_gym.table4_report import PUBLISHED, PUBLISHED_LABEL, build_report, object_scores, summarise_choices
from dexh2r_gym.types import join_hand_state

OBJECTS = ("dumbbell", "thermos")  # each with trials in the embedded store
FAR = torch.tensor([0.0, 0.0, 5.0, 1.0, 0.0, 0.0, 0.0])
CALLS: list[str] = []  # which of OBJECTS a made-up generator was asked for


# ------------------------------------------------------------------------------------------------- made-up generators
def steadiest(name: str, count: int) -> torch.Tensor:
    return load_pool(name).gravity.amax(-1).argsort()[:count]


class MadeUp:
    """Proposes the steadiest of the shipped grasps for a share of the proposals, open hands far away for the others."""

    def __init__(self, share: float) -> None:
        self.share = share

    def propose(self, points: Any, normals: Any = None, *, num: int = 500, seed: int = 0) -> Proposals:
        name = next(name for name in OBJECTS if torch.equal(load_object(name).points, points))
        CALLS.append(name)
        pool = load_pool(name)
        good = steadiest(name, round(self.share * num))
        far = num - len(good)
        return Proposals(
            torch.cat((pool.palm_pose[good], FAR.repeat(far, 1))),
            torch.cat((pool.joints[good], OPEN_HAND.float().repeat(far, 1))),
        )


class Weights(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)
        self.propose = MadeUp(1.0).propose


def shipped() -> MadeUp:
    return MadeUp(1.0)


def half() -> MadeUp:
    return MadeUp(0.5)


def far() -> MadeUp:
    return MadeUp(0.0)


def untrained() -> Weights:
    return Weights()  # other weights every time


def make(out: Path, *names: str, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"objects": OBJECTS, "num": 4, "trials": 0, "progress": False} | changes
    return table4(out, generators=[f"{__name__}:{name}" for name in names], **options)


# -------------------------------------------------------------------------------------------------------------- scores
def measured(released: list[list[float]], **changes: Any) -> Measured:
    moved = torch.tensor(released, dtype=torch.float64)
    count = len(moved)
    arrays: dict[str, Any] = {
        "palm_pose": FAR.repeat(count, 1), "joints": torch.zeros(count, 22), "released": moved,
        "gravity": torch.zeros(count, 6), "depth": torch.zeros(count), "depth_released": torch.zeros(count),
        "seconds": 0.5, "threads": 1,
    }  # fmt: skip
    return Measured(**arrays | changes)


def test_scores_of_known_displacements() -> None:
    lost, held = 0.021, 0.019  # m; 2 cm is the limit
    joints = torch.zeros(4, 22)
    joints[3] = 0.2
    found = object_scores(
        measured(
            [[held] * 6, [lost] * 6, [math.inf] * 6, [held] * 6],
            joints=joints,
            gravity=torch.tensor([[held] * 6, [held] * 6, [held] * 6, [held] * 5 + [lost]]),
            depth=torch.tensor([0.0, 0.004, 0.0, 0.0]),
            depth_released=torch.tensor([0.0, 0.006, 0.05, 0.0]),
        ),
        seed=0,
    )
    assert (found["succ6"], found["succ1"], found["succ1_any"], found["gravity"]) == (50.0, 50.0, 50.0, 75.0)
    assert found["div_rad"] == pytest.approx(0.1 * math.sqrt(2))  # of 0 and 0.2 rad in every joint
    assert found["pen_depth_exact_cm"] == pytest.approx(0.1) and found["pen_depth_cm"] == pytest.approx(1.4)
    assert found["false_depth"] == 25.0
    assert object_scores(measured([[held] * 6, [lost] * 6]), seed=0)["div_rad"] is None


def test_the_two_readings_of_succ1_differ_where_a_grasp_holds_some_pushes() -> None:
    moved = 0.1 * (1 - torch.eye(6)).repeat(1000, 1)  # each holds one push of six
    found = object_scores(measured(moved.tolist()), seed=0)
    assert found["succ6"] == 0.0 and found["succ1_any"] == 100.0
    assert abs(found["succ1"] - 100 / 6) < 4 * 100 * math.sqrt(5 / 36 / 6000)
    assert found == object_scores(measured(moved.tolist()), seed=0)
    assert len({object_scores(measured(moved.tolist()), seed)["succ1"] for seed in range(4)}) > 1


def test_means_are_over_objects_and_their_intervals_within_what_is_possible() -> None:
    row = dict.fromkeys(table4_report.COLUMNS, 0.0) | {"seconds": 1.0, "threads": 1}
    rows = {
        "can": row | {"succ6": 40.0, "gravity": 49.0, "div_rad": None, "pen_depth_cm": 1.0},
        "box": row | {"succ6": 60.0, "gravity": 51.0, "div_rad": 0.1, "pen_depth_cm": 1.2, "seconds": 2.0},
    }
    found = build_report({}, {"own": rows}, {"own": []})["generators"]["own"]
    assert found["mean"]["succ6"] == {"value": 50.0, "low": 0.0, "high": 100.0, "objects": 2}
    t = 12.706  # Student's, 97.5%, one degree of freedom
    assert found["mean"]["gravity"]["low"] == pytest.approx(50 - t, abs=1e-3)
    assert found["mean"]["pen_depth_cm"]["high"] == pytest.approx(1.1 + 0.1 * t, abs=1e-3)
    assert found["mean"]["div_rad"] == {"value": 0.1, "low": None, "high": None, "objects": 1}
    assert found["propose_seconds"] == {"median": 1.5, "most": 2.0, "threads": 1}


def test_a_trial_without_a_choice_counts_as_not_held() -> None:
    row = {"filter": "released", "passed": 3, "left": 2, "choice": 0, "held": True, "held_disturbed": False}
    empty = {"filter": "released", "passed": 0, "left": 0, "choice": None}
    blocked = empty | {"passed": 3}
    found = summarise_choices([row, row, empty, blocked])["released"]
    assert found["held"]["value"] == 50.0 and found["held_disturbed"]["value"] == 0.0
    assert (found["trials"], found["none_passed"], found["emptied"], found["median_left"]) == (4, 1, 2, 1)
    assert found["held"]["low"] == pytest.approx(15.0, abs=0.01)  # Wilson, 2 of 4: 1/2 -+ z/2 / sqrt(4 + z^2)


# -------------------------------------------------------------------------------------------------------- first choice
def test_the_nearest_allowed_grasp_is_chosen() -> None:
    palms = FAR.repeat(3, 1)
    palms[:, 2] = torch.tensor([0.1, 0.2, 0.3])
    turned = torch.tensor([[1.0, 2.0, 3.0, math.sqrt(0.5), math.sqrt(0.5), 0, 0]], dtype=torch.float64)  # about x
    # 0.3 m along the object's z, which is the world's -y
    start = join_hand_state(torch.tensor([1.0, 2.0 - 0.3, 3.0, *turned[0, 3:]], dtype=torch.float64), torch.zeros(22))
    replay: Any = SimpleNamespace(object_pose=turned, hand_start=start)
    pool = measured([[0.0] * 6] * 3, palm_pose=palms)
    allowed = torch.ones(3, 3).tril().bool()
    assert [choose(pool, allowed[i], replay) for i in range(3)] == [0, 1, 2]
    assert choose(pool, torch.zeros(3, dtype=torch.bool), replay) is None
    assert torch.allclose(down_in_object(turned[0]), torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))


def test_a_grasp_where_the_giver_ends_is_no_choice() -> None:
    palms = FAR.repeat(3, 1)
    palms[:, 0] = torch.tensor([0.0, 0.5, 1.0])  # the nearest first
    giver = GiverHand()
    wrists = palms[[1, 0], :3].double()  # begins at the second grasp, ends at the first
    still = torch.tensor([[0.0, 0, 0, 1, 0, 0, 0]], dtype=torch.float64).repeat(2, 1)
    replay: Any = SimpleNamespace(
        **{"id": "made-up", "object": "thermos", "object_model": load_object("thermos"), "object_pose": still},
        **{"giver": giver.mano(wrists, still[:, 3:]), "side": "right", "giver_model": "open"},
        hand_start=join_hand_state(palms[0].double(), OPEN_HAND),
    )
    fails = torch.tensor([[0.0], [1.0], [0.0]]).repeat(1, 6)  # of the second, in the gravity test alone
    pool = measured([[0.0] * 6] * 3, palm_pose=palms, joints=OPEN_HAND.float().repeat(3, 1), gravity=fails)
    assert clear_of_giver(pool, replay).tolist() == [False, True, True]
    rows = first_choices({"thermos": pool}, [replay], seed=0)
    found = [(row["filter"], row["passed"], row["left"], row["choice"], row["held"]) for row in rows]
    assert found == [("released", 3, 2, 1, False), ("released and gravity", 2, 1, 2, False)]


@given(st.integers(0, 2**32 - 1))
def test_a_disturbed_palm_is_off_by_3_mm_and_3_degrees(seed: int) -> None:
    palm = load_pool("thermos").palm_pose[0].double()
    moved = disturb(palm, seed)
    assert float((moved[:3] - palm[:3]).norm()) == pytest.approx(0.003, abs=1e-8)
    assert float(quat_angle(moved[3:], palm[3:])) == pytest.approx(math.radians(3.0), abs=1e-6)
    assert torch.equal(moved, disturb(palm, seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300))
def test_trials_are_spread_over_those_with_unseen_objects(count: int) -> None:
    store = ReplayStore.open("mini")
    unseen = [info.id for info in store.infos if info.object not in TRAIN_OBJECTS]
    chosen = choose_trials(store, (), count)
    places = [unseen.index(i) for i in chosen]
    assert len(chosen) == min(count, len(unseen)) and len(set(chosen)) == len(chosen)
    gaps = {b - a for a, b in pairwise(places)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    assert all(store.info(i).object == "thermos" for i in choose_trials(store, ("thermos",), count))


def test_first_choices_hold_or_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReplayStore.open("mini")
    replays = [store.replay(i) for i in choose_trials(store, OBJECTS, 3)]
    pools = {name: measure(shipped(), load_object(name), num=8, seed=0) for name in OBJECTS}
    judged = []

    def judge(objects: Any, palm_pose: Any, joints: Any, protocol: Any, **options: Any) -> torch.Tensor:
        judged.append((palm_pose, protocol.friction, options["directions"]))
        return displacements(objects, palm_pose, joints, protocol, **options)

    with monkeypatch.context() as patch:
        patch.setattr("dexh2r_gym.table4.displacements", judge)
        rows = first_choices(pools, replays, seed=0)
    assert [row["replay"] for row in rows] == [r.id for r in replays for _ in FILTERS]
    for row, replay in zip(rows, [r for r in replays for _ in FILTERS], strict=True):
        free = clear_of_giver(pools[row["object"]], replay)
        assert row["passed"] == 8 and row["left"] == int(free.sum())
        assert (row["choice"] is None) == (row["left"] == 0)
        if row["choice"] is not None:
            assert free[row["choice"]] and row["held"] and "held_disturbed" in row
    chosen = [row for row in rows if row["choice"] is not None]
    assert chosen, "choose other trials"
    (planned, friction, down), (disturbed, less_friction, again) = judged
    assert (friction, less_friction) == (0.8, 0.6)
    assert torch.equal(planned, torch.stack([pools[row["object"]].palm_pose[row["choice"]] for row in chosen]))
    assert torch.allclose((disturbed - planned)[:, :3].norm(dim=-1), torch.tensor(0.003), atol=1e-6)
    at_end = torch.stack([store.replay(row["replay"]).object_pose[-1] for row in chosen])
    in_world = quat_rotate(at_end[:, 3:], down[:, 0])  # (n, 3)
    assert down.shape == (len(chosen), 1, 3) and torch.equal(down, again)
    assert torch.allclose(in_world, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64), atol=1e-6)
    none = first_choices({name: measure(far(), load_object(name), num=1, seed=0) for name in OBJECTS}, replays, seed=0)
    assert all(row["passed"] == row["left"] == 0 and row["choice"] is None and "held" not in row for row in none)


# ------------------------------------------------------------------------------------------------------- the whole way
def test_the_table_of_known_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table"
    report = make(out, "far", "half", "shipped", trials=1)
    names = [f"{__name__}:{name}" for name in ("far", "half", "shipped")]
    assert list(report["generators"]) == names
    for name, percent in zip(names, (0.0, 50.0, 100.0), strict=True):
        mean = report["generators"][name]["mean"]
        for column in ("succ6", "succ1", "succ1_any", "gravity"):
            assert mean[column]["value"] == percent
    nothing, _, all_good = (report["generators"][name] for name in names)
    assert nothing["mean"]["pen_depth_cm"]["value"] == nothing["mean"]["pen_depth_exact_cm"]["value"] == 0.0
    assert nothing["mean"]["div_rad"]["value"] is None and nothing["first_choice"]["released"]["emptied"] == 1
    for object_name, row in all_good["by_object"].items():
        pool = load_pool(object_name)
        own = steadiest(object_name, 4)
        assert row["pen_depth_exact_cm"] == pytest.approx(100 * float(pool.depth[own].mean()), abs=1e-3)
        assert row["div_rad"] == pytest.approx(float(pool.joints[own].std(dim=0).mean()), abs=1e-6)
    assert json.loads((out / "table4.json").read_text()) == report
    assert report["published"] == {"label": PUBLISHED_LABEL, "rows": PUBLISHED}
    text = (out / "table4.md").read_text()
    assert "![Table 4" in text and "(table4.png)" in text
    assert (out / "table4.png").read_bytes().startswith(b"\x89PNG")
    assert PUBLISHED_LABEL[1:] in text and "| DexGraspAnything | yes | 52.81 | 88.75 | 0.123 | 1.64 |" in text
    assert f"| {names[0]} | 0.0 [0.0, 0.0] |" in text and f"## By object: {names[2]}" in text

    # Without matplotlib the same, but for the plot: nothing is proposed again.
    CALLS.clear()

    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(f"{module} is missing: pip install {extra}")

    monkeypatch.setattr(table4_report, "import_extra", missing)
    assert make(out, "far", "half", "shipped", trials=1) == report and not CALLS
    plain = (out / "table4.md").read_text()
    assert plain.splitlines()[:-1] == text.splitlines()[:-1]
    assert "No table4.png" in plain and "pip install view" in plain


def test_an_interrupted_table_goes_on_and_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_second(self: MadeUp, *args: Any, **options: Any) -> Proposals:
        if CALLS:
            raise KeyboardInterrupt
        return propose(self, *args, **options)

    propose = MadeUp.propose
    CALLS.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MadeUp, "propose", stop_at_second)
        make(tmp_path / "cut", "half", num=2)
    assert not (tmp_path / "cut" / "table4.json").exists()
    CALLS.clear()
    report = make(tmp_path / "cut", "half", num=2)
    assert CALLS == [OBJECTS[1]]
    file = next((tmp_path / "cut").glob(f"*/{OBJECTS[0]}.npz"))
    file.write_bytes(file.read_bytes()[:300])
    CALLS.clear()
    again = make(tmp_path / "cut", "half", num=2)
    assert CALLS == [OBJECTS[0]]
    whole = make(tmp_path / "whole", "half", num=2)
    for other in (again, whole):
        for name, row in other["generators"][f"{__name__}:half"]["by_object"].items():
            before = report["generators"][f"{__name__}:half"]["by_object"][name]
            assert row | {"seconds": 0} == before | {"seconds": 0}


def test_another_config_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "far", num=1)
    for changes, word in (
        ({"num": 2}, "table4.num: 1 in the folder, 2 now"),
        ({"seed": 1}, "table4.seed"),
        ({"objects": OBJECTS[:1]}, "table4.objects"),
        ({"trials": 1}, "replay_ids"),
    ):
        with pytest.raises(ValueError, match=word):
            make(tmp_path, "far", **({"num": 1} | changes))
    with pytest.raises(ValueError, match=r"generators\.tests"):
        make(tmp_path, "half", num=1)
    make(tmp_path / "module", "untrained", num=1)
    with pytest.raises(ValueError, match="sha256"):
        make(tmp_path / "module", "untrained", num=1)


def test_mistakes_are_refused_with_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown object 'dumbel' \(did you mean 'dumbbell'\?\).*thermos"):
        make(tmp_path, "far", objects=("dumbel",))
    with pytest.raises(ValueError, match=r"unknown generator 'vae'.*module:function"):
        table4(tmp_path, generators=("vae",))
    with pytest.raises(ValueError, match="no_such_function"):
        make(tmp_path, "no_such_function")
    with pytest.raises(ValueError, match="num must be at least 1"):
        make(tmp_path, "far", num=0)
    assert not any(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pose, joints: (pose[:1], joints[:1]), r"proposed palm_pose \(1, 7\).*expected \(2, 7\)"),
        (lambda pose, joints: (pose * torch.tensor([1.0, torch.nan])[:, None], joints), "proposal 1 .* NaN"),
        (lambda pose, joints: (pose * 2, joints), "proposal 0 for thermos has no unit quaternion"),
        (lambda pose, joints: (pose, joints + 3), "proposal 0 for thermos has joints beyond"),
    ],
)
def test_proposals_that_break_the_contract_are_refused(change: Any, reason: str) -> None:
    grasps = change(FAR.repeat(2, 1), OPEN_HAND.float().repeat(2, 1))
    bad: Any = SimpleNamespace(propose=lambda *_, **__: Proposals(*grasps))
    with pytest.raises(ValueError, match=reason):
        measure(bad, load_object("thermos"), num=2, seed=0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    line = f"table4 --out {tmp_path} --generators {__name__}:far --objects hammer --num 1 --trials 0"
    monkeypatch.setattr(sys, "argv", ["dexh2r", *line.split()])
    monkeypatch.setattr(MadeUp, "propose", lambda *_, **__: Proposals(FAR[None], OPEN_HAND.float()[None]))
    cli.main()
    printed = capsys.readouterr().out
    assert (tmp_path / "table4.md").read_text() in printed and f"{tmp_path / 'table4.md'}" in printed
    assert "learned from hammer" in printed and "None was tested" in printed
