"""What a hand that floats gets away with: the same agent on the same trials, floating and on an arm, side by side.

Both are evaluations of their own (`dexh2r_gym.evaluate`), in OUT/floating and OUT/ur10e: each resumes, and can be
scored and looked at on its own.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from dexh2r_gym.agents import find_agent
from dexh2r_gym.arm import ROBOTS
from dexh2r_gym.evaluate import evaluate
from dexh2r_gym.report import REPORTED, cell
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.table3_report import compare
from dexh2r_gym.video_wall import video_wall

Row = dict[str, Any]
_PICTURED = 0.85  # part of the way to the end of the longer film that the picture shows


def arm_gap(
    out: Path,
    *,
    agent: str,
    mode: str = "hard",
    replays: str = "mini",
    split: str = "test",
    num_envs: int = 48,
    seed: int = 0,
    video: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate an agent with every robot, write OUT/arm_gap.json and arm_gap.md, and return the table.

    With `video` also OUT/wall.mp4, a row a robot, a column a trial (the first of the split), and OUT/wall.png of it.

    Raises:
        ValueError: an unknown agent, mode or split.
    """
    maker = find_agent(agent)
    folders = {robot: RunFolder(out / robot) for robot in ROBOTS}
    reports, rows = {}, {}
    for robot, folder in folders.items():
        reports[robot] = evaluate(
            maker,
            out=folder.path,
            agent_name=agent,
            replays=replays,
            split=split,
            num_envs=num_envs,
            seed=seed,
            video=video,
            mode=mode,
            robot=robot,
            progress=progress,
        )
        rows[robot] = [json.loads(line) for line in (folder.path / "episodes.jsonl").read_text().splitlines()]
    table = build_gap(
        {robot: report["overall"]["paper"] for robot, report in reports.items()},
        rows,
        {row["replay"]: arm_of(folders["ur10e"].load_episode(row["replay"])) for row in rows["ur10e"]},
    )
    table = {"agent": agent, "mode": mode, "replays": Path(replays).name, "split": split} | table
    (out / "arm_gap.json").write_text(json.dumps(table, indent=2) + "\n")
    (out / "arm_gap.md").write_text(gap_markdown(table))
    if video:
        ids = [row["replay"] for row in rows["floating"]][:video]
        films = {robot: [folder.video_path(i) for i in ids] for robot, folder in folders.items()}
        video_wall(films, out / "wall.mp4")
        _picture(out / "wall.mp4", out / "wall.png")
    return table


def arm_of(record: dict[str, np.ndarray]) -> Row:
    """What an episode's record says of the arm: arm_limited, arm_touch (parts of its frames) and arm_reason."""
    return {
        "arm_limited": float(record["arm_limited"]),
        "arm_touch": float(record["arm_touch"]),
        "arm_reason": str(record["arm_reason"]),
    }


def build_gap(scores: dict[str, Any], rows: dict[str, list[Row]], arm: dict[str, Row]) -> dict[str, Any]:
    """The table, json-able.

    scores: of each robot the metrics by the paper's definitions. rows: of each robot its episodes. arm: of each trial
    what `arm_of` gives.
    """
    taken = {robot: {row["replay"] for row in each if row["succ"]} for robot, each in rows.items()}
    return {
        "trials": len(arm),
        "scores": scores,
        "compared": compare(rows),
        "lost": [
            {"replay": row["replay"], "status": row["status"], **arm[row["replay"]]}
            for row in rows["ur10e"]
            if row["replay"] in taken["floating"] - taken["ur10e"]
        ],
        "won": sorted(taken["ur10e"] - taken["floating"]),
        "arm_limited": float(np.mean([a["arm_limited"] for a in arm.values()])),
        "arm_touch": float(np.mean([a["arm_touch"] for a in arm.values()])),
        "touching_trials": sum(a["arm_touch"] > 0 for a in arm.values()),
        "reasons": dict(Counter(a["arm_reason"] or "never limited" for a in arm.values()).most_common()),
    }


def gap_markdown(table: dict[str, Any]) -> str:
    """The table as markdown."""
    names = list(REPORTED.values())
    p = {row["metric"]: row["p"] for row in table["compared"]}
    lines = [
        f"# {table['agent']}: a floating hand, and one on an arm",
        "",
        f"Replays `{table['replays']}`, split {table['split']}, {table['mode']} mode, `mujoco`, {table['trials']} "
        "trials, the paper's definitions, 95% intervals in brackets.",
        "",
        f"| robot | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *(
            f"| {robot} | {' | '.join(cell(scores[name], name) for name in names)} |"
            for robot, scores in table["scores"].items()
        ),
        "",
        f"On the same trials: succ p = {p['succ']:.3g}, safe p = {p['safe']:.3g} (McNemar), pen_dep p = "
        f"{p['pen_dep']:.3g} (Wilcoxon).",
        "",
        f"The arm could not follow by more than 5 mm or 0.05 rad in {100 * table['arm_limited']:.1f}% of the frames. "
        f"Its own links met the object or the giver's hand in {100 * table['arm_touch']:.1f}% of the frames "
        f"(trials: {table['touching_trials']}); that is counted, not simulated.",
        "",
        "| what held it back most | trials |",
        "|---|---|",
        *(f"| {reason} | {count} |" for reason, count in table["reasons"].items()),
        "",
        "## Taken by the floating hand alone",
        "",
    ]
    if table["lost"]:
        lines += ["| trial | status | frames limited % | by |", "|---|---|---|---|"]
        lines += [
            f"| {row['replay']} | {row['status']} | {100 * row['arm_limited']:.0f} | {row['arm_reason']} |"
            for row in table["lost"]
        ]
    else:
        lines.append("None.")
    if table["won"]:
        lines += ["", f"Taken on the arm alone: {', '.join(table['won'])}."]
    return "\n".join(lines) + "\n"


def _picture(film: Path, out: Path) -> None:
    """One frame of a film, late in it."""
    reader: Any = imageio.get_reader(film)
    with reader:
        frames = [frame for frame in reader]
    Image.fromarray(frames[int(_PICTURED * (len(frames) - 1))]).save(out)
