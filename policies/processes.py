"""The processes that train one model together, as `torchrun` starts them; else there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

_PATIENCE = timedelta(days=1)  # so long others wait for one that makes clouds or pictures
_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # accelerate's names


def processes() -> PartialState:
    """This process among them, on its GPU if there is one, else on the CPU (CUDA, or gloo between CPUs)."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator that runs networks in a precision: float32, bfloat16, or on a GPU float16.

    Raises:
        ValueError: the device does not have the precision.
    """
    if precision == "float16" and processes().device.type == "cpu":
        raise ValueError("float16 needs a GPU; on a CPU train with --precision float32 or bfloat16")
    AcceleratorState._reset_state()  # a training before in this process may have had another precision
    return Accelerator(mixed_precision=_PRECISIONS[precision])


@contextmanager
def one_first() -> Iterator[None]:
    """What is within is done by one process, then by one on each machine, then by the rest: so what the first one
    writes, the others find."""
    state = processes()
    with state.main_process_first(), state.local_main_process_first():
        yield
