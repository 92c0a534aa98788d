"""Training of the approach policies, on the demonstrations of stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dexh2r_gym.replay import ReplayStore
from policies.approach import ApproachModel
from policies.approach_data import ApproachWindows, Labels
from policies.checkpoint import load_checkpoint, make_model, paper_config, read_card
from policies.train import DEFAULTS, TrainOptions, fit, option_words

_FITTED = 4096  # windows from which statistics are taken
_FRAMES = ("num_points", "cameras", "image_size")  # settings that say what clouds and pictures are


class _Demonstrations:
    """See `policies.train.TrainData`; stores are drawn from in proportion to their windows."""

    def __init__(self, windows: Sequence[ApproachWindows], stores: Sequence[ReplayStore]) -> None:
        self._windows = windows
        self._shares = torch.tensor([float(len(part)) for part in windows])
        self.about: Mapping[str, Any] = {
            "replays": ", ".join(store.path.name for store in stores),
            "store": ", ".join(store.attrs["sha256"]["data/hand_state"] for store in stores),
            "objects": sorted({name for part in windows for name in part.objects}),
            "trials": sum(part.num_trials for part in windows),
            "windows": sum(map(len, windows)),
            "labels": windows[0].labels,
        }

    def batch(self, size: int, generator: torch.Generator, *, pictures: bool = True) -> dict[str, Tensor]:
        if len(self._windows) == 1:  # nothing is drawn, so that weights are those of before there could be several
            return self._windows[0].batch(size, generator, pictures=pictures)
        drawn = torch.multinomial(self._shares, size, replacement=True, generator=generator)
        counts = drawn.bincount(minlength=len(self._windows)).tolist()
        parts = [
            part.batch(count, generator, pictures=pictures)
            for part, count in zip(self._windows, counts, strict=True)
            if count
        ]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def describe(self, batch: Mapping[str, Tensor]) -> str:
        return f"windows with the palm at {batch['agent_pos'][:3, -1, :3].tolist()} m and others"


def train(
    policy: str,
    replays: str | Sequence[str],
    out: Path,
    options: TrainOptions = DEFAULTS,
    *,
    cache: Path | None = None,
    max_trials: int | None = None,
    size: str = "base",
    config: Mapping[str, Any] | None = None,
    labels: Labels = "expert",
    init: Path | None = None,
) -> ApproachModel:
    """Train a policy on the demonstrations of stores' train splits; writes OUT (.safetensors, .json, .jsonl).

    Args:
        policy: `motionnet`, `dp`, `dp3` or `flow`.
        replays: names or paths of stores, or of one.
        out: the checkpoint; see `policies.train.fit`, also for what is raised.
        cache: folder in which clouds and pictures are kept for the next training; by default OUT's `frames`.
        max_trials: at most so many trials of each store, spread over the split.
        size: of a new one: "base", or "paper" for the published sizes.
        config: sizes of a new one that differ from those.
        labels: what is learned, see `policies.approach_data.ApproachWindows`.
        init: checkpoint of the same policy to start from; its sizes and statistics are kept.

    Raises:
        ValueError: init together with other sizes; no store; stores of different frame rates; or as
            `ApproachWindows`, `load_checkpoint` and `fit`.
    """
    if init is not None and (size != "base" or config):
        raise ValueError(f"{init} has its own sizes, which are kept; leave size and config out")
    out = out.with_suffix(".safetensors")
    torch.manual_seed(options.seed)
    if init is None:
        model = make_model(policy, {**(paper_config(policy) if size == "paper" else {}), **(config or {})})
    else:
        model = load_checkpoint(init, policy).requires_grad_(True).train()
    settings = model.config
    stores = [ReplayStore.open(name) for name in ([replays] if isinstance(replays, str) else replays)]
    if not stores:
        raise ValueError("no store to learn from; name at least one")
    shown = (store.info(id) for store in stores for id in store.ids("train"))
    if len(rates := {info.fps for info in shown if info.has_demo}) > 1:
        raise ValueError(f"the stores have trials of {sorted(rates)} frames a second; policies learn one rate")
    windows = [
        ApproachWindows(
            store,
            "train",
            observed=settings.observed,
            ahead=model.ahead,
            needs=model.needs,
            frames={name: getattr(settings, name) for name in _FRAMES if hasattr(settings, name)},
            cache=cache or out.parent / "frames",
            max_trials=max_trials,
            labels=labels,
        )
        for store in stores
    ]
    data = _Demonstrations(windows, stores)
    if init is None:
        model.fit(data.batch(_FITTED, torch.Generator().manual_seed(options.seed), pictures=False))
    about = {"policy": policy, "config": asdict(settings), "init": None if init is None else read_card(init)["sha256"]}
    words: list[Any] = ["dexh2r train", policy, "--replays", *(store.path.name for store in stores)]
    words += ["--out", out.stem, "--size", size, "--labels", labels] + (
        ["--max-trials", max_trials] if max_trials else []
    )
    words += ["--init", init.name] if init else []
    fit(model, data, out, options, about=about, command=" ".join(map(str, [*words, *option_words(options)])))
    return load_checkpoint(out)
