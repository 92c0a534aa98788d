"""Whether checkpoints are what their cards say: the hash of the weights, and the scores, measured again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.grasps.generators import GraspGenerator
from dexh2r_gym.grasps.splits import UNSEEN_TEST_OBJECTS
from dexh2r_gym.objects import load_object
from dexh2r_gym.table4 import measure, object_scores
from dexh2r_gym.table4_report import COLUMNS, build_report
from policies.approach import ApproachModel
from policies.checkpoint import FOLDER, load_checkpoint, read_card, shipped
from policies.checkpoint_agent import CheckpointAgent

NUM_PROPOSALS = 100  # an object
SEED = 1
_COLUMNS = ("succ6", "succ1", "succ1_any", "pen_depth_cm", "pen_depth_exact_cm", "div_rad")
_TITLES = {name: column.title for name, column in COLUMNS.items()} | {
    "succ": "succ %",
    "safe": "safe %",
    "pen_dep_cm": "pen_dep cm",
}
_TRIALS: dict[str, Any] = {"split": "test", "mode": "hard", "backend": "mujoco"}  # of approach policies

Scores = dict[str, tuple[float, float, float]]  # value and its 95% interval


def verify(names: Sequence[str] = (), *, write: bool = False) -> bool:
    """Check shipped checkpoints, all or those named, and print what was found. -> whether all are as their cards say

    write: put what was measured into the cards instead, as for weights just trained.

    Raises:
        ValueError, FileNotFoundError: an unknown name (the valid ones are listed), or weights that are not those the
            card describes.
    """
    paths = [FOLDER / f"{name}.safetensors" for name in names] or shipped()
    sound = True
    for path in paths:
        model = load_checkpoint(path)  # refuses a wrong hash
        found, measured_on = (
            approach_scores(path, model) if isinstance(model, ApproachModel) else grasp_scores(model, path.stem)
        )
        about = read_card(path)
        if write:
            about["card"] |= {"expected": found, "measured_on": measured_on}
            path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")
        expected = about["card"].get("expected", {})
        print(f"{path.stem}: weights as described ({about['sha256'][:12]})")
        for column, (value, _, _) in found.items():
            if column not in expected:
                sound = False
                print(f"    {_TITLES[column]} {value:.3f}, NOT IN THE CARD: put it there with --write")
                continue
            _, low, high = expected[column]
            within = low <= value <= high
            sound = sound and within
            verdict = "" if within else "  OUTSIDE"
            print(f"    {_TITLES[column]} {value:.3f}, card [{low:.3f}, {high:.3f}]{verdict}")
    return sound


def grasp_scores(generator: GraspGenerator, name: str) -> tuple[Scores, dict[str, Any]]:
    """Mean over the unseen test objects of each column of Table 4 that a card has; and what was measured on."""
    rows: dict[str, dict[str, Any]] = {}
    for object_name in tqdm(UNSEEN_TEST_OBJECTS, desc=name, unit="object"):
        measured = measure(generator, load_object(object_name), num=NUM_PROPOSALS, seed=SEED, name=name)
        rows[object_name] = object_scores(measured, SEED)
    mean = build_report({}, {name: rows}, {name: []})["generators"][name]["mean"]
    scores = {column: (mean[column]["value"], mean[column]["low"], mean[column]["high"]) for column in _COLUMNS}
    return scores, {"objects": list(UNSEEN_TEST_OBJECTS), "proposals": NUM_PROPOSALS, "seed": SEED}


def approach_scores(path: Path, model: ApproachModel) -> tuple[Scores, dict[str, Any]]:
    """Success, safety and penetration of an approach policy in the embedded test trials, by the paper's definitions.

    Policies that are not told the nearest goal are measured where goals are as dense as in the released code.
    """
    trials = {"replays": "mini" if "goal_pos" in model.needs else "mini500", **_TRIALS}
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(CheckpointAgent(path), out=Path(folder, "run"), agent_name=path.stem, **trials)
    found = {name: report["overall"]["paper"][name] for name in ("succ", "safe", "pen_dep_cm")}
    scores = {name: (float(of["value"]), float(of["low"]), float(of["high"])) for name, of in found.items()}
    return scores, trials | {"seed": 0}
