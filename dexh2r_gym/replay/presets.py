"""How much to generate, and the plan that follows from it: who gives what how often, in which split.

The exact number of trials of each split is spread over its pairs of a subject and an object: the three kinds of test
trial get theirs in proportion to their pairs (largest remainder), and within a kind every pair gets as many as every
other, give or take one; who gets one more goes round subjects and objects alike. What a pair cannot give is handed to
the pairs of its kind that have the fewest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dexh2r_gym.objects import object_names
from dexh2r_gym.replay.replay import SPLITS
from dexh2r_gym.replay.splits import SplitLists, draw_splits, trial_kind
from dexh2r_gym.replay.subjects import Subject, draw_subjects

Pair = tuple[int, str]  # subject, object


@dataclass(frozen=True)
class Preset:
    """How much to generate."""

    trials: tuple[int, int, int]  # of train, validation and test
    num_subjects: int
    validation: tuple[int, int]  # numbers of subjects and objects kept for validation
    test: tuple[int, int]  # the same for test
    objects: tuple[str, ...] = ()  # none: the whole library


_UNSEEN = (  # validation and test objects of mini with seed 0
    "beer_bottle",
    "book",
    "crisps_tube",
    "dumbbell",
    "shampoo_bottle",
    "table_tennis_bat",
    "thermos",
)
PRESETS = {
    "train": Preset(
        trials=(1536, 0, 0),
        num_subjects=24,
        validation=(0, 0),
        test=(0, 0),
        objects=tuple(name for name in sorted(object_names()) if name not in _UNSEEN),
    ),
    "paper": Preset(trials=(2888, 591, 803), num_subjects=39, validation=(3, 4), test=(4, 6)),
    "mini": Preset(
        trials=(156, 36, 48),
        num_subjects=12,
        validation=(2, 3),
        test=(2, 4),
        objects=(
            "aerosol_can",
            "banana",
            "beer_bottle",
            "book",
            "crisps_tube",
            "dumbbell",
            "flashlight",
            "hair_dryer",
            "hammer",
            "kitchen_knife",
            "lint_roller",
            "mallet",
            "milk_carton",
            "power_drill",
            "rolling_pin",
            "shampoo_bottle",
            "spray_bottle",
            "table_tennis_bat",
            "thermos",
            "toothpaste_box",
            "tv_remote",
            "water_bottle",
            "wine_bottle",
            "wooden_spoon",
        ),
    ),
}


def find_preset(preset: str | Preset) -> Preset:
    """A preset by name, or the preset itself.

    Raises:
        ValueError: no preset of that name; the message lists them.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[preset]


@dataclass
class Plan:
    """Which trials are to be made. `count` changes as pairs turn out to give fewer than they should."""

    subjects: list[Subject]
    objects: list[str]
    splits: SplitLists
    kinds: dict[str, list[Pair]]  # pairs of each kind, in the order in which they get one more
    count: dict[Pair, int]  # trials of each pair
    exhausted: set[Pair] = field(default_factory=set)

    def hand_over(self, found: Mapping[Pair, int]) -> None:
        """Take from the pairs that were found to give fewer trials than they should, and give to others of the kind.

        Raises:
            RuntimeError: no pair of a kind is left.
        """
        for kind, pairs in self.kinds.items():
            missing = 0
            for pair in pairs:
                if found.get(pair, 0) < self.count[pair]:
                    missing += self.count[pair] - found.get(pair, 0)
                    self.count[pair] = found.get(pair, 0)
                    self.exhausted.add(pair)
            left = [pair for pair in pairs if pair not in self.exhausted]
            if missing and not left:
                raise RuntimeError(f"no pair of subject and object gives more trials of kind {kind}; {missing} missing")
            for _ in range(missing):
                self.count[min(left, key=lambda pair: self.count[pair])] += 1


def make_plan(preset: Preset, seed: int) -> Plan:
    """Who gives what how often, by a preset and a seed."""
    objects = sorted(preset.objects or object_names())
    splits = draw_splits(range(preset.num_subjects), objects, validation=preset.validation, test=preset.test, seed=seed)
    kinds: dict[str, list[Pair]] = {}
    for turn in range(preset.num_subjects):  # every object once a turn, with another subject each
        for rank, name in enumerate(objects):
            subject = (rank + turn) % preset.num_subjects
            split = splits.split(subject, name)
            kind = trial_kind(split, subject, name, splits.train_subjects, splits.train_objects)
            kinds.setdefault(kind, []).append((subject, name))
    count: dict[Pair, int] = {}
    for split, total in zip(SPLITS, preset.trials, strict=True):
        names = [kind for kind, pairs in kinds.items() if splits.split(*pairs[0]) == split]
        if total and not names:
            raise ValueError(f"the preset wants {total} {split} trials, but keeps no subject or object for them")
        for kind, share in zip(names, apportion(total, [len(kinds[kind]) for kind in names]), strict=True):
            pairs = kinds[kind]
            count |= {pair: share // len(pairs) + (i < share % len(pairs)) for i, pair in enumerate(pairs)}
    return Plan(draw_subjects(preset.num_subjects, seed), objects, splits, kinds, count)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to weights that add up to the total, by largest remainder; ties to the first."""
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    most = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in most[: total - sum(shares)]:
        shares[i] += 1
    return shares
