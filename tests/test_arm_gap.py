"""What an arm costs: the table of hand-made episodes, and the whole command on two trials."""

import pytest
from PIL import Image

from dexh2r_gym.arm_gap import arm_gap, build_gap
from dexh2r_gym.replay import ReplayStore, write_store
from tests.trials import object_of, trial_of


def test_the_gap_is_shown_side_by_side(tmp_path):
    """A store of two trials: table, film, picture; the second time nothing is rolled out again."""
    mini = ReplayStore.open("mini")
    replays = [mini.replay(i) for i in mini.ids("test")[:2]]
    trials = [trial_of(r, number=i) for i, r in enumerate(replays)]
    objects = {r.object: object_of(r) for r in replays}
    store = write_store(tmp_path / "two.zarr.zip", trials, objects, licence="CC0-1.0", provenance={})
    table = arm_gap(tmp_path / "gap", agent="scripted", replays=str(store), split="all", video=1, progress=False)
    assert table["trials"] == 2 and set(table["scores"]) == {"floating", "ur10e"}
    assert sum(table["reasons"].values()) == 2
    text = (tmp_path / "gap" / "arm_gap.md").read_text()
    assert "| floating |" in text and "| ur10e |" in text
    assert (tmp_path / "gap" / "wall.mp4").stat().st_size > 1000
    with Image.open(tmp_path / "gap" / "wall.png") as picture:
        assert picture.width == 320 and picture.height > 400


def test_the_gap_of_hand_made_episodes():
    def rows(*taken):
        return [{"replay": i, "status": "X", "succ": i in taken, "safe": True, "pen_dep": 0.0} for i in "abc"]

    limited = {i: {"arm_limited": v, "arm_touch": v / 2, "arm_reason": r} for i, v, r in
               (("a", 0.3, "speed"), ("b", 0.6, "reach"), ("c", 0.0, ""))}  # fmt: skip
    table = build_gap({}, {"floating": rows("a", "b"), "ur10e": rows("a", "c")}, limited)
    assert [row["replay"] for row in table["lost"]] == ["b"] and table["lost"][0]["arm_reason"] == "reach"
    assert table["won"] == ["c"] and table["touching_trials"] == 2
    assert table["arm_limited"] == pytest.approx(0.3) and table["arm_touch"] == pytest.approx(0.15)
    assert table["reasons"] == {"speed": 1, "reach": 1, "never limited": 1}
