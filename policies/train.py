"""Training of everything that learns here: one loop, top to bottom.

It runs on a CPU, on a GPU, or on several of either, where `torchrun` starts a process for each: every process draws its
part of a batch, and gradients are averaged. Each step draws batch and noise from the seed, the
step's number and the process's, so a training that was stopped and goes on from its last state gives the same weights,
bit for bit on CPUs with the same number of threads and processes.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from policies.checkpoint import load_training, save_checkpoint, save_training
from policies.processes import make_accelerator
from policies.train_log import TrainLog, check_trackers

_FORMAT = 2  # of OUT.training
_STATE_EVERY = 200  # steps
_LOG_EVERY = 50  # steps
_EMA = 0.998
_CHECK_STEPS, _CHECK_BATCH, _CHECK_FALL = 100, 16, 0.7  # one batch must be learned so far in so many steps


class TrainData(Protocol):
    """What batches are drawn from."""

    about: Mapping[str, Any]  # what tells this data from other data, for the card; what json can hold

    def batch(self, size: int, generator: torch.Generator) -> Any:
        """A random batch on the CPU: a tensor, a dict of them, or what has `to(device)`."""

    def describe(self, batch: Any) -> str:
        """What is in it, for errors."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Raises:
        MissingExtraError: a tracker is not installed.
    """

    steps: int = 6000
    batch_size: int = 256  # of all processes together
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 200  # steps
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the networks' products; float16 on GPUs only
    trackers: tuple[str, ...] = ()  # `tensorboard`, `wandb`: they get losses as well as OUT.jsonl

    def __post_init__(self) -> None:
        check_trackers(self.trackers)

    def about(self) -> dict[str, Any]:
        """What decides about the weights, for the card."""
        return {name: value for name, value in asdict(self).items() if name != "trackers"}


DEFAULTS = TrainOptions()


class _Losses(nn.Module):
    """A model whose `forward` gives its losses: what is wrapped to average gradients and choose precision."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.loss(batch, generator)


def fit(
    model: Any, data: TrainData, out: Path, options: TrainOptions, *, about: Mapping[str, Any], command: str
) -> None:
    """Train a model and write its averaged weights to OUT (.safetensors, .json), with its log (.jsonl).

    Weights are averaged by diffusers' EMAModel; buffers (statistics of batches) are the last ones. Only the main
    process writes; all go on when the checkpoint is there, on a model that has its weights.

    Args:
        model: has `loss(batch, generator)`, a dict of losses whose sum is trained. The generator is the CPU's,
            wherever the batch is.
        out: the checkpoint. OUT.training holds the state from which the same call goes on; it is removed at the end.
            All machines must see its folder.
        about: what is trained, for the card; a state of something else is refused.
        command: that does the same, for the card.

    Raises:
        FloatingPointError: a loss became NaN or infinite; the step and its batch are named, and the last good state is
            kept. All processes stop.
        RuntimeError: the model cannot even learn one batch by heart, so something is wrong with it or with the data.
        ValueError: OUT.training is of another training; a batch cannot be split over the processes; the device does
            not have the precision.
    """
    accelerator = make_accelerator(options.precision)
    count, rank = accelerator.num_processes, accelerator.process_index
    if options.batch_size % count:
        raise ValueError(f"a batch of {options.batch_size} cannot be split evenly over {count} processes")
    out.parent.mkdir(parents=True, exist_ok=True)
    state_path = out.with_suffix(".training")
    identity = json.dumps({**about, "options": options.about(), **data.about, "format": _FORMAT}, sort_keys=True)
    first, state = 0, None
    if state_path.exists():
        state = load_training(state_path)
        if state["identity"] != identity:
            raise ValueError(f"{state_path} is of another training; give another OUT, or remove it to begin anew")
        model.load_state_dict(state["model"])
        first = state["step"]
    model.to(accelerator.device)
    _check_that_all_begin_with(first, accelerator, state_path)
    if state is None:
        check_that_it_learns(model, data, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    losses_of, optimizer = accelerator.prepare(_Losses(model), optimizer)
    averaged = EMAModel(_tensors(model), decay=_EMA, min_decay=_EMA, foreach=True)  # from the first step on
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        averaged.load_state_dict(state["averaged"])
        averaged.to(accelerator.device)
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        state = None  # it takes the memory of four models
    main = accelerator.is_main_process
    began = time.monotonic()
    with TrainLog(out, first=first, steps=options.steps, trackers=options.trackers) if main else nullcontext() as log:
        for step in range(first, options.steps):
            rate = options.learning_rate * _schedule(step, options)
            for group in optimizer.param_groups:
                group["lr"] = rate
            seed = draw_seed(options.seed, step, rank)
            generator = torch.Generator().manual_seed(seed)
            torch.manual_seed(seed)  # of whatever in a model does not take the generator
            batch = data.batch(options.batch_size // count, generator)
            losses = losses_of(send_to_device(batch, accelerator.device), generator)
            total = torch.stack(list(losses.values())).sum()
            means = accelerator.reduce(torch.stack(list(losses.values())).detach(), "mean")
            if not means.isfinite().all():
                bad = "in another process" if total.isfinite() else data.describe(batch)
                kept = f"{state_path} holds the last good state" if state_path.exists() else "no state was kept yet"
                raise FloatingPointError(
                    f"the loss became {float(means.sum())} in step {step} ({bad}); {kept}; try a smaller learning rate"
                )
            optimizer.zero_grad()
            accelerator.backward(total)
            accelerator.clip_grad_norm_(losses_of.parameters(), 1.0)
            optimizer.step()
            averaged.step(_tensors(model))
            if log is None:
                continue
            log.advance()
            if (step + 1) % _LOG_EVERY == 0:
                log.write(step + 1, dict(zip(losses, means.tolist(), strict=True)), rate)
            if (step + 1) % _STATE_EVERY == 0:
                save_training(
                    state_path,
                    {
                        "identity": identity,
                        "step": step + 1,
                        "model": model.state_dict(),
                        "averaged": averaged.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
                    },
                )
    averaged.copy_to(_tensors(model))
    if main:
        card = {
            "command": command,
            **data.about,
            "options": options.about(),
            **{key: value for key, value in about.items() if key not in ("policy", "config")},
            "seconds": round(time.monotonic() - began) if first == 0 else None,
            "machine": _machine(accelerator),
        }
        save_checkpoint(model, out, card)
        state_path.unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def check_that_it_learns(model: Any, data: TrainData, options: TrainOptions) -> None:
    """A copy of the model learns one small batch in float32, the same one in all processes; RuntimeError if it cannot.

    The model keeps its weights; the copy is on its device.
    """
    generator = torch.Generator().manual_seed(options.seed)
    trial, batch = copy.deepcopy(model), data.batch(_CHECK_BATCH, generator)
    seen = send_to_device(batch, next(model.parameters()).device)
    optimizer = torch.optim.AdamW(trial.parameters(), lr=options.learning_rate)
    history = []
    for _ in range(_CHECK_STEPS):
        total = torch.stack(list(trial.loss(seen, generator).values())).sum()
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


def draw_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what a process draws in a step: of a million steps and any number of processes, all differ."""
    return seed * 1_000_003 + step + (rank << 40)


def _check_that_all_begin_with(first: int, accelerator: Accelerator, state_path: Path) -> None:
    steps = accelerator.gather(torch.tensor([first], device=accelerator.device))
    if (steps != first).any():
        raise ValueError(f"not all processes see {state_path}; put OUT into a folder that all machines share")


def _tensors(model: nn.Module) -> list[Any]:
    """What is averaged: parameters; and buffers, which EMAModel copies, for they have no gradients."""
    return [*model.parameters(), *model.buffers()]


def _machine(accelerator: Accelerator) -> str:
    threads = f"{torch.get_num_threads()} CPU threads"
    gpu = accelerator.device.type == "cuda"
    each = torch.cuda.get_device_name() if gpu else threads
    several = f"{accelerator.num_processes} processes of " if accelerator.num_processes > 1 else ""
    return f"{several}{each}, {platform.machine()}, torch {torch.__version__}"


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
