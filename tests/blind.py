"""What a step on a device must not do, and ways to see that it does not, without such a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.replay import Replay, ReplayStore

HOST_ONLY = (ReplayStore, Replay, ObjectModel, GiverHand)
# operators whose result, or the size of whose result, the host must read
READING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "masked_scatter", "unique_dim", "_unique2", "unique_consecutive", "bincount", "histc",
    "repeat_interleave.Tensor",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
METHODS = ("numpy", "tolist", "item", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")


class NothingIsRead(TorchDispatchMode):
    """Fails for operators that read from the device, that index by masks, or that bring tensors to another device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, name = func.overloadpacket.__name__, str(func).removeprefix("aten.").removesuffix(".default")
        if packet in READING or name in READING:
            raise AssertionError(f"{func} reads from the device")
        if packet in INDEXING:
            by = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in by):
                raise AssertionError(f"{func} by a mask")
        out = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{func} of tensors on {sorted(devices)}")
        return out


@contextlib.contextmanager
def nothing_is_read() -> Iterator[None]:
    """Within, no tensor may be read by the host in any way that is known to this file."""
    with pytest.MonkeyPatch.context() as patch, NothingIsRead():
        for name in METHODS:
            patch.setattr(Tensor, name, _forbidden(name))
        for name in ("tensor", "from_numpy", "as_tensor"):
            patch.setattr(torch, name, _only_tensors(name, getattr(torch, name)))
        patch.setattr(Tensor, "new_tensor", _forbidden("new_tensor"))
        yield


def _forbidden(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"Tensor.{name} moves data between host and device")

    return refuse


def _only_tensors(name: str, made: Any) -> Any:
    def make(data: Any, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(data, Tensor), f"torch.{name} of {type(data).__name__} moves data to the device"
        return made(data, *args, **kwargs)

    return make


def without_values(thing: Any, seen: dict[int, Any]) -> Any:
    """Brings all tensors within an object to torch's device `meta`, where they have shapes and dtypes but no values.

    As on a GPU tensors of the CPU cannot be mixed with them; and nothing at all can be read, or follow from a value.
    """
    if isinstance(thing, Tensor):
        return seen.setdefault(id(thing), (thing, thing.to("meta")))[1]
    if isinstance(thing, torch.device):
        return torch.device("meta")
    if type(thing) in (list, tuple):
        return type(thing)(without_values(x, seen) for x in thing)
    if type(thing) is dict:
        return {key: without_values(x, seen) for key, x in thing.items()}
    of_the_world = type(thing).__module__.startswith("dexh2r_gym") and hasattr(thing, "__dict__")
    if of_the_world and not isinstance(thing, HOST_ONLY) and id(thing) not in seen:
        seen[id(thing)] = thing
        for name, value in vars(thing).items():
            object.__setattr__(thing, name, without_values(value, seen))
    return thing
