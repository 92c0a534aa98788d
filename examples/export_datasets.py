"""Demonstrations as a Minari dataset and as a LeRobot data set, and both read again (extra `export`).

    python examples/export_datasets.py --out runs/export --episodes 8

The commands are `dexh2r export minari` and `dexh2r export lerobot`. lerobot itself is needed only to read its data set
here; it wants another torch than `constraints.txt` pins, so it goes into an environment of its own, without that file:
`pip install lerobot "dexh2r-gym[export]"`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import tyro

from dexh2r_gym.agents import find_agent
from dexh2r_gym.export.episodes import plan
from dexh2r_gym.export.lerobot import export_lerobot
from dexh2r_gym.export.minari import export_minari, read_minari


def play_again(dataset) -> None:
    """The environment of a Minari dataset, made from what the dataset says, gives the same rewards again."""
    env = dataset.recover_environment()
    for episode, about in zip(dataset, dataset.storage.get_episode_metadata(dataset.episode_indices), strict=True):
        env.reset(seed=about["seed"], options=dict(about["options"]))
        rewards = [env.step(action)[1] for action in episode.actions]
        same = np.array_equal(rewards, episode.rewards)
        print(f"{about['options']['replay']:24} {about['status']} return {sum(rewards):6.2f} played again: {same}")
    env.close()


def main(
    out: Path = Path("runs/export"),
    agent: str = "replay",
    replays: str = "mini",
    split: str = "train",
    episodes: int = 8,
) -> None:
    """Export some episodes to both formats and read them.

    Args:
        out: folder of both; must not hold them yet.
        agent: who acts: replay (the recorded demonstrations), or any that `dexh2r evaluate` knows.
        replays: `mini`, or the path of a replay store.
        split: train, validation or test.
        episodes: only the first so many trials.
    """
    what = plan(find_agent(agent), agent_name=agent, replays=replays, split=split, episodes=episodes)
    dataset = read_minari(export_minari(what, out / "minari"))
    print(f"Minari: {dataset.total_episodes} episodes, {dataset.total_steps} steps, {dataset.observation_space}")
    play_again(dataset)

    root = export_lerobot(what, out / "lerobot")
    print(f"LeRobot: {root}")
    if importlib.util.find_spec("lerobot"):
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        frames = LeRobotDataset("local/handover", root=root)
        frame = frames[0]
        print(f"{len(frames)} frames; the first: {frame['task']}, action {tuple(frame['action'].shape)}")


if __name__ == "__main__":
    tyro.cli(main)
