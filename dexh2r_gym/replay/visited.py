"""What a policy meets when it acts by itself, as a store to learn from (DAgger, Ross et al., AISTATS 2011).

Who has only seen an expert's ways does not know where its own errors lead. Here the trials of a run are kept with the
hand where the policy had it, up to where the environment's goal pose alignment took over; in training
(`policies.approach_data`) the expert says what it would do from there. Clouds and pictures then show that hand, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from dexh2r_gym.evaluate import fingerprint
from dexh2r_gym.replay.replay import ReplayError, Trial
from dexh2r_gym.replay.rewrite import objects_again, trial_again
from dexh2r_gym.replay.store import ReplayStore
from dexh2r_gym.replay.write import free_path, write_store
from dexh2r_gym.run_folder import RunFolder

_BEYOND = 16  # frames after alignment began that are kept: plans of the frames before reach into them
_LEAST = 4  # frames of a trial


def keep_visited(run: str | Path, out: Path, *, overwrite: bool = False, progress: bool = True) -> Path:
    """Write a store of the episodes of a run folder, finished or not; object and hand as simulated.

    Trials keep id, split and goals, and lose what sensors recorded, which show another hand. Those in which alignment
    began at once are left out.

    Raises:
        ReplayError: the run has no episode that can be kept, or givers that did not play their recording; or its store
            has changed since.
        FileExistsError: there is something at `out`, and not `overwrite`.
    """
    folder, out = RunFolder(run), free_path(out, overwrite)
    settings = folder.config["evaluation"]
    store = ReplayStore.open(settings["replays"])
    if fingerprint(store.path) != folder.config["store_sha256"]:
        raise ReplayError(f"has changed since {run} was made with it", store=str(store.path))
    ids = sorted(folder.recorded_ids(), key=store.index)
    objects, used = objects_again(store), {store.info(id).object for id in ids}
    return write_store(
        out,
        _trials(store, folder, ids, progress),
        {name: stored for name, stored in objects.items() if name in used},
        licence=store.attrs["licence"],
        provenance={
            **(store.attrs.get("provenance") or {}),
            "hands": "visited",
            "visited_by": f"{settings['agent']} {settings['agent_identity']}",
            "visited_mode": settings["mode"],
            "visited_seed": settings["seed"],
        },
        seed=store.attrs.get("seed"),
        giver_model=store.giver_model,
        resolution=None,
        overwrite=overwrite,
    )


def is_visited(store: ReplayStore) -> bool:
    """Whether the hands of a store are where a policy was, and no demonstrations."""
    return (store.attrs.get("provenance") or {}).get("hands") == "visited"


def _trials(store: ReplayStore, folder: RunFolder, ids: list[str], progress: bool) -> Iterator[Trial]:
    for id in tqdm(ids, "trials", unit="trial", disable=not progress):
        record = folder.load_episode(id)
        if "recording_frame" in record:
            raise ReplayError(f"{folder.path} has givers that did not play their recording", replay=id)
        index, begin = store.index(id), int(record["alignment_begin"])
        count = int(record["approach_frames"]) if begin < 0 else min(begin + _BEYOND, int(record["approach_frames"]))
        if count < _LEAST or 0 <= begin < _LEAST:
            continue
        yield trial_again(
            store,
            index,
            object_pose=record["object_pose"][:count],
            giver=store.frames("giver", index)[:count],
            goal_free=store[index].goal_free[:count].numpy(),
            demo=record["hand_state"][:count],
            grasp_begin=-1,
            sensors={},
            calibration=None,
        )
