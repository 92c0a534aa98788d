"""What an import did, to be printed and to be kept in the store's provenance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dexh2r_gym.replay.dexh2r.layout import Remark

SHOWN = 3  # examples of each kind in the printed summary


@dataclass(frozen=True)
class ImportSummary:
    """Counts, what was skipped and why, and what was odd about the trials that were taken. `str` of it is for people.

    `renamed` has the folders whose name is not the plain number of the subject or trial they became.
    """

    path: Path
    trials: int
    frames: int
    objects: int
    subjects: int
    skipped: tuple[Remark, ...] = ()
    remarks: tuple[Remark, ...] = ()
    renamed: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        parts = (
            f"{self.trials} trials, {self.frames} frames",
            f"{self.objects} objects",
            f"{self.subjects} subjects",
        )
        lines = [f"{self.path}: {', '.join(parts)}; {len(self.skipped)} trials skipped"]
        lines += [f"  skipped: {line}" for line in _grouped(self.skipped)]
        lines += [f"  {line}" for line in _grouped(self.remarks)]
        if self.renamed:
            lines.append(f"  folders numbered anew: {', '.join(f'{name} is {n}' for name, n in self.renamed)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What a store's provenance keeps of it, as plain lists."""
        listed = {key: [[r.what, r.kind, r.detail] for r in getattr(self, key)] for key in ("skipped", "remarks")}
        return listed | {"renamed": dict(self.renamed)}


def _grouped(remarks: Iterable[Remark]) -> list[str]:
    """One line for every kind, the most frequent first, with a few examples."""
    kinds: dict[str, list[Remark]] = defaultdict(list)
    for remark in remarks:
        kinds[remark.kind].append(remark)
    lines = []
    for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        examples = [r.what + (f": {r.detail}" if r.detail else "") for r in found[:SHOWN]]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        lines.append(f"{kind} ({'; '.join(examples)}{more})")
    return lines
