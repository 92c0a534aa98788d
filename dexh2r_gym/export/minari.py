"""Episodes as a Minari dataset (https://minari.farama.org), for offline reinforcement learning. Extra `export`.

    os.environ["MINARI_DATASETS_PATH"] = "runs/minari"
    dataset = minari.load_dataset("dexh2r/mini-train-replay-v0")

Observations, actions, rewards, terminations, truncations and infos are stored bit for bit, pictures too unless
`jpeg=True`. An episode's metadata holds its seed and trial, so that it can be repeated in the environment that
`recover_environment()` makes, and its scores.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

from dexh2r_gym.agents import agent_title
from dexh2r_gym.export.episodes import Episode, Plan, play, provenance
from dexh2r_gym.export.whole import whole_or_nothing
from dexh2r_gym.extras import import_extra

NAMESPACE = "dexh2r"
_ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_-]*/)*[A-Za-z0-9][A-Za-z0-9_-]*-v[0-9]+")


def default_id(what: Plan) -> str:
    """Id of a dataset by what is in it, such as `dexh2r/mini-train-replay-v0`."""
    store = what.store.path.name.split(".")[0]
    words = (re.sub(r"[^A-Za-z0-9_]+", "_", word) for word in (store, what.split, agent_title(what.agent)))
    return f"{NAMESPACE}/{'-'.join(words)}-v0"


def export_minari(
    what: Plan,
    root: str | Path,
    *,
    dataset_id: str | None = None,
    num_envs: int = 32,
    jpeg: bool = False,
    progress: bool = True,
) -> Path:
    """Play a plan and write its episodes as the dataset `root/<dataset id>`, whole or not at all.

    Args:
        root: folder of Minari datasets: what MINARI_DATASETS_PATH names, by default ~/.minari/datasets.
        dataset_id: `namespace/name-v0`; by default `default_id`.
        jpeg: compress pictures, with losses.

    Returns:
        The dataset's folder, whose folder `data` is what `minari.MinariDataset` opens.

    Raises:
        MissingExtraError: minari is not installed.
        ValueError: a dataset id that Minari does not take.
        FileExistsError: there is such a dataset already.
    """
    storages = import_extra("minari.dataset.minari_storage", "export")
    buffers = import_extra("minari.data_collector", "export")
    import_extra("h5py", "export")
    minari = import_extra("minari", "export")
    dataset_id = dataset_id or default_id(what)
    if not _ID.fullmatch(dataset_id):
        raise ValueError(
            f"dataset id {dataset_id!r} is not of the form namespace/name-v0 (letters, digits, _ and -; version last)"
        )
    root = Path(root).expanduser()
    out = root / dataset_id
    with whole_or_nothing(out.resolve()) as folder:
        env = gym.make(what.spec)
        try:
            spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
        finally:
            env.close()
        storage = storages.MinariStorage.new(
            folder / "data", env_spec=what.spec, data_format="hdf5", jpeg_encoding=jpeg, **spaces
        )
        storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__, **_about(what)})
        for number, episode in enumerate(play(what, num_envs=num_envs, progress=progress)):
            storage.update_episodes([_buffer(episode, buffers.EpisodeBuffer)])
            storage.update_episode_metadata([_metadata(episode)], [number])
    for namespace in _parents(dataset_id):
        file = root / namespace / "namespace_metadata.json"
        if not file.exists():
            file.write_text(json.dumps({}))
    return out


def read_minari(folder: str | Path) -> Any:
    """The `minari.MinariDataset` of a folder that `export_minari` returned, wherever it lies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_extra("minari", "export").MinariDataset(Path(folder) / "data")


def _about(what: Plan) -> dict[str, Any]:
    """Metadata of the dataset, in Minari's words where it has some."""
    source = provenance(what)
    return {
        "algorithm_name": source["agent"],
        "author": {"dexh2r-gym"},
        "description": (
            f"Dexterous human-to-robot handover: agent {source['agent']} in {len(what.ids)} trials of "
            f"{source['source']}, split {source['split']}. Licence of the recorded trials: {source['licence']}."
        ),
        "requirements": [source["made_by"].replace(" ", "==")],
        "licence": source["licence"],
        "dexh2r": source,
    }


def _buffer(episode: Episode, buffer: Any) -> Any:
    return buffer(
        seed=episode.seed,
        options={"replay": episode.replay},
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards.tolist(),
        terminations=episode.terminations.tolist(),
        truncations=episode.truncations.tolist(),
        infos=episode.infos,
    )


def _metadata(episode: Episode) -> dict[str, Any]:
    return {"object": episode.object, "split": episode.split, "task": episode.task, **episode.scores}


def _parents(dataset_id: str) -> Iterator[str]:
    """`a/b/name-v0` -> a, a/b."""
    words = dataset_id.split("/")[:-1]
    for count in range(1, len(words) + 1):
        yield "/".join(words[:count])
