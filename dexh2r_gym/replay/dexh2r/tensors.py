"""Files of `torch.save` that somebody else wrote: one tensor of the expected form, or an error that names the file.

Such a file is a zip with a small pickle and the numbers beside it, none of them compressed. A file whose parts claim
more bytes than it has is refused before anything is read, and the pickle may name nothing but a tensor. Numbers are
mapped from the file, not read into memory.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dexh2r_gym.replay.untrusted import Folder, fits, shape_text

MAX_ENTRIES = 32  # of the zip; one tensor takes about seven
MAX_PICKLE = 1 << 16  # bytes; that of one tensor takes about three hundred
MAX_FRAMES = 100_000
FLOATS = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Form:
    """What a tensor must be: (T, *row) of one of `dtypes`, finite, no number larger than `largest`."""

    row: tuple[int | None, ...]  # None: any length
    dtypes: tuple[torch.dtype, ...] = FLOATS
    largest: float | None = 100.0  # metres, radians; None: numbers are not looked at


def read_tensor(folder: Folder, key: str, form: Form) -> Tensor:
    """The tensor (T, *row) in a file, T at least 1, in the dtype it has there. Do not write into it.

    ReplayError names the file that is damaged, that holds anything but one tensor, or a tensor of another form.
    """
    path = folder.file(key)
    if wrong := _wrong_zip(path):
        raise folder.error(key, f"{wrong}; expected one tensor written by torch.save")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        reason = str(error).strip().splitlines() or [""]
        raise folder.error(key, f"refused by torch.load ({type(error).__name__}: {reason[0][:200]})") from error
    if not isinstance(value, Tensor):
        raise folder.error(key, f"holds {type(value).__name__}, expected one tensor")
    value = value.detach()
    if wrong := _wrong_tensor(value, form):
        raise folder.error(key, wrong)
    if form.largest is not None:
        fine = value.abs() <= form.largest  # false for NaN
        if not fine.all():
            index = tuple(int(i) for i in (~fine).nonzero()[0])
            problem = "is not finite" if not value[index].isfinite() else f"is beyond {form.largest:g}"
            raise folder.error(key, f"frame {index[0]}, index {index[1:]}: {float(value[index])} {problem}")
    return value


def _wrong_zip(path: Path) -> str | None:
    """What is wrong with a file as an uncompressed zip whose parts fit into it, or None."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        return f"not a whole zip file ({error})"
    if not 0 < len(entries) <= MAX_ENTRIES:
        return f"{len(entries)} parts, 1 to {MAX_ENTRIES} are allowed"
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            return f"part {entry.filename!r} is compressed or encrypted"
        if entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > size:
            return f"part {entry.filename!r} claims {entry.file_size} bytes, the file has {size}"
        if entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE:
            return f"part {entry.filename!r} has {entry.file_size} bytes, at most {MAX_PICKLE} are allowed"
    if (total := sum(entry.file_size for entry in entries)) > size:
        return f"its parts claim {total} bytes, the file has {size}"
    return None


def _wrong_tensor(value: Tensor, form: Form) -> str | None:
    """What is wrong with a tensor but for its numbers, or None."""
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return f"holds a tensor of layout {value.layout} on {value.device}, expected a plain one"
    if value.dtype not in form.dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in form.dtypes)
        return f"expected {allowed}, found {str(value.dtype).removeprefix('torch.')}"
    shape = tuple(value.shape)
    if not fits(shape, wanted := (None, *form.row)):
        return f"expected shape {shape_text(wanted, first='T')}, found {shape}"
    if not 1 <= len(value) <= MAX_FRAMES or 0 in shape:
        return f"shape {shape}: expected 1 to {MAX_FRAMES} frames"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"shape {shape} claims more numbers than the file has"
    return None
