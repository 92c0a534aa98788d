"""The scores of running episodes, added up frame by frame: what `scores` finds in the trace, without keeping one.

Sums go from first to last, as those of `dexh2r_gym.metrics`, so they are the same to the last digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.metrics import PEN_FRAME_DEPTH, SAFE_MEAN_DEPTH
from dexh2r_gym.safety import QUASI_STATIC_LIMIT
from dexh2r_gym.types import GIVER_PARTS, SceneState
from dexh2r_gym.worlds import put, take


class Tally:
    """Of B worlds, some 300 bytes each."""

    def __init__(self, num_worlds: int, device: torch.device | str = "cpu") -> None:
        zero = torch.zeros(num_worlds, dtype=torch.float64, device=device)
        parts = zero.new_zeros(num_worlds, len(GIVER_PARTS))
        self._sums = {
            "frames": zero.long(),
            "deep_frames": zero.long(),
            "depth": zero,  # m, of all frames
            "path": zero,  # m
            "palm": zero.new_zeros(num_worlds, 3),  # where it was last
            "force": zero,  # N, the greatest
            "peak": parts,  # N, the greatest
            "impulse": parts,  # N s
            "run": parts,  # frames, of the contact that lasts
            "longest": parts,  # frames
            "speed": zero,  # m/s, the greatest where a contact begins
        }

    def start(self, worlds: Tensor) -> None:
        """New episodes in these worlds."""
        self._sums = {name: put(value, worlds, 0) for name, value in self._sums.items()}

    def add(self, worlds: Tensor, scene: SceneState, depth: Tensor) -> None:
        """One more frame of these worlds, in which the hand was depth (n,) m in the object. scene: of all B worlds."""
        s = {name: take(value, worlds) for name, value in self._sums.items()}
        palm = take(scene.hand_pose, worlds)[:, :3]
        force, peak, impulse, speed = (
            take(x, worlds) for x in (scene.giver_force, scene.giver_peak, scene.giver_impulse, scene.contact_speed)
        )
        step = torch.where(s["frames"] > 0, (palm - s["palm"]).norm(dim=-1), 0.0)
        run = (s["run"] + 1) * (peak > 0)
        begins = (run == 1).any(-1)
        new = {
            "frames": s["frames"] + 1,
            "deep_frames": s["deep_frames"] + (depth > PEN_FRAME_DEPTH),
            "depth": s["depth"] + depth,
            "path": s["path"] + step,
            "palm": palm,
            "force": torch.maximum(s["force"], force),
            "peak": torch.maximum(s["peak"], peak),
            "impulse": s["impulse"] + impulse,
            "run": run,
            "longest": torch.maximum(s["longest"], run),
            "speed": torch.maximum(s["speed"], torch.where(begins, speed, 0.0)),
        }
        self._sums = {name: put(value, worlds, new[name]) for name, value in self._sums.items()}

    def scores(self, reached: Tensor, dt: float, *, physical: bool) -> dict[str, Tensor]:
        """Of the episodes of all B worlds as far as they have come, (B,) each: the paper's metrics, end_frame,
        max_giver_force (N), and where the simulator is `physical` `safety.safety_metrics`.

        reached: (B,) bool. dt: seconds a frame.
        """
        s = self._sums
        mean = s["depth"] / s["frames"].clamp_min(1)
        scores = {
            "succ": reached,
            "safe": mean < SAFE_MEAN_DEPTH,
            "pen_dep": 100.0 * mean,
            "pen_fr": s["deep_frames"],
            "infer_fr": s["frames"],
            "traj_len": s["path"],
            "end_frame": s["frames"] - 1,
            "max_giver_force": s["force"],
        }
        if physical:
            scores |= {
                "giver_peak": s["peak"],
                "giver_impulse": s["impulse"],
                "contact_time": dt * s["longest"],
                "contact_speed": s["speed"],
                "safe_force": (s["peak"] <= QUASI_STATIC_LIMIT).all(-1),
            }
        return scores
