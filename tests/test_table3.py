"""The table of approaching motion: tests between agents with known answers, and the whole of it on a few trials."""

import json

import imageio.v2 as imageio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from dexh2r_gym.replay import ReplayStore, write_store
from dexh2r_gym.replay.dexh2r import import_dexh2r
from dexh2r_gym.table3 import table3
from dexh2r_gym.table3_report import PUBLISHED, compare, holm, paired_test, table_markdown
from dexh2r_gym.video_wall import video_wall
from tests.dexh2r_dataset import write_dataset
from tests.trials import object_of, trial_of


def row(replay, succ=1.0, safe=1.0, pen_dep=0.0):
    return {"replay": replay, "succ": succ, "safe": safe, "pen_dep": pen_dep}


def test_mcnemar_counts_only_trials_that_differ():
    x, y = np.array([1] * 50 + [0] * 8 + [1] * 2), np.array([1] * 50 + [1] * 8 + [0] * 2)
    assert paired_test(x, y, rate=True) == pytest.approx(binomtest(8, 10).pvalue)  # 0.109
    assert paired_test(x, x, rate=True) == 1.0
    six = np.zeros(6)
    assert paired_test(six, six + 1, rate=True) == pytest.approx(2 / 2**6)


def test_wilcoxon_of_known_ranks():
    x = np.zeros(5)
    assert paired_test(x, x + np.arange(1, 6), rate=False) == pytest.approx(2 / 2**5)  # all five of one sign
    assert paired_test(x, x, rate=False) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p):
    corrected = holm(p)
    assert all(0 <= a <= b <= 1 for a, b in zip(p, corrected, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_agents_are_compared_on_the_trials_that_both_have():
    a = [row("1", succ=0), row("2", succ=1), row("3", succ=0)]
    b = [row("2", succ=1), row("1", succ=1), row("4", succ=0)]
    found = {r["metric"]: r for r in compare({"a": a, "b": b}, mode="hard", backend="mujoco")}
    assert found["succ"]["trials"] == 2 and found["succ"]["difference"] == 50.0 and found["succ"]["mode"] == "hard"
    with pytest.raises(ValueError, match="a and b were evaluated on different trials"):
        compare({"a": a[:1], "b": b[2:]})


def store_of(count, folder):
    """The first test trials of mini."""
    mini = ReplayStore.open("mini")
    replays = [mini.replay(id) for id in mini.ids("test")[:count]]
    return write_store(
        folder / "few.zarr.zip",
        [trial_of(r, demo=r.demo.numpy(), number=i) for i, r in enumerate(replays)],
        {r.object: object_of(r) for r in replays},
        licence="CC0-1.0",
        provenance={},
    )


def test_a_single_trial_has_means_without_intervals(tmp_path):
    pytest.importorskip("matplotlib")
    one = {"agents": ("replay",), "modes": ("easy",), "backends": ("kinematic",), "progress": False}
    table = table3(tmp_path / "table", replays=str(store_of(1, tmp_path)), **one)
    frames = table["cells"][0]["paper"]["infer_fr"]["value"]
    row = next(line for line in (tmp_path / "table/table3.md").read_text().splitlines() if "| replay |" in line)
    assert "| 100.0 [20.7, 100.0] |" in row and row.endswith(f"| {frames:.1f} |")


def test_a_table_of_an_imported_dexh2r(tmp_path):
    """What `dexh2r replays import dexh2r` made of a dataset in the published layout is evaluated like any store."""
    pytest.importorskip("matplotlib")
    dataset = write_dataset(tmp_path / "dexh2r", {"1/box/0": {"goals": 20}, "3/box/0": {"goals": 20}})
    import_dexh2r(dataset, tmp_path / "imported.zarr", workers=1, sensors=())
    few = {"agents": ("random", "reactive"), "modes": ("hard",), "backends": ("kinematic",), "progress": False}
    table = table3(tmp_path / "table", replays=str(tmp_path / "imported.zarr"), **few)
    assert {cell["agent"]: cell["episodes"] for cell in table["cells"]} == {"random": 1, "reactive": 1}
    assert "published" in (tmp_path / "table/table3.md").read_text()


def test_a_table_of_two_agents_with_its_plot_and_wall(tmp_path):
    pytest.importorskip("matplotlib")
    store = store_of(2, tmp_path)
    arguments = {
        "agents": ("replay", "random"),
        "modes": ("hard",),
        "backends": ("kinematic",),
        "replays": str(store),
        "num_envs": 2,
        "video": 1,
        "progress": False,
    }
    out = tmp_path / "table"
    table = table3(out, **arguments)
    assert [(c["agent"], c["paper"]["succ"]["value"]) for c in table["cells"]] == [("replay", 100.0), ("random", 0.0)]
    assert json.loads((out / "table3.json").read_text()) == table
    text = (out / "table3.md").read_text()
    assert text == table_markdown(table)
    assert "not comparable one to one" in text and "| MotionNet | easy | 71.1 |" in text
    assert len(table["published"]) == len(PUBLISHED) == 6
    with Image.open(out / "table3.png") as picture:
        assert min(picture.size) > 300
    film = imageio.mimread(out / "wall.mp4", memtest=False)
    assert film[0].shape == (2 * (240 + 28), 320, 3)
    assert np.abs(film[0].astype(int) - film[-1]).mean() > 5
    again = table3(out, **arguments)
    assert again == table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"agents": ("dp4",)}, "unknown agent 'dp4'"),
        ({"modes": ("medium",)}, "unknown mode 'medium'; choose from easy, hard"),
        ({"backends": ("bullet",)}, "unknown backend 'bullet'; choose from"),
        ({"agents": ()}, "one or more"),
    ],
)
def test_mistakes_are_said_before_anything_runs(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        table3(tmp_path / "out", **({"agents": ("replay",)} | change))
    assert not (tmp_path / "out").exists()


def test_a_wall_names_the_film_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no film .*gone\.mp4"):
        video_wall({"a": [tmp_path / "gone.mp4"]}, tmp_path / "wall.mp4")
