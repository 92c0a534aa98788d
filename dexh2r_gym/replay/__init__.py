"""Recorded handovers: one trial (`Replay`), stores of them, splits, and what they are made from."""

from dexh2r_gym.replay.replay import SPLITS, Replay, ReplayError, ReplayInfo, Trial, UnknownReplayError
from dexh2r_gym.replay.splits import SplitLists, draw_splits
from dexh2r_gym.replay.store import ReplayStore, shipped_stores
from dexh2r_gym.replay.validate import MAX_GOALS
from dexh2r_gym.replay.windows import ReplayWindows
from dexh2r_gym.replay.write import StoredObject, write_store

__all__ = [
    "MAX_GOALS",
    "SPLITS",
    "Replay",
    "ReplayError",
    "ReplayInfo",
    "ReplayStore",
    "ReplayWindows",
    "SplitLists",
    "StoredObject",
    "Trial",
    "UnknownReplayError",
    "draw_splits",
    "shipped_stores",
    "write_store",
]
