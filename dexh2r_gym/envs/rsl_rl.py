"""Many worlds of the task as rsl_rl's `VecEnv` (extra `rsl`): tensors in and out, on the learner's device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from dexh2r_gym.envs.handover_vector import HandoverVectorEnv
from dexh2r_gym.types import HAND_STATE_SIZE

SCORES = ("succ", "safe", "pen_dep")  # of the episodes that end, for the learner's log


class HandoverRslRlEnv(VecEnv):
    """`OnPolicyRunner(HandoverRslRlEnv(4096, control_mode="delta"), config)`; the options are those of
    `HandoverVectorEnv`.

    A world that has ended begins anew in the same step. Observations are groups by the keys of the `obs_mode`; the flat
    state is the group `state`. Extras hold `time_outs` (B,) bool, the worlds whose recordings ended, so that the
    learner adds what going on would have been worth, and in `log` the scores of the episodes that ended, by the paper's
    definition.

    Attributes:
        max_episode_length: frames of the longest trial.
        episode_length_buf: (B,) frames that each episode has lasted. To set it, as `init_at_random_ep_len` does,
            changes nothing: an episode ends with its recording.
        cfg: the environment's options, for logs.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        seed: int | None = None,
        rl_device: torch.device | str = "cpu",
        observe: Callable[[Any], Tensor] | None = None,
        act: Callable[[Tensor], Tensor] | None = None,
        num_actions: int | None = None,
        **options: Any,
    ) -> None:
        """Make the worlds and begin an episode in each.

        Args:
            seed: of the trials that are drawn.
            rl_device: of all that goes in and out, whatever device the worlds are on.
            observe: from the observation, a tensor or a dict of them, to what the learner sees as `state`, (B, n).
            act: from the learner's actions (B, num_actions) to the environment's (B, 28).
        """
        self.vector = HandoverVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self.num_envs, self.device = num_envs, torch.device(rl_device)
        self.num_actions = num_actions or HAND_STATE_SIZE
        self.cfg = asdict(self.vector.options)
        task = self.vector.task
        self.max_episode_length = max(task.store.info(id).num_frames for id in task.replay_ids)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._observe, self._act = observe, act
        self._takes_tensors = options.get("output") == "torch"
        observation, _ = self.vector.reset(seed=seed)
        self._seen = self._groups(observation)

    def get_observations(self) -> TensorDict:
        """What the worlds show now."""
        return self._seen

    @torch.inference_mode(False)  # the learner steps in inference mode, whose tensors could not be changed outside it
    @torch.no_grad()
    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Actions (B, num_actions) -> observations, rewards (B,), dones (B,) bool, extras."""
        action = actions if self._act is None else self._act(actions)
        observation, reward, terminated, truncated, info = self.vector.step(
            action if self._takes_tensors else action.cpu().numpy()
        )
        self._seen = self._groups(observation)
        reached, time_outs = self._tensor(terminated), self._tensor(truncated)
        dones = reached | time_outs
        self.episode_length_buf = torch.where(dones, 0, self.episode_length_buf + 1)
        extras: dict[str, Any] = {"time_outs": time_outs & ~reached}
        if dones.any():  # in tensors, results are told in every step
            scores = {name: self._tensor(info["final_info"][name])[dones] for name in SCORES}
            extras["log"] = {f"episode/{name}": value.float() for name, value in scores.items()}
        return self._seen, self._tensor(reward).float(), dones, extras

    def close(self) -> None:
        """Free the worlds."""
        self.vector.close()

    def _groups(self, observation: Any) -> TensorDict:
        parts = observation if isinstance(observation, dict) else {"state": observation}
        groups = {name: self._tensor(value) for name, value in parts.items()}
        if self._observe is not None:
            groups = {"state": self._observe(groups if isinstance(observation, dict) else groups["state"])}
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, device=self.device)
