"""What a viewer can choose from: the trials of a store of replays, or the recorded episodes of a run."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from dexh2r_gym.replay import ReplayError, ReplayStore, UnknownReplayError, shipped_stores
from dexh2r_gym.run_folder import RunFolder
from dexh2r_gym.show.timeline import Timeline, status_words

ALL = "all"
_UNREADABLE = "cannot be read"


class Source(Protocol):
    """Timelines by the id of their replay, sorted into groups for two menus: of groups, and of labels in one."""

    title: str  # markdown
    group_name: str  # what the groups are
    groups: dict[str, tuple[str, ...]]  # labels by group; an id is in one or more of them
    ids: dict[str, str]  # by label

    def open(self, id: str) -> Timeline:
        """Read a timeline. ValueError or OSError, which names what is wrong, where it cannot be had."""


class ReplaySource:
    """The trials of a store, by object."""

    group_name = "object"

    def __init__(self, store: ReplayStore):
        self.store = store
        self.title = f"replays `{store.path.name}`"
        objects = sorted({info.object for info in store.infos})
        self.groups = {name: tuple(info.id for info in store.infos if info.object == name) for name in objects}
        self.ids = {id: id for id in store.ids()}

    def open(self, id: str) -> Timeline:
        return Timeline.of(self.store.replay(id))


class RunSource:
    """The recorded episodes of a run, those that failed first, with how they ended beside their ids."""

    group_name = "ended"

    def __init__(self, folder: RunFolder, replays: str | None = None):
        """replays: name or path of the store that the run was made with, where it is no longer what the config says.

        Raises:
            FileNotFoundError: no run folder, or one without episodes.
            ValueError: a config.json that no evaluation wrote, or replays that are not there.
        """
        config = _setting(folder)
        where = replays or str(config["replays"])
        try:
            self.store = ReplayStore.open(where)
        except ReplayError as error:
            raise ValueError(f"the replays of {folder.path}: {error}; --replays names where they are now") from error
        self._folder = folder
        recorded = sorted(folder.recorded_ids())
        if not recorded:
            raise FileNotFoundError(f"{folder.path} has no recorded episodes yet")
        ended = {id: _ended(folder, id) for id in tqdm(recorded, desc="episodes", leave=False, delay=2)}
        rank = {"reached": 1, _UNREADABLE: 2}
        recorded.sort(key=lambda id: rank.get(ended[id], 0))
        labels = {id: f"{id}  ({ended[id]})" for id in recorded}
        self.ids = {label: id for id, label in labels.items()}
        kinds = {ended[id]: None for id in recorded}
        groups = {kind: tuple(labels[id] for id in recorded if ended[id] == kind) for kind in kinds}
        self.groups = {f"{ALL} ({len(recorded)})": tuple(labels.values())}
        self.groups |= {f"{kind} ({len(found)})": found for kind, found in groups.items()}
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in groups.items())
        self.title = f"run `{folder.path.name}`: `{config['agent']}`, {config['mode']} mode; {counts}"

    def first(self) -> str:
        """Id of the first episode whose record can be read; if none can, of the first, which then says why."""
        for id in self.ids.values():
            with suppress(ValueError, OSError):
                self._folder.load_episode(id)
                return id
        return next(iter(self.ids.values()))

    def open(self, id: str) -> Timeline:
        if id not in self.ids.values():
            near = difflib.get_close_matches(id, self.ids.values(), n=3, cutoff=0.3) or list(self.ids.values())[:3]
            raise ValueError(
                f"{self._folder.path} has no episode of {id!r} among {len(self.ids)}; near it: {', '.join(near)}"
            )
        record = self._folder.load_episode(id)
        status_words(str(record["status"]))  # refuses a record with an unknown one
        return Timeline.of_episode(self.store.replay(id), record)


def find_source(what: str | None, id: str | None, replays: str | None) -> tuple[Source, str]:
    """What the words of a command mean: nothing, a replay's id, or a run folder with or without an episode's id.

    Args:
        what: path of a run folder, else the id of a replay, else (None) the first replay is meant.
        id: of an episode of the run; by default the first of those that failed.
        replays: name or path of a store; by default `mini`, or that of the run.

    Returns:
        The source and the id to begin with.

    Raises:
        ValueError, OSError: it is neither; the message says what there is.
    """
    if what is not None and (Path(what) / "config.json").is_file():
        run = RunSource(RunFolder(what), replays)
        return run, id or run.first()
    if id is not None:
        raise FileNotFoundError(f"{what} is not a run folder: it has no config.json, so there is no episode {id!r}")
    store = ReplayStore.open(replays or "mini")
    if what is None:
        return ReplaySource(store), store.infos[0].id
    try:
        store.index(what)
    except UnknownReplayError as error:
        hint = f"; to look into a store: --replays {what}" if _is_store(what) else ""
        raise ValueError(f"{what!r} is not a run folder (no config.json in it), nor a replay: {error}{hint}") from None
    return ReplaySource(store), what


def _setting(folder: RunFolder) -> dict:
    """What the run was made with, as its config says."""
    try:
        setting = folder.config["evaluation"]
        return {key: setting[key] for key in ("agent", "mode", "replays")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder.path} is not a run of `dexh2r evaluate`: its config.json is of another kind"
        ) from error


def _ended(folder: RunFolder, id: str) -> str:
    """How an episode ended, read without its frames."""
    try:
        with np.load(folder.episode_path(id), allow_pickle=False) as stored:
            return status_words(str(stored["status"]))
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return _UNREADABLE


def _is_store(what: str) -> bool:
    """Whether it looks like a store of replays."""
    return what in shipped_stores() or what.endswith(".zarr.zip") or (Path(what) / "zarr.json").is_file()
