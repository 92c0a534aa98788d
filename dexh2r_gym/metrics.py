"""The benchmark's metrics as pure functions, batch first, under two definitions.

*Paper* (DexH2R, ICCV 2025, Table 3), with a mesh-exact depth, over every frame of an episode (approach and alignment).
*Released code*, as the authors' evaluation computes it: a depth by nearest surface sample and the sign of its normal,
over the frames that the policy moved the hand, the first five left out. That depth calls a small share of far-away
points "inside", up to tens of centimetres deep; it is given to compare with published numbers, not as the truth.

Every function takes B episodes at once, padded to T frames, with their lengths; what stands in the padding is never
read, and an episode's numbers do not depend on its neighbours. Metres; centimetres only where said.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.depth import hand_object_depth, penetration_depth, released_depth

__all__ = [
    "METRICS",
    "PEN_FRAME_DEPTH",
    "RELEASED_SKIPPED_FRAMES",
    "SAFE_MEAN_DEPTH",
    "approach_metrics",
    "hand_object_depth",
    "paper_metrics",
    "penetration_depth",
    "released_depth",
    "released_frames",
    "released_metrics",
]

METRICS = ("succ", "safe", "pen_dep", "pen_fr", "infer_fr", "traj_len")  # pen_dep in cm, traj_len in m, *_fr in frames
SAFE_MEAN_DEPTH = 0.002  # m; the paper's threshold for `safe` is not published: ours
PEN_FRAME_DEPTH = 0.002  # m; the paper's threshold for `pen_fr` is not published: ours
RELEASED_SKIPPED_FRAMES = 5  # the released code drops this many frames at the start


def paper_metrics(depth: Tensor, palm: Tensor, length: Tensor, reached: Tensor) -> dict[str, Tensor]:
    """Table 3 of the paper, per episode.

    Args:
        depth: (B, T) metres, mesh-exact, per frame.
        palm: (B, T, 3) palm positions, metres.
        length: (B,) frames of each episode, from its first to its last.
        reached: (B,) bool, the palm came within 1 cm of the goal.

    Returns:
        (B,) each: succ and safe (bool), pen_dep (cm, mean over frames), pen_fr (frames deeper than `PEN_FRAME_DEPTH`),
        infer_fr (frames), traj_len (m).
    """
    _check_episodes(depth, palm, length, reached, "reached")
    frames = torch.arange(depth.shape[1], device=depth.device)
    counted = frames < length[:, None]
    mean_depth = _masked_mean(depth, counted)
    return {
        "succ": reached.bool(),
        "safe": mean_depth < SAFE_MEAN_DEPTH,
        "pen_dep": 100.0 * mean_depth,
        "pen_fr": (counted & (depth > PEN_FRAME_DEPTH)).sum(-1),
        "infer_fr": counted.sum(-1),
        "traj_len": _path_length(palm, counted),
    }


def released_metrics(depth: Tensor, palm: Tensor, length: Tensor, alignment_begin: Tensor) -> dict[str, Tensor]:
    """The same metrics as the released code computes them: `released_frames` only.

    Args:
        depth: (B, T) metres, by `penetration_depth`.
        palm, length: as for `paper_metrics`.
        alignment_begin: (B,) the first frame moved by goal pose alignment, -1 if it never began.

    Returns:
        As `paper_metrics`, but succ: alignment began; safe: no frame with any depth; pen_fr: frames with any depth.
    """
    _check_episodes(depth, palm, length, alignment_begin, "alignment_begin")
    counted = released_frames(length, alignment_begin, depth.shape[1])
    penetrating = (counted & (depth > 0)).sum(-1)
    return {
        "succ": alignment_begin >= 0,
        "safe": penetrating == 0,
        "pen_dep": 100.0 * _masked_mean(depth, counted),
        "pen_fr": penetrating,
        "infer_fr": counted.sum(-1),
        "traj_len": _path_length(palm, counted),
    }


def released_frames(length: Tensor, alignment_begin: Tensor, num_frames: int) -> Tensor:
    """Frames that count in the released code: moved by the policy, less the first five. (B,), (B,) -> (B, T) bool."""
    frames = torch.arange(num_frames, device=length.device)
    end = torch.where(alignment_begin >= 0, torch.minimum(alignment_begin, length), length)
    return (frames >= RELEASED_SKIPPED_FRAMES) & (frames < end[:, None])


def approach_metrics(
    *,
    depth: Tensor,
    palm: Tensor,
    length: Tensor,
    reached: Tensor,
    alignment_begin: Tensor,
    released_depth: Tensor | None = None,
) -> dict[str, Tensor]:
    """`paper_metrics` and, where `released_depth` is given, `released_metrics`, their names ending in `_released`.

    An agent that closes in by itself has succeeded by both definitions where it reached a grasp.
    """
    result = paper_metrics(depth, palm, length, reached)
    if released_depth is not None:
        released = released_metrics(released_depth, palm, length, alignment_begin)
        released["succ"] = released["succ"] | reached
        result |= {f"{name}_released": value for name, value in released.items()}
    return result


def _check_episodes(depth: Tensor, palm: Tensor, length: Tensor, flag: Tensor, flag_name: str) -> None:
    if depth.ndim != 2:
        raise ValueError(f"depth must be (B, T), got {tuple(depth.shape)}")
    if palm.shape != (*depth.shape, 3):
        raise ValueError(f"palm must be (B, T, 3) = {(*depth.shape, 3)} beside depth, got {tuple(palm.shape)}")
    for name, value in (("length", length), (flag_name, flag)):
        if value.shape != depth.shape[:1]:
            raise ValueError(f"{name} must be (B,) = {(depth.shape[0],)} beside depth, got {tuple(value.shape)}")
    if len(length) and not (0 <= int(length.min()) and int(length.max()) <= depth.shape[1]):
        raise ValueError(f"length must lie in 0 .. {depth.shape[1]} (T), got {length.tolist()}")


def _ordered_sum(values: Tensor) -> Tensor:
    """Sum over the last axis strictly from first to last, so that padding behind changes no bit. (B, T) -> (B,)."""
    return values.double().cumsum(-1)[:, -1] if values.shape[-1] else values.double().sum(-1)


def _masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean over counted frames, 0 where there is none. (B, T), (B, T) bool -> (B,) float64."""
    return _ordered_sum(torch.where(counted, values, 0.0)) / counted.sum(-1).clamp_min(1)


def _path_length(palm: Tensor, counted: Tensor) -> Tensor:
    """Sum of displacements between neighbouring counted frames. (B, T, 3), (B, T) bool -> (B,) metres, float64."""
    steps = (palm[:, 1:].double() - palm[:, :-1].double()).norm(dim=-1)
    return _ordered_sum(torch.where(counted[:, 1:] & counted[:, :-1], steps, 0.0))
