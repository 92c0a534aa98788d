"""Training of the generators of grasps: one loop, top to bottom.

Every step draws its batch and noise from the seed and the step's number, so a training that was stopped and goes on
from its last state gives the same weights, bit for bit, on the same number of CPU threads.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from dexh2r_gym.grasps.dataset import read_dataset
from policies.checkpoint import (
    load_checkpoint,
    load_training,
    make_model,
    read_card,
    save_checkpoint,
    save_training,
)
from policies.grasp_data import GraspSet
from policies.grasp_model import GraspModel

_STATE_EVERY = 200  # steps
_LOG_EVERY = 50  # steps
_EMA = 0.998


@dataclass(frozen=True)
class TrainOptions:
    """How to train."""

    steps: int = 6000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 200  # steps
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks' products; bfloat16 where the CPU has it


def train(
    policy: str,
    data: Path,
    out: Path,
    options: TrainOptions = TrainOptions(),
    *,
    init: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> GraspModel:
    """Train a generator on a folder of tried grasps and write OUT (.safetensors, .json) with its log (.jsonl).

    Args:
        policy: `grasp-cvae` or `grasp-diffusion`.
        data: folder made by `dexh2r grasps data`.
        out: the checkpoint. OUT.training holds the state from which the same call goes on; it is removed at the end.
        init: checkpoint to start from (pre-trained on other objects), of the same policy.
        config: sizes of the model, for a new one.

    Raises:
        FloatingPointError: a loss became NaN or infinite; the step and its objects are named, and the last good
            state is kept.
    """
    out = out.with_suffix(".safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    state_path, log_path = out.with_suffix(".training"), out.with_suffix(".jsonl")
    torch.manual_seed(options.seed)
    model = make_model(policy, config) if init is None else load_checkpoint(init, policy).requires_grad_(True).train()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_EMA))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    grasps = GraspSet(read_dataset(data), getattr(model.config, "num_points", 0))
    about: dict[str, Any] = {
        "policy": policy,
        "config": asdict(model.config),
        "options": asdict(options),
        "objects": grasps.names,
    }
    about["init"] = None if init is None else read_card(init)["sha256"]
    identity = json.dumps(about, sort_keys=True)
    first = 0
    if state_path.exists():
        state = load_training(state_path)
        if state["identity"] != identity:
            raise ValueError(f"{state_path} is of another training; give another OUT, or remove it to begin anew")
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    lines = log_path.read_text().splitlines() if first and log_path.exists() else []
    log_path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= first))

    began = time.monotonic()
    with log_path.open("a") as log, tqdm(total=options.steps, initial=first, unit="step", desc=out.stem) as bar:
        for step in range(first, options.steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(step, options)
            generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
            batch = grasps.batch(options.batch_size, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                losses = model.loss(batch, generator)
            total = torch.stack(list(losses.values())).sum()
            if not total.isfinite():
                names = sorted({grasps.names[i] for i in batch.scene.index.tolist()})
                kept = f"{state_path} holds the last good state" if state_path.exists() else "no state was kept yet"
                raise FloatingPointError(
                    f"the loss became {float(total.detach())} in step {step} (objects {', '.join(names)}); {kept}; "
                    "try a smaller learning rate"
                )
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            averaged.update_parameters(model)
            bar.update()
            if (step + 1) % _LOG_EVERY == 0:
                record = {name: round(float(value.detach()), 6) for name, value in losses.items()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in record.items()})
                log.write(json.dumps({"step": step + 1, **record}) + "\n")
                log.flush()
            if (step + 1) % _STATE_EVERY == 0:
                save_training(
                    state_path,
                    {
                        "identity": identity,
                        "step": step + 1,
                        "model": model.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    card = {
        "command": _command(policy, data, out, options, init),
        "objects": grasps.names,
        "grasps": grasps.num_grasps,
        "options": asdict(options),
        "init": None if init is None else init.name,
        "seconds": round(time.monotonic() - began) if first == 0 else None,
        "machine": f"{torch.get_num_threads()} CPU threads, {platform.machine()}, torch {torch.__version__}",
    }
    save_checkpoint(averaged.module, out, card)  # type: ignore[arg-type]
    state_path.unlink(missing_ok=True)
    return load_checkpoint(out)


def _command(policy: str, data: Path, out: Path, options: TrainOptions, init: Path | None) -> str:
    """The command that does the same; of paths only the names."""
    words: list[Any] = ["dexh2r train", policy, "--data", data.name, "--out", out.stem]
    words += ["--init", init.name] if init else []
    words += ["--steps", options.steps, "--batch-size", options.batch_size, "--learning-rate", options.learning_rate]
    words += ["--seed", options.seed, "--precision", options.precision, "--threads", torch.get_num_threads()]
    return " ".join(map(str, words))


def _schedule(step: int, options: TrainOptions) -> float:
    """Part of the learning rate: a linear start, then half a cosine to nothing."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    gone = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.5 * (1 + math.cos(math.pi * gone))
