"""Training of everything that learns here: one loop, top to bottom.

Every step draws its batch and noise from the seed and the step's number, so a training that was stopped and goes on
from its last state gives the same weights, bit for bit, on the same number of CPU threads.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from policies.checkpoint import load_training, save_checkpoint, save_training

_STATE_EVERY = 200  # steps
_LOG_EVERY = 50  # steps
_EMA = 0.998
_CHECK_STEPS, _CHECK_BATCH, _CHECK_FALL = 100, 16, 0.7  # one batch must be learned so far in so many steps


class TrainData(Protocol):
    """What batches are drawn from."""

    about: Mapping[str, Any]  # what tells this data from other data, for the card; what json can hold

    def batch(self, size: int, generator: torch.Generator) -> Any:
        """A random batch."""

    def describe(self, batch: Any) -> str:
        """What is in it, for errors."""


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


DEFAULTS = TrainOptions()


def fit(
    model: Any, data: TrainData, out: Path, options: TrainOptions, *, about: Mapping[str, Any], command: str
) -> None:
    """Train a model and write its averaged weights to OUT (.safetensors, .json), with its log (.jsonl).

    Args:
        model: has `loss(batch, generator)`, a dict of losses whose sum is trained.
        out: the checkpoint. OUT.training holds the state from which the same call goes on; it is removed at the end.
        about: what is trained, for the card; a state of something else is refused.
        command: that does the same, for the card.

    Raises:
        FloatingPointError: a loss became NaN or infinite; the step and its batch are named, and the last good state is
            kept.
        RuntimeError: the model cannot even learn one batch by heart, so something is wrong with it or with the data.
        ValueError: OUT.training is of another training.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    state_path, log_path = out.with_suffix(".training"), out.with_suffix(".jsonl")
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_EMA), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    identity = json.dumps({**about, "options": asdict(options), **data.about}, sort_keys=True)
    first = 0
    if state_path.exists():
        state = load_training(state_path)
        if state["identity"] != identity:
            raise ValueError(f"{state_path} is of another training; give another OUT, or remove it to begin anew")
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    else:
        check_that_it_learns(model, data, options)
    lines = log_path.read_text().splitlines() if first and log_path.exists() else []
    log_path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= first))

    began = time.monotonic()
    with log_path.open("a") as log, tqdm(total=options.steps, initial=first, unit="step", desc=out.stem) as bar:
        for step in range(first, options.steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(step, options)
            generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
            torch.manual_seed(options.seed * 1_000_003 + step)  # of whatever in a model does not take the generator
            batch = data.batch(options.batch_size, generator)
            losses = _losses(model, batch, generator, options)
            total = torch.stack(list(losses.values())).sum()
            if not total.isfinite():
                kept = f"{state_path} holds the last good state" if state_path.exists() else "no state was kept yet"
                raise FloatingPointError(
                    f"the loss became {float(total.detach())} in step {step} ({data.describe(batch)}); {kept}; "
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
        "command": command,
        **data.about,
        "options": asdict(options),
        **{key: value for key, value in about.items() if key not in ("policy", "config")},
        "seconds": round(time.monotonic() - began) if first == 0 else None,
        "machine": f"{torch.get_num_threads()} CPU threads, {platform.machine()}, torch {torch.__version__}",
    }
    save_checkpoint(averaged.module, out, card)
    state_path.unlink(missing_ok=True)


def check_that_it_learns(model: Any, data: TrainData, options: TrainOptions) -> None:
    """A copy of the model learns one small batch; RuntimeError if it cannot."""
    generator = torch.Generator().manual_seed(options.seed)
    trial, batch = copy.deepcopy(model), data.batch(_CHECK_BATCH, generator)
    optimizer = torch.optim.AdamW(trial.parameters(), lr=options.learning_rate)
    history = []
    for _ in range(_CHECK_STEPS):
        total = torch.stack(list(_losses(trial, batch, generator, options).values())).sum()
        if not total.isfinite():
            raise FloatingPointError(f"the loss of the first batch is {float(total.detach())} ({data.describe(batch)})")
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(trial.parameters(), 1.0)
        optimizer.step()
        history.append(float(total.detach()))
    begin, end = sum(history[:10]) / 10, sum(history[-10:]) / 10
    if not end < _CHECK_FALL * begin:
        raise RuntimeError(
            f"one batch cannot be learned by heart: the loss went from {begin:.4g} to {end:.4g} in {_CHECK_STEPS} "
            f"steps ({data.describe(batch)}); look at the data, or change the learning rate"
        )


def _losses(model: Any, batch: Any, generator: torch.Generator, options: TrainOptions) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
        return model.loss(batch, generator)


def _schedule(step: int, options: TrainOptions) -> float:
    """Part of the learning rate: a linear start, then half a cosine to nothing."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    gone = (step - options.warmup) / max(1, options.steps - options.warmup)
    return 0.5 * (1 + math.cos(math.pi * gone))


def option_words(options: TrainOptions) -> list[Any]:
    """Options as a command says them."""
    words = ["--steps", options.steps, "--batch-size", options.batch_size, "--learning-rate", options.learning_rate]
    return [*words, "--seed", options.seed, "--precision", options.precision, "--threads", torch.get_num_threads()]
