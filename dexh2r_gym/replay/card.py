"""What a store holds, as numbers, as text and as a folder for its data card: `dexh2r replays info`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dexh2r_gym.extras import import_extra
from dexh2r_gym.replay.plots import count_kinds, giver_ways, write_plots
from dexh2r_gym.replay.reference import REFERENCES
from dexh2r_gym.replay.replay import SIDES, SPLITS, Replay
from dexh2r_gym.replay.statistics import MEASURES, measure_trials, summarise
from dexh2r_gym.replay.store import ReplayStore

CONTACT_SAMPLE = 200  # trials of which the giver's contact is measured
_TOLD_ABOVE = ("splits", "giver_ways")  # parts of the provenance that are long, and told in other words
_PLOT_TITLES = {
    "counts": "Trials by kind and by object",
    "motion": "Motion of the object, beside recorded handovers",
    "paths": "Paths of the object and starts of the robot",
    "taking": "How it is taken and held",
}


def store_summary(store: ReplayStore) -> dict[str, Any]:
    """What a store holds, from its metadata and one trial of each object: counts, goals, licence, provenance; plain."""
    infos = store.infos
    frames = sum(info.num_frames for info in infos)
    first = {info.object: index for index, info in reversed(list(enumerate(infos)))}
    goals = [store[index].goal_free.shape[1] for index in first.values()]
    return {
        "trials": len(infos),
        "splits": {split: sum(info.split == split for info in infos) for split in SPLITS},
        "kinds": count_kinds(store),
        "frames": frames,
        "hours": sum(info.num_frames / info.fps for info in infos) / 3600,
        "fps": sorted({info.fps for info in infos}),
        "objects": dict(sorted(Counter(info.object for info in infos).items())),
        "subjects": len({info.subject for info in infos}),
        "sides": {side: sum(info.side == side for info in infos) for side in SIDES},
        "givers": sum(info.has_giver for info in infos),
        "giver_model": store.giver_model,
        "giver_ways": giver_ways(store),
        "demonstrations": sum(info.has_demo for info in infos),
        "goals": {"least": min(goals), "most": max(goals)},
        "licence": store.attrs.get("licence"),
        "seed": store.attrs.get("seed"),
        "provenance": store.attrs.get("provenance"),
    }


def describe(store: ReplayStore) -> str:
    """`store_summary` as text for a terminal."""
    return "\n".join(f"{name:15} {_plain(value)}" for name, value in _rows(store_summary(store)))


def write_card(
    store: ReplayStore,
    folder: str | Path,
    *,
    contact_sample: int = CONTACT_SAMPLE,
    seed: int = 0,
    progress: Callable[[Iterable[Replay]], Iterable[Replay]] = iter,
) -> Path:
    """Measure a store and write statistics.json, card.md and the plots it shows into a folder, made if missing.

    Every trial's motion is measured; the giver's contact with the object, which takes longer, on `contact_sample`
    trials drawn with `seed`.

    Returns:
        The path of card.md.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    import_extra("matplotlib.figure", "view")  # before the long part
    chosen = set(np.random.default_rng(seed).permutation(len(store))[:contact_sample].tolist())
    columns = measure_trials(store, contact=chosen.__contains__, progress=progress)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plots = write_plots(store, columns, folder, seed=seed)
    summary, measures = store_summary(store), summarise(columns)
    found = {"summary": summary, "measures": measures}
    (folder / "statistics.json").write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")
    pictures = [f"![{_PLOT_TITLES[path.stem]}]({path.name})" for path in plots]
    parts = [
        "# Card of a replay store",
        summary_table(summary),
        "## Figures",
        figures_table(measures),
        "## Beside recorded handovers",
        reference_table(measures),
        *pictures,
    ]
    card = folder / "card.md"
    card.write_text("\n\n".join(parts) + "\n")
    return card


def summary_table(summary: Mapping[str, Any]) -> str:
    """`store_summary` as a Markdown table."""
    rows = [f"| {name} | {_cell(value)} |" for name, value in _rows(summary)]
    return "\n".join(("| | |", "|---|---|", *rows))


def figures_table(measures: Mapping[str, Mapping[str, float]]) -> str:
    """What `summarise` gives as a Markdown table, one row a measure, in the units people read."""
    rows = []
    for name, found in measures.items():
        label, unit, scale, digits = MEASURES[name]
        values = " | ".join(f"{found[key] / scale:.{digits}f}" for key in ("min", "p5", "median", "p95", "max"))
        rows.append(f"| {label} | {unit} | {values} | {found['trials']:.0f} |")
    head = ("| per trial | unit | least | 5% | median | 95% | most | trials |", "|---|---|---|---|---|---|---|---|")
    return "\n".join((*head, *rows))


def reference_table(measures: Mapping[str, Mapping[str, float]]) -> str:
    """Our medians beside the figures of others (`reference.REFERENCES`), as a Markdown table."""
    rows = []
    for measure, source, what, low, high in REFERENCES:
        if measure in measures:
            label, unit, scale, digits = MEASURES[measure]
            ours = "{median:.{d}f} ({p5:.{d}f} to {p95:.{d}f})".format(
                d=digits, **{key: value / scale for key, value in measures[measure].items()}
            )
            theirs = " to ".join(f"{value / scale:g}" for value in dict.fromkeys((low, high)))
            rows.append(f"| {label} | {unit} | {ours} | {theirs} ({what}) | {source} |")
    head = ("| | unit | here, median (5 to 95%) | recorded | source |", "|---|---|---|---|---|")
    return "\n".join((*head, *rows))


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for people."""
    count = lambda counts: ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items())  # noqa: E731
    goals = sorted({summary["goals"]["least"], summary["goals"]["most"]})
    rate = ", ".join(f"{fps:g}" for fps in summary["fps"])
    told = {key: value for key, value in (summary["provenance"] or {}).items() if key not in _TOLD_ABOVE}
    rows = [
        ("trials", str(summary["trials"])),
        ("split", count(summary["splits"])),
        ("kind", count(summary["kinds"])),
        ("frames", f"{summary['frames']} at {rate} Hz ({summary['hours']:.2f} hours)"),
        ("objects", f"{len(summary['objects'])}: {count(summary['objects'])}"),
        (
            "givers",
            f"{summary['subjects']}, hand model {summary['giver_model']}; trials by side: {count(summary['sides'])}",
        ),
        ("without a giver", str(summary["trials"] - summary["givers"] or "")),
        ("ways to hold", count(summary["giver_ways"])),
        ("demonstrations", str(summary["demonstrations"])),
        ("goal grasps", " to ".join(map(str, goals)) + " an object"),
        ("licence", str(summary["licence"])),
        ("seed", "" if summary["seed"] is None else str(summary["seed"])),
        ("provenance", json.dumps(told)),
    ]
    return [(name, value) for name, value in rows if value]


def _plain(text: str, longest: int = 2000) -> str:
    """Text from a file, fit for a terminal: on one line, nothing that is not printable."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _cell(text: str) -> str:
    """Text from a file, fit for a Markdown table."""
    for mark in "\\|<`":
        text = text.replace(mark, "\\" + mark)
    return _plain(text)
