"""Training of the approach policies, on the demonstrations of a store."""

from __future__ import annotations

from collections.abc import Mapping
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
    """See `policies.train.TrainData`."""

    def __init__(self, windows: ApproachWindows, store: ReplayStore) -> None:
        self._windows = windows
        self.about: Mapping[str, Any] = {
            "replays": store.path.name,
            "store": store.attrs["sha256"]["data/hand_state"],
            "objects": windows.objects,
            "trials": windows.num_trials,
            "windows": len(windows),
            "labels": windows.labels,
        }

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self._windows.batch(size, generator)

    def describe(self, batch: Mapping[str, Tensor]) -> str:
        return f"windows with the palm at {batch['agent_pos'][:3, -1, :3].tolist()} m and others"


def train(
    policy: str,
    replays: str,
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
    """Train a policy on the demonstrations of a store's train split; writes OUT (.safetensors, .json, .jsonl).

    Args:
        policy: `motionnet`, `dp`, `dp3` or `flow`.
        replays: name or path of a store.
        out: the checkpoint; see `policies.train.fit`, also for what is raised.
        cache: folder in which clouds and pictures are kept for the next training; by default OUT's `frames`.
        max_trials: at most so many trials, spread over the split.
        size: of a new one: "base", or "paper" for the published sizes.
        config: sizes of a new one that differ from those.
        labels: what is learned, see `policies.approach_data.ApproachWindows`.
        init: checkpoint of the same policy to start from; its sizes and statistics are kept.

    Raises:
        ValueError: init together with other sizes; or as `ApproachWindows`, `load_checkpoint` and `fit`.
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
    store = ReplayStore.open(replays)
    windows = ApproachWindows(
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
    if init is None:
        model.fit(windows.batch(_FITTED, torch.Generator().manual_seed(options.seed), pictures=False))
    data = _Demonstrations(windows, store)
    about = {"policy": policy, "config": asdict(settings), "init": None if init is None else read_card(init)["sha256"]}
    words: list[Any] = ["dexh2r train", policy, "--replays", store.path.name, "--out", out.stem]
    words += ["--size", size, "--labels", labels] + (["--max-trials", max_trials] if max_trials else [])
    words += ["--init", init.name] if init else []
    fit(model, data, out, options, about=about, command=" ".join(map(str, [*words, *option_words(options)])))
    return load_checkpoint(out)
