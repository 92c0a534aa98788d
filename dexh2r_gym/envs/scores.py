"""What is said of episodes that are over: their scores, and the record from which they can be scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dexh2r_gym.envs.trace import EpisodeTrace
from dexh2r_gym.metrics import approach_metrics, released_depth
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.replay import Replay
from dexh2r_gym.safety import safety_metrics
from dexh2r_gym.types import EpisodeStatus
from dexh2r_gym.verdict import verdict


def approach_scores(
    trace: EpisodeTrace, worlds: Tensor, reached: Tensor, objects: Sequence[ObjectModel] | None = None
) -> dict[str, Tensor]:
    """Approach and alignment of worlds (n,): `dexh2r_gym.metrics`, and end_frame, their last; (n,) each.

    reached: (n,) bool. objects: n of them, where the released code's definitions are asked for too.
    """
    length = trace.approach_frames[worlds]
    longest = int(length.max())
    released = None
    if objects is not None:
        released = torch.zeros(len(worlds), longest, dtype=torch.float64)
        for i, (world, t) in enumerate(zip(worlds.tolist(), length.tolist(), strict=True)):
            hand_state, object_pose = trace.hand_state[world, :t].cpu(), trace.object_pose[world, :t].cpu()
            released[i, :t] = released_depth(hand_state, object_pose, objects[i])
    scores = approach_metrics(
        depth=trace.depth[worlds, :longest],
        palm=trace.hand_state[worlds, :longest, :3],
        length=length,
        reached=reached,
        alignment_begin=trace.alignment_begin[worlds],
        released_depth=None if released is None else released.to(length.device),
    )
    return scores | {"end_frame": length - 1}


def touch_scores(trace: EpisodeTrace, worlds: Tensor, dt: float, *, physical: bool) -> dict[str, Tensor]:
    """How the givers of worlds (n,) were touched in the whole episode: max_giver_force (n,) N, and where the simulator
    is physical `dexh2r_gym.safety`. dt: seconds a frame."""
    length = trace.length[worlds]
    longest = int(length.max())
    counted = torch.arange(longest, device=length.device) < length[:, None]
    force = torch.where(counted, trace.giver_force[worlds, :longest], 0.0)
    scores = {"max_giver_force": force.amax(dim=1)}
    if physical:
        peak, impulse, speed = (
            values[worlds, :longest] for values in (trace.giver_peak, trace.giver_impulse, trace.contact_speed)
        )
        scores |= safety_metrics(peak, impulse, speed, length, dt)
    return scores


def episode_record(
    trace: EpisodeTrace,
    world: int,
    replay: Replay,
    giver_bones: Tensor,
    *,
    mode: str,
    fps: float,
    status: EpisodeStatus,
    results: Mapping[str, float | str],
) -> dict[str, Any]:
    """All that is needed to score the last episode of this world again, as numpy arrays and plain values.

    giver_bones: (frames, 16, 7), world. results: of the physical handover, `Receive.record`, and whatever else is to be
    told of the episode.
    """
    length = int(trace.length[world])
    frames = {name: getattr(trace, name)[world, :length].cpu().numpy().copy() for name, _ in trace.SIZES}
    record = frames | {
        "replay": replay.id,
        "object": replay.object,
        "subject": replay.subject,
        "kind": replay.kind,
        "mode": mode,
        "fps": fps,
        "status": status.name,
        "frames": length,
        "alignment_begin": int(trace.alignment_begin[world]),
        "approach_frames": int(trace.approach_frames[world]),
        "giver_bones": giver_bones.float().cpu().numpy(),
        **({"recording_frame": trace.recording_frame[world, :length].long().cpu().numpy()} if trace.played else {}),
        **results,
    }
    decided, reason = verdict(record)
    return record | {"decided_frame": decided, "reason": reason}
