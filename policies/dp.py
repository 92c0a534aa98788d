"""DP, Diffusion Policy (Chi et al., RSS 2023) as the paper uses it: from colour, depth and the hand's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from policies.diffusion_policy import DiffusionPolicy
from policies.image_encoder import ImageEncoder
from policies.proprioception import proprioception, proprioception_size

_NEAR, _FAR = 0.5, 2.5  # m, between which depth is seen


@dataclass(frozen=True)
class DPConfig:
    """Sizes; the defaults run in real time on a CPU, `PAPER` has those of the paper."""

    observed: int = 2
    executed: int = 8
    horizon: int = 16
    cameras: tuple[str, ...] = ("kinect_0",)
    image_size: tuple[int, int] = (160, 90)  # width, height
    crop: tuple[int, int] = (144, 80)
    rotation: str = "6d"
    frame: str = "world"
    image_widths: tuple[int, ...] = (16, 32, 48, 64)
    feature: int = 64
    widths: tuple[int, ...] = (64, 128, 192)
    kernel: int = 5
    train_steps: int = 100
    sampling_steps: int = 10  # less than train_steps: DDIM in place of DDPM


PAPER = DPConfig(
    image_size=(320, 180),
    crop=(200, 100),
    rotation="axis_angle",
    image_widths=(64, 128, 256, 512),
    feature=512,
    widths=(512, 1024, 2048),
    sampling_steps=100,
)


class DP(DiffusionPolicy):
    """Looks at `image`, `depth` and `agent_pos`; does not know the goal grasps."""

    needs = ("agent_pos", "image", "depth")

    def __init__(self, config: DPConfig = DPConfig()) -> None:
        super().__init__()
        self.config = c = config
        if len(c.cameras) != 1:
            raise ValueError(f"DP looks through one camera, got {', '.join(c.cameras)}")
        scheduler = DDPMScheduler if c.sampling_steps == c.train_steps else DDIMScheduler
        self.scheduler = scheduler(
            num_train_timesteps=c.train_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,
        )
        self.encoder = ImageEncoder(4, c.image_widths, c.feature)
        self._build(c.observed * c.feature + proprioception_size(c.observed, c.rotation, c.frame))

    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """See `DiffusionPolicy`. In training every window is cropped at random, else in the middle."""
        c = self.config
        depth = (seen["depth"] - _NEAR) / (_FAR - _NEAR)
        pictures = torch.cat((seen["image"].movedim(-1, 2) / 255, depth.clamp(0, 1)[:, :, None]), dim=2)
        feature = self.encoder(self._cropped(pictures).flatten(0, 1)).unflatten(0, pictures.shape[:2]).flatten(1)
        return torch.cat((feature, proprioception(seen["agent_pos"], c.rotation, c.frame)), dim=-1)

    def _cropped(self, pictures: Tensor) -> Tensor:
        """(B, T, 4, H, W) -> (B, T, 4, *crop)"""
        width, height = self.config.crop
        spare = pictures.shape[-1] - width, pictures.shape[-2] - height
        if not self.training:
            x, y = spare[0] // 2, spare[1] // 2
            return pictures[..., y : y + height, x : x + width]
        places = [torch.randint(s + 1, (len(pictures),)).tolist() for s in spare]
        return torch.stack([p[..., y : y + height, x : x + width] for p, x, y in zip(pictures, *places, strict=True)])
