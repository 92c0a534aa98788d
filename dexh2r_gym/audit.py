"""What an episode's record says about its verdict: words, a trace of the contacts, and a clip of what decided it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dexh2r_gym.envs.receive import GRAVITY, Phase
from dexh2r_gym.extras import import_extra
from dexh2r_gym.metrics import SAFE_MEAN_DEPTH
from dexh2r_gym.replay import ReplayStore
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.safety import QUASI_STATIC_LIMIT
from dexh2r_gym.show.film import write_video
from dexh2r_gym.show.timeline import Timeline
from dexh2r_gym.types import GIVER_PARTS
from dexh2r_gym.verdict import safety_words

_AROUND = 1.0  # s of the clip on each side of the deciding frame
_SHADES = ("#ffffff", "#eef3fb", "#fdf3e3", "#fbe9d0", "#eaf6ea", "#f3eaf8")  # of the phases


def audit(
    run: str | Path,
    episode: str,
    out: str | Path,
    *,
    replays: str | None = None,
    clip: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> str:
    """Write audit.md, contacts.png and, if asked, clip.mp4 of one episode of a run into a folder; -> the text.

    Args:
        replays: name or path of the store, where it is no longer what the run's config says.
        progress: wraps the frames of the clip.

    Raises:
        FileNotFoundError, ValueError: no such run or episode, a record that cannot be read, or other replays.
    """
    folder, out = RunFolder(run), Path(out)
    store = ReplayStore.open(replays or str(folder.config["evaluation"]["replays"]))
    record = folder.load_episode(episode)
    timeline = Timeline.of_episode(store.replay(episode), record)
    out.mkdir(parents=True, exist_ok=True)
    text = describe(record, folder.config["evaluation"])
    (out / "audit.md").write_text(text)
    plot_contacts(record, timeline.replay.object_model.mass, out / "contacts.png")
    if clip:
        decided, around = int(record["decided_frame"]), round(_AROUND * float(record["fps"]))
        frames = range(max(0, decided - around), min(len(record["d"]), decided + around + 1))
        write_video(timeline, out / "clip.mp4", progress(frames))
    return text


def describe(record: dict[str, NDArray], setting: dict) -> str:
    """The verdict of an episode in words, markdown."""
    depth, approach = record["depth"], int(record["approach_frames"])
    mean, deepest = float(depth[:approach].mean()), int(depth[:approach].argmax())
    touched = np.flatnonzero((record["giver_peak"] > 0).any(-1))
    fps = float(record["fps"])
    lines = [
        f"# {record['replay']}: {setting['agent']}, {setting['mode']} mode, {setting['backend']}",
        "",
        f"- status {record['status']}, outcome {record['outcome']}, decided in frame {int(record['decided_frame'])} of "
        f"{len(depth)} ({int(record['decided_frame']) / fps:.2f} s): {record['reason']}.",
        f"- The hand in the object: mean depth {1000 * mean:.2f} mm (safe below {1000 * SAFE_MEAN_DEPTH:g}), "
        f"deepest {1000 * depth[deepest]:.1f} mm in frame {deepest}.",
        f"- The giver: {safety_words(record)}.",
        "",
        "| phase | frames | greatest force on the giver (N) | force on the object, mean (N) |",
        "|---|---|---|---|",
    ]
    for phase in Phase:
        frames = np.flatnonzero(record["phase"] == phase)
        if len(frames):
            force = record["giver_force"][frames].max()
            load = np.linalg.norm(record["load"][frames], axis=-1).mean()
            lines.append(f"| {phase.name.lower()} | {frames[0]} to {frames[-1]} | {force:.1f} | {load:.1f} |")
    if len(touched):
        lines += ["", "| frame | part of the giver's hand | force (N) | speed (m/s) |", "|---|---|---|---|"]
        for t in touched.tolist():
            for part in np.flatnonzero(record["giver_peak"][t] > 0).tolist():
                force, speed = record["giver_peak"][t, part], record["contact_speed"][t]
                lines.append(f"| {t} | {GIVER_PARTS[part]} | {force:.1f} | {speed:.2f} |")
    return "\n".join(lines) + "\n"


def plot_contacts(record: dict[str, NDArray], mass: float, path: Path) -> None:
    """Distance and depth, forces on the giver, and the load that the robot carries, over time; phases shaded.

    MissingExtraError where matplotlib is not installed.
    """
    fps = float(record["fps"])
    time = np.arange(len(record["d"])) / fps
    figure = import_extra("matplotlib.figure", "view").Figure(figsize=(9, 8), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    top.plot(time, 100 * np.where(np.isfinite(record["d"]), record["d"], np.nan), label="palm to goal (cm)")
    top.plot(time, 1000 * record["depth"], label="hand in object (mm)")
    top.set_ylabel("cm, mm")
    for i, part in enumerate(GIVER_PARTS):
        if record["giver_peak"][:, i].any():
            middle.plot(time, record["giver_peak"][:, i], label=f"giver's {part}")
    middle.axhline(QUASI_STATIC_LIMIT, color="firebrick", ls="--", lw=1, label="ISO/TS 15066")
    middle.set_ylabel("peak force (N)")
    bottom.plot(time, record["load"][:, 2], label="robot on object, upwards")
    bottom.plot(time, np.linalg.norm(record["load"], axis=-1), lw=1, label="robot on object, all")
    bottom.axhline(GRAVITY * mass, color="black", ls="--", lw=1, label="weight")
    bottom.set_ylabel("load (N)")
    bottom.set_xlabel("time (s)")
    for axis in (top, middle, bottom):
        for phase in Phase:
            frames = np.flatnonzero(record["phase"] == phase)
            if len(frames):
                label = phase.name.lower() if axis is top else None
                axis.axvspan(frames[0] / fps, (frames[-1] + 1) / fps, color=_SHADES[phase], zorder=0, label=label)
        axis.axvline(int(record["decided_frame"]) / fps, color="firebrick", lw=1)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    top.set_title(f"{record['replay']}: {record['outcome'] if record['status'] == 'REACHED' else record['status']}")
    figure.savefig(path, dpi=110)
