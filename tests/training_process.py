"""One of the processes of `test_training`: `python -m tests.training_process OUT POISONED` trains a small flow.

In step POISONED the second process has a loss that is no number; -1 for none. Where it stops it says why in a file
beside OUT, and so does whoever writes a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policies import train as training
from policies.checkpoint import save_checkpoint
from policies.flow import Flow, FlowConfig
from policies.processes import processes
from policies.train import TrainOptions, fit

OPTIONS = TrainOptions(steps=8, batch_size=8, learning_rate=3e-3, warmup=1, seed=5)
STATE_EVERY, EMA = 2, 0.5
SETTINGS = FlowConfig(num_points=8, point_widths=(8, 16), width=32, blocks=1)


class Toy:
    """Hands that go on as they came, beside clouds and goals that mean nothing; see `policies.train.TrainData`."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return 0.3 * torch.randn(64, *shape, generator=generator)

        start, pace = drawn(1, 28), 0.1 * drawn(1, 28)
        past, ahead = torch.arange(-2, 1)[:, None], torch.arange(1, 7)[:, None]
        self.table = {
            "agent_pos": start + past * pace,
            "future": start + ahead * pace,
            "goal_pos": drawn(3, 28),
            "giver_joints": drawn(3, 48),
            "point_cloud": drawn(3, 8, 3),
        }
        self.about: dict[str, Any] = {"toy": 1}

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(64, (size,), generator=generator)
        return {name: values[rows] for name, values in self.table.items()}

    def describe(self, batch: dict[str, Tensor]) -> str:
        return f"{len(batch['future'])} rows"


class ToyFlow(Flow):
    """A flow with a loss that is no number in one step of one process."""

    poisoned = -1

    def loss(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        losses = super().loss(batch, generator)
        now = generator.initial_seed() == training.draw_seed(OPTIONS.seed, self.poisoned, rank=1)
        return {name: value * (torch.nan if now else 1.0) for name, value in losses.items()}


def make_toy(poisoned: int = -1) -> tuple[ToyFlow, Toy]:
    """The model before training, and its data."""
    torch.manual_seed(OPTIONS.seed)
    model, data = ToyFlow(SETTINGS), Toy()
    model.poisoned = poisoned
    model.fit(data.table)
    return model, data


def main() -> None:
    out, poisoned = Path(sys.argv[1]), int(sys.argv[2])
    rank = processes().process_index

    def save(*arguments: Any) -> None:
        (out.parent / f"saved-by-{rank}").touch()
        save_checkpoint(*arguments)

    training.save_checkpoint, training._STATE_EVERY, training._EMA, training._LOG_EVERY = save, STATE_EVERY, EMA, 1
    try:
        fit(*make_toy(poisoned), out, OPTIONS, about={"policy": "flow"}, command="")
    except FloatingPointError as error:
        (out.parent / f"stopped-{rank}").write_text(str(error))
    processes().destroy_process_group()


if __name__ == "__main__":
    main()
