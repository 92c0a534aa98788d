"""What is exported: whole episodes as the environment gives them while an agent acts, and what is known of them.

`plan` says which trials, agent and environment; `play` yields the episodes one by one in the order of the trials. They
depend on the plan alone, not on how many worlds run side by side: an episode that is exported is the one that
`env.reset(seed=episode.seed, options={"replay": episode.replay})` starts and its actions repeat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from tqdm import tqdm

from dexh2r_gym import __version__
from dexh2r_gym.envs import HandoverVectorEnv
from dexh2r_gym.envs.handover import world_info
from dexh2r_gym.envs.options import HandoverOptions, make_options
from dexh2r_gym.evaluate import ENV_ID, Agent, episode_seed, fingerprint
from dexh2r_gym.replay import ReplayStore

STEP_INFO = ("goal_distance", "depth", "giver_force", "points_seen")  # of every step, where the environment has them
_HERE_ONLY = ("num_threads", "released_metrics", "render_mode", "overlay")  # change no number of an episode


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of T steps. Metres, radians, seconds, newtons; see `HandoverVectorEnv` for all spaces."""

    replay: str  # id of the trial
    object: str
    split: str  # of the trial
    seed: int
    observations: Any  # (T + 1, ...) or a dict of such, from the first one to the one after the last action
    actions: NDArray[np.float32]  # (T, 28)
    rewards: NDArray[np.float64]  # (T,)
    terminations: NDArray[np.bool_]  # (T,)
    truncations: NDArray[np.bool_]  # (T,)
    infos: dict[str, NDArray]  # (T + 1,) each, of `STEP_INFO`
    scores: dict[str, Any]  # the last info: succ, safe, status ... plain values

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def success(self) -> bool:
        """Whether the object was taken: held where the giver lets go, else by the paper's definition."""
        return bool(self.scores.get("held", self.scores["succ"]))

    @property
    def task(self) -> str:
        """What was to be done, in words."""
        return f"take the {self.object.replace('_', ' ')} from the giver"


@dataclass(frozen=True, eq=False)
class Plan:
    """What to play: every number of its episodes follows from it."""

    make_agent: Callable[..., Agent]  # of a `HandoverVectorEnv` and a seed
    agent: str  # its name
    identity: str | None  # of its weights and settings
    store: ReplayStore
    split: str
    ids: tuple[str, ...]  # trials, in this order
    seed: int
    env: dict[str, Any]  # arguments of the environment, as json gives them back

    @property
    def options(self) -> HandoverOptions:
        """Of the environment, resolved."""
        return make_options(self.env)

    @property
    def fps(self) -> float:
        """Recorded frames a second, of all trials: the environment refuses a mixture."""
        return self.store.info(self.ids[0]).fps

    @property
    def spec(self) -> EnvSpec:
        """Makes the environment anew: `gym.make(spec)`, or `EnvSpec.from_json(spec.to_json())` elsewhere."""
        return EnvSpec(
            ENV_ID,
            entry_point="dexh2r_gym.envs:HandoverEnv",
            vector_entry_point="dexh2r_gym.envs:HandoverVectorEnv",
            kwargs=dict(self.env),
        )


def plan(
    agent: Agent | Callable[..., Agent],
    *,
    agent_name: str | None = None,
    replays: str | Path = "mini",
    split: str = "train",
    seed: int = 0,
    episodes: int | None = None,
    **options: Any,
) -> Plan:
    """Check what is asked for before anything is played.

    Args:
        agent: whatever has `predict`, or a maker of it, as for `dexh2r_gym.evaluate.evaluate`.
        episodes: only the first so many trials of the split.
        options: of the environment, by default what the agent needs.

    Raises:
        ValueError: an unknown option or value, no trials, or what cannot be repeated or written down.
    """
    options = {**getattr(agent, "env_options", {}), **options}
    env = {key: value for key, value in options.items() if key not in _HERE_ONLY}
    env = _as_json(env | {"replays": str(replays), "split": split})
    if make_options(env).realtime:
        raise ValueError("realtime=True cannot be repeated, so it is not exported; give a latency in frames instead")
    store = ReplayStore.open(replays)
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    ids = tuple(store.ids(split)[:episodes])
    if not ids:
        raise ValueError(f"split {split!r} of {store.name} has no replays")
    return Plan(
        make_agent=(lambda env, seed: agent) if isinstance(agent, Agent) else agent,
        agent=agent_name or str(getattr(agent, "__name__", type(agent).__name__)),
        identity=getattr(agent, "identity", None),
        store=store,
        split=split,
        ids=ids,
        seed=seed,
        env=env,
    )


def play(what: Plan, *, num_envs: int = 32, progress: bool = True) -> Iterator[Episode]:
    """Play the episodes of a plan, `num_envs` side by side, and yield them in the order of its trials."""
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    made = gym.make_vec(
        ENV_ID,
        num_envs=min(num_envs, len(what.ids)),
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.DISABLED,
        **{**what.env, "released_metrics": False},
    )
    try:
        env = made.unwrapped
        assert isinstance(env, HandoverVectorEnv)
        done: dict[str, Episode] = {}
        with tqdm(total=len(what.ids), unit="episode", disable=not progress) as bar:
            wanted = iter(what.ids)
            following = next(wanted, None)
            for episode in _play(what, env):
                done[episode.replay] = episode
                bar.update()
                while following in done:
                    yield done.pop(following)
                    following = next(wanted, None)
    finally:
        made.close()


def provenance(what: Plan) -> dict[str, Any]:
    """Where a dataset of this plan comes from, as json can hold it; no path of this machine but one the user gave."""
    return {
        "made_by": f"dexh2r-gym {__version__}",
        "licence": what.store.attrs["licence"],
        "source": what.store.path.name,
        "source_sha256": fingerprint(what.store.path),
        "split": what.split,
        "agent": what.agent,
        "agent_identity": what.identity,
        "seed": what.seed,
        "env": what.env,
        "fps": what.fps,
    }


def _play(what: Plan, env: HandoverVectorEnv) -> Iterator[Episode]:
    """Episodes as they end; a world takes the next trial as soon as it is free."""
    agent = what.make_agent(env, what.seed)
    waiting = list(reversed(what.ids))
    tapes: list[_Tape | None] = [None] * env.num_envs
    state = None
    free = np.ones(env.num_envs, dtype=bool)
    while True:
        for world in np.flatnonzero(free).tolist():
            tapes[world] = _Tape(waiting.pop(), what) if waiting else None
        taken = np.array([tape is not None for tape in tapes])
        if not taken.any():
            return
        started = free & taken
        if started.any():
            seeds = [None if tape is None else tape.seed for tape in tapes]
            replays = [None if tape is None else tape.replay for tape in tapes]
            options = {"replay": replays, "reset_mask": started}
            observation, info = env.reset(seed=seeds, options=options)
            for world in np.flatnonzero(started).tolist():
                tapes[world].see(_world(observation, world), world_info(info, world))  # type: ignore[union-attr]
        action, state = agent.predict(observation, state=state, episode_start=started, deterministic=True)
        action = np.asarray(action, dtype=np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        for world in np.flatnonzero(taken).tolist():
            tape = tapes[world]
            assert tape is not None
            tape.action.append(action[world].copy())
            tape.result.append((float(reward[world]), bool(terminated[world]), bool(truncated[world])))
            tape.see(_world(observation, world), world_info(info, world))
        free = (terminated | truncated) & taken
        for world in np.flatnonzero(free).tolist():
            yield tapes[world].episode(what.store)  # type: ignore[union-attr]


class _Tape:
    """Records one episode as it goes on."""

    def __init__(self, replay: str, what: Plan):
        self.replay, self.seed = replay, episode_seed(what.seed, replay)
        self.seen: list[Any] = []
        self.info: list[dict[str, Any]] = []
        self.action: list[NDArray] = []
        self.result: list[tuple[float, bool, bool]] = []

    def see(self, observation: Any, info: dict[str, Any]) -> None:
        """What is seen at the beginning of the next step."""
        self.seen.append(observation)
        self.info.append(info)

    def episode(self, store: ReplayStore) -> Episode:
        rewards, terminations, truncations = zip(*self.result, strict=True)
        first = self.seen[0]
        trial = store.info(self.replay)
        return Episode(
            replay=self.replay,
            object=trial.object,
            split=trial.split,
            seed=self.seed,
            observations=(
                {key: np.stack([o[key] for o in self.seen]) for key in first}
                if isinstance(first, Mapping)
                else np.stack(self.seen)
            ),
            actions=np.stack(self.action),
            rewards=np.array(rewards),
            terminations=np.array(terminations),
            truncations=np.array(truncations),
            infos={key: np.array([i[key] for i in self.info]) for key in STEP_INFO if key in self.info[0]},
            scores={k: _plain(v) for k, v in self.info[-1].items() if k not in (*STEP_INFO, "replay")},
        )


def _world(observation: Any, world: int) -> Any:
    """A copy of what one world sees."""
    if isinstance(observation, Mapping):
        return {key: value[world].copy() for key, value in observation.items()}
    return observation[world].copy()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_json(env: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the environment as json gives them back: they go into the dataset, to make it anew."""

    def convert(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return list(asdict(value).values()) if type(value).__name__ == "SpeedLimits" else asdict(value)
        raise TypeError(f"an environment with {value!r} cannot be written into a dataset")

    if env.get("pose_noise") is not None:
        raise ValueError("pose_noise cannot be written into a dataset's description of its environment; leave it out")
    try:
        return json.loads(json.dumps(env, default=convert, allow_nan=False))
    except TypeError as error:
        raise ValueError(str(error)) from error
