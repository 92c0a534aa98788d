"""Training of the generators of grasps, on grasps made by `dexh2r grasps data`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dexh2r_gym.grasps.dataset import read_dataset
from policies.checkpoint import load_checkpoint, make_model, read_card
from policies.grasp_data import GraspBatch, GraspSet
from policies.grasp_model import GraspModel
from policies.train import DEFAULTS, TrainOptions, fit, option_words


class _Grasps:
    """See `policies.train.TrainData`."""

    def __init__(self, grasps: GraspSet) -> None:
        self._grasps = grasps
        self.about: Mapping[str, Any] = {"objects": grasps.names, "grasps": grasps.num_grasps}

    def batch(self, size: int, generator: torch.Generator) -> GraspBatch:
        return self._grasps.batch(size, generator)

    def describe(self, batch: GraspBatch) -> str:
        names = sorted({self._grasps.names[i] for i in batch.scene.index.tolist()})
        return f"objects {', '.join(names)}"


def train(
    policy: str,
    data: Path,
    out: Path,
    options: TrainOptions = DEFAULTS,
    *,
    init: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> GraspModel:
    """Train a generator on a folder of tried grasps and write OUT (.safetensors, .json) with its log (.jsonl).

    Args:
        policy: `grasp-cvae` or `grasp-diffusion`.
        data: folder made by `dexh2r grasps data`.
        out: the checkpoint; see `policies.train.fit`, also for what is raised.
        init: checkpoint to start from (pre-trained on other objects), of the same policy.
        config: sizes of the model, for a new one.
    """
    out = out.with_suffix(".safetensors")
    torch.manual_seed(options.seed)
    model = make_model(policy, config) if init is None else load_checkpoint(init, policy).requires_grad_(True).train()
    grasps = _Grasps(GraspSet(read_dataset(data), getattr(model.config, "num_points", 0)))
    about: dict[str, Any] = {"policy": policy, "config": asdict(model.config)}
    about["init"] = None if init is None else read_card(init)["sha256"]
    words: list[Any] = ["dexh2r train", policy, "--data", data.name, "--out", out.stem]
    words += ["--init", init.name] if init else []
    fit(model, grasps, out, options, about=about, command=" ".join(map(str, [*words, *option_words(options)])))
    return load_checkpoint(out)
