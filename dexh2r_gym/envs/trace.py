"""What happened in the running episode of every world, kept frame by frame for scoring."""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.types import GIVER_PARTS, HAND_STATE_SIZE, NUM_GIVER_JOINTS, SceneState


class EpisodeTrace:
    """Padded buffers of B worlds by T frames; they grow when a longer recording comes.

    Attributes:
        hand_state (B, T, 28), object_pose (B, T, 7), d (B, T) metres, depth (B, T) metres mesh-exact,
        giver_force (B, T) newtons; phase (B, T) `envs.receive.Phase`; giver_peak (B, T, 6) N,
        giver_impulse (B, T, 6) N s, contact_speed (B, T) m/s and load (B, T, 3) N as in `SceneState`.
        With `played`: giver_bones (B, T, 16, 7); recording_frame (B, T), the recorded frame nearest to what was shown.
        length (B,) frames written; alignment_begin (B,) frame or -1; approach_frames (B,) those up to the grasp.
    """

    SIZES = (
        ("hand_state", (HAND_STATE_SIZE,)),
        ("object_pose", (7,)),
        ("d", ()),
        ("depth", ()),
        ("giver_force", ()),
        ("phase", ()),
        ("giver_peak", (len(GIVER_PARTS),)),
        ("giver_impulse", (len(GIVER_PARTS),)),
        ("contact_speed", ()),
        ("load", (3,)),
    )
    TOUCH = ("giver_force", "giver_peak", "giver_impulse", "contact_speed", "load")  # as the `SceneState` has them
    PLAYED = (("giver_bones", (NUM_GIVER_JOINTS, 7)), ("recording_frame", ()))

    def __init__(self, num_worlds: int, device: torch.device | str = "cpu", *, played: bool = False):
        """played: whether givers are not always where they were recorded in that frame."""
        self.played = played
        self.sizes = self.SIZES + (self.PLAYED if played else ())
        self.hand_state: Tensor
        self.object_pose: Tensor
        self.d: Tensor
        self.depth: Tensor
        self.giver_force: Tensor
        self.phase: Tensor
        self.giver_peak: Tensor
        self.giver_impulse: Tensor
        self.contact_speed: Tensor
        self.load: Tensor
        self.giver_bones: Tensor
        self.recording_frame: Tensor
        for name, size in self.sizes:
            setattr(self, name, torch.zeros(num_worlds, 0, *size, dtype=torch.float64, device=device))
        self.length = torch.zeros(num_worlds, dtype=torch.long, device=device)
        self.alignment_begin = torch.full((num_worlds,), -1, dtype=torch.long, device=device)
        self.approach_frames = torch.zeros(num_worlds, dtype=torch.long, device=device)

    def start(self, worlds: Tensor, num_frames: int) -> None:
        """Begin new episodes in worlds (n,), of at most num_frames frames."""
        missing = num_frames - self.d.shape[1]
        if missing > 0:
            for name, size in self.sizes:
                old = getattr(self, name)
                setattr(self, name, torch.cat((old, old.new_zeros(len(old), missing, *size)), dim=1))
        self.length[worlds] = 0
        self.alignment_begin[worlds] = -1

    def append(self, worlds: Tensor, receiving: Tensor, scene: SceneState, **frame: Tensor) -> None:
        """Write one frame of worlds (n,): what the scene of all B worlds tells of touch, the rest by name, (n, ...).

        receiving: (n,) bool, whose approach is over.
        """
        at = self.length[worlds]
        frame |= {name: getattr(scene, name)[worlds] for name in self.TOUCH}
        for name, value in frame.items():
            getattr(self, name)[worlds, at] = value.double()
        self.length[worlds] += 1
        self.approach_frames[worlds] = torch.where(receiving, self.approach_frames[worlds], self.length[worlds])
