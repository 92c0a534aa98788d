"""Which trials there are in a DexH2R dataset on disk, which of them can be used, and their numbers and splits.

DexH2R_dataset/<subject>/<object>/<index>/   the files of one trial
object_model/<object>.obj, .urdf
dataset_split.json                           names of subjects and objects for training, validation and test
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dexh2r_gym.replay.splits import SplitLists
from dexh2r_gym.replay.untrusted import Folder

TRIALS, MODELS, SPLIT_FILE = "DexH2R_dataset", "object_model", "dataset_split.json"
MANO_FILES = {"right": "right_mano.pt", "left": "left_mano.pt"}
CLOUD_FILE, GOAL_FILE = "real_obj_pcd_xyz.pt", "model_final_qpose_cvae.pt"
CAMERAS = 4  # Kinects, whose images are read
SENSOR_FILES = {
    "cloud": (CLOUD_FILE,),
    "depth": tuple(f"kinect_{i}_depth.pt" for i in range(CAMERAS)),
    "image": tuple(f"kinect_{i}_rgb.pt" for i in range(CAMERAS)),
}
_SPLIT_KEYS = {
    "train_subjects": "train_sub_names",
    "validation_subjects": "val_sub_names",
    "test_subjects": "test_sub_names",
    "train_objects": "train_obj",
    "validation_objects": "val_obj",
    "test_objects": "test_obj",
}


@dataclass(frozen=True)
class TrialFiles:
    """One trial on disk."""

    name: str  # "3/mug/0", its folder below DexH2R_dataset
    subject: int
    object: str
    number: int  # among the trials of this subject with this object
    side: str
    split: str
    files: frozenset[str]  # what its folder holds

    def key(self, file: str) -> str:
        """Path of one of its files, below the dataset's folder."""
        return f"{TRIALS}/{self.name}/{file}"

    @property
    def sensor_folder(self) -> str:
        """Prefix of the names of the cameras' tensors, which are in the trial's folder or in `kinect` in it."""
        return "" if SENSOR_FILES["depth"][0] in self.files or SENSOR_FILES["image"][0] in self.files else "kinect/"


@dataclass(frozen=True)
class Remark:
    """Something to know about a trial or object: why it was skipped, or what was found in it."""

    what: str  # name of the trial or object
    kind: str  # the same words for the same thing
    detail: str = ""


@dataclass(frozen=True)
class Layout:
    """What was found on disk."""

    trials: tuple[TrialFiles, ...]  # those that can be used, in order
    skipped: tuple[Remark, ...]
    splits: SplitLists
    subjects: dict[str, int]  # folders whose name is not the plain number, with their numbers
    numbers: dict[str, int]  # the same of trials


def number_names(names: Iterable[str]) -> dict[str, int]:
    """A number for every name: its own if it is one ("7", "07"), else the next after the largest, in order of names.

    Where two names are the same number, the plainest has it.
    """
    order = sorted(set(names), key=lambda name: (len(name), name))
    numbers: dict[str, int] = {}
    for name in order:
        if name.isascii() and name.isdecimal() and len(name) <= 6 and int(name) not in numbers.values():
            numbers[name] = int(name)
    following = max(numbers.values(), default=-1) + 1
    odd = sorted(name for name in order if name not in numbers)
    return numbers | {name: following + i for i, name in enumerate(odd)}


def find_trials(folder: Folder, sensors: Sequence[str]) -> Layout:
    """Look through a dataset's folder. Trials that lack a file, a model or a split are listed as skipped.

    ReplayError if the folder is not such a dataset, if the split file is missing or wrong, or if a link leads out.
    """
    _check_root(folder)
    lists = _split_lists(folder)
    names = folder.folders(TRIALS)
    listed = {name for key in ("train", "validation", "test") for name in lists[f"{key}_subjects"]}
    numbers = number_names(({_plain(name) for name in listed} - {_plain(name) for name in names}) | set(names))
    subject_of = {name: numbers[name] for name in names}
    splits = _splits(folder, lists, numbers)
    models = {name.rpartition(".")[0] for name in folder.names(MODELS) if name.endswith((".obj", ".urdf"))}
    trials: list[TrialFiles] = []
    skipped: list[Remark] = []
    renumbered: dict[str, int] = {}
    for subject in names:
        for object_name in folder.folders(f"{TRIALS}/{subject}"):
            indices = folder.folders(f"{TRIALS}/{subject}/{object_name}")
            for index, number in number_names(indices).items():
                name = f"{subject}/{object_name}/{index}"
                files = frozenset(folder.names(f"{TRIALS}/{name}"))
                trial = TrialFiles(name, subject_of[subject], object_name, number, "", "", files)
                kinect = folder.names(trial.key("kinect")) if "kinect" in files else ()
                try:
                    split = splits.split(trial.subject, object_name)
                except ValueError as error:
                    skipped.append(Remark(name, f"in no list of {SPLIT_FILE}", str(error).split(";")[0]))
                    continue
                if missing := _missing(trial, sensors, models, kinect):
                    skipped.append(Remark(name, missing))
                    continue
                side = next(side for side, file in MANO_FILES.items() if file in files)
                trials.append(TrialFiles(name, trial.subject, object_name, number, side, split, files))
                if index != str(number):
                    renumbered[name] = number
    trials.sort(key=lambda trial: (trial.subject, trial.object, trial.number))
    odd = {name: number for name, number in subject_of.items() if name != str(number)}
    return Layout(tuple(trials), tuple(skipped), splits, odd, renumbered)


def _missing(trial: TrialFiles, sensors: Sequence[str], models: Collection[str], kinect: Collection[str]) -> str:
    """Why a trial cannot be used, or ""."""
    if trial.object not in models:
        return f"no {MODELS}/{trial.object}.obj"
    wanted = ["qpos.pt", "obj_pose.pt"]
    for sensor in sensors:
        prefix = "" if sensor == "cloud" else trial.sensor_folder
        wanted += [prefix + file for file in SENSOR_FILES[sensor]]
    there = trial.files | {f"kinect/{name}" for name in kinect}
    missing = [file for file in wanted if file not in there]
    hands = [file for file in MANO_FILES.values() if file in trial.files]
    if not hands:
        missing.append(" or ".join(MANO_FILES.values()))
    if missing:
        return f"missing {', '.join(missing)}"
    return "both right_mano.pt and left_mano.pt: whose hand holds the object is not known" if len(hands) > 1 else ""


def _check_root(folder: Folder) -> None:
    for name in (TRIALS, MODELS, SPLIT_FILE):
        if folder.has(name):
            continue
        below = folder.root / "dataset"
        hint = f"; did you mean {below}?" if (below / TRIALS).is_dir() else ""
        if name != TRIALS:
            hint = "; it is in the dataset's obj_and_data_split.zip, unpack that here"
        raise folder.error(name, f"missing: a DexH2R dataset holds {TRIALS}/, {MODELS}/ and {SPLIT_FILE}{hint}")


def _plain(name: Any) -> str:
    """A name of the split file as a folder may be called: numbers may stand there as numbers or as text."""
    return str(int(name)) if str(name).isascii() and str(name).isdecimal() else str(name)


def _split_lists(folder: Folder) -> dict[str, list]:
    data = folder.json(SPLIT_FILE)
    lists = {}
    for key, name in _SPLIT_KEYS.items():
        value = data.get(name)
        if not isinstance(value, list) or not all(isinstance(x, str | int) and not isinstance(x, bool) for x in value):
            found = "it is missing" if name not in data else f"found {str(value)[:80]}"
            raise folder.error(SPLIT_FILE, f"key {name!r} must be a list of names, {found}")
        lists[key] = value
    return lists


def _splits(folder: Folder, lists: dict[str, list], numbers: dict[str, int]) -> SplitLists:
    """The lists with subjects as their numbers. Folder "07" is the subject 7 of the lists."""
    by_plain = {_plain(name): number for name, number in reversed(numbers.items())}
    named: dict[str, Any] = {
        key: tuple(by_plain[_plain(name)] for name in value) if key.endswith("subjects") else tuple(map(str, value))
        for key, value in lists.items()
    }
    try:
        return SplitLists(**named)
    except ValueError as error:
        raise folder.error(SPLIT_FILE, str(error)) from error
