"""Splits by subject and object. A split is data: lists of names, from which the split of every trial follows.

DexH2R (section 3 of the paper) trains on pairs of a training subject with a training object and tests on what holds an
unseen subject, an unseen object, or both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import numpy as np

TEST_KINDS = ("unseen_object_unseen_subject", "unseen_object_seen_subject", "seen_object_unseen_subject")


@dataclass(frozen=True)
class SplitLists:
    """Which subjects and objects are kept for training, validation and test. No name may stand in two lists."""

    train_subjects: tuple[int, ...]
    validation_subjects: tuple[int, ...]
    test_subjects: tuple[int, ...]
    train_objects: tuple[str, ...]
    validation_objects: tuple[str, ...]
    test_objects: tuple[str, ...]

    def __post_init__(self) -> None:
        for what in ("subjects", "objects"):
            names = [name for part in ("train", "validation", "test") for name in getattr(self, f"{part}_{what}")]
            if twice := sorted({str(name) for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} listed more than once: {', '.join(twice)}")

    def split(self, subject: int, object_name: str) -> str:
        """Split of a trial: test if its subject or object is kept for test, else validation likewise, else train.

        So training sees no subject or object of the other two, and validation none of the test's.
        """
        self._check(subject, object_name)
        if subject in self.test_subjects or object_name in self.test_objects:
            return "test"
        if subject in self.validation_subjects or object_name in self.validation_objects:
            return "validation"
        return "train"

    def to_dict(self) -> dict[str, list]:
        """As plain lists, for a json file or the attributes of a store."""
        return {key: list(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, lists: dict[str, Sequence]) -> SplitLists:
        """Inverse of `to_dict`."""
        expected, given = set(cls.__dataclass_fields__), set(lists)
        if expected != given:
            raise ValueError(
                f"split lists need exactly the keys {', '.join(sorted(expected))};"
                f" missing: {', '.join(sorted(expected - given)) or 'none'};"
                f" unknown: {', '.join(sorted(given - expected)) or 'none'}"
            )
        return cls(**{key: tuple(value) for key, value in lists.items()})

    def _check(self, subject: int, object_name: str) -> None:
        subjects = self.train_subjects + self.validation_subjects + self.test_subjects
        objects = self.train_objects + self.validation_objects + self.test_objects
        if subject not in subjects:
            raise ValueError(f"subject {subject} is in no split; subjects: {', '.join(map(str, subjects))}")
        if object_name not in objects:
            raise ValueError(f"object {object_name!r} is in no split; objects: {', '.join(objects)}")


def draw_splits(
    subjects: Sequence[int],
    objects: Sequence[str],
    *,
    validation: tuple[int, int],
    test: tuple[int, int],
    seed: int,
) -> SplitLists:
    """Draw lists at random. `validation` and `test` are numbers of (subjects, objects); the rest trains."""
    rng = np.random.default_rng(seed)
    parts: dict[str, tuple] = {}
    for what, names, k in (("subjects", subjects, 0), ("objects", objects, 1)):
        if validation[k] < 0 or test[k] < 0 or validation[k] + test[k] >= len(names):
            raise ValueError(
                f"cannot keep {validation[k]} of {len(names)} {what} for validation and {test[k]} for test:"
                " at least one must be left for training"
            )
        order = [names[i] for i in rng.permutation(len(names))]
        cut = test[k], test[k] + validation[k]
        for part, chosen in (
            ("test", order[: cut[0]]),
            ("validation", order[cut[0] : cut[1]]),
            ("train", order[cut[1] :]),
        ):
            parts[f"{part}_{what}"] = tuple(sorted(chosen))
    return SplitLists(**parts)


def trial_kind(
    split: str, subject: int, object_name: str, train_subjects: Collection[int], train_objects: Collection[str]
) -> str:
    """Kind of a trial: its split, and for the test split one of `TEST_KINDS`.

    Seen means: occurs in the training split of the same store. A test trial of a seen subject with a seen object, which
    the paper does not have, is called "seen_object_seen_subject".
    """
    if split != "test":
        return split
    seen = ("unseen", "seen")
    return f"{seen[object_name in train_objects]}_object_{seen[subject in train_subjects]}_subject"
