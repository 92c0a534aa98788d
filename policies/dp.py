"""DP, Diffusion Policy (Chi et al., RSS 2023) as the paper uses it: from colour, depth and the hand's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dexh2r_gym.rotations import pose_inverse, pose_multiply, quat_to_matrix
from dexh2r_gym.sensing.cameras import find_cameras
from dexh2r_gym.types import split_hand_state
from policies.approach import STEADY
from policies.diffusion_policy import DiffusionPolicy
from policies.image_encoder import ImageEncoder
from policies.proprioception import MIDDLE, proprioception, proprioception_size

_NEAR, _FAR = 0.5, 2.5  # m, between which depth is seen
_REACH = 1.0  # m, within which places are told apart
_CLOSER = 10.0  # by which places are scaled, as other lengths: to tenths of a metre


@dataclass(frozen=True)
class DPConfig:
    """Sizes; the defaults run in real time on a CPU, `PAPER` has those of the paper.

    window: middle part of the picture that is looked at; in training crops are taken from anywhere in it.
    noise: deviations of what a goal and a plan are drawn from; both are 1 in training.
    pace: how many times as fast as it was learned a plan is carried out; published is 1.
    midway: whether each sampling step stands for the middle of its part of the noise; published is its lower end.
    points: whether each pixel also says where in space it is, for which the camera must be one of
    `dexh2r_gym.sensing.cameras`; else the network must learn that by itself, as the published one does.
    """

    observed: int = 2
    executed: int = 4
    horizon: int = 16
    cameras: tuple[str, ...] = ("kinect_2",)
    image_size: tuple[int, int] = (320, 180)  # width, height
    window: tuple[int, int] = (176, 104)
    crop: tuple[int, int] = (160, 96)
    points: bool = True
    rotation: str = "6d"
    frame: str = "palm"
    image_widths: tuple[int, ...] = (32, 48)
    image_strides: tuple[int, ...] = (4, 1)
    feature: int = 128
    widths: tuple[int, ...] = (64, 128, 192)
    kernel: int = 5
    goal_first: bool = True
    attempt: int = 16
    noise: tuple[float, float] = (0.5, 0.3)
    pace: int = 2
    train_steps: int = 100
    sampling_steps: int = 8  # less than train_steps: DDIM in place of DDPM
    midway: bool = True


PAPER = DPConfig(
    executed=8,
    cameras=("kinect_0",),
    window=(320, 180),
    crop=(200, 100),
    points=False,
    rotation="axis_angle",
    frame="world",
    image_widths=(64, 128, 256, 512),
    image_strides=(4, 2, 2, 2),
    feature=512,
    widths=(512, 1024, 2048),
    goal_first=False,
    attempt=0,
    noise=(1.0, 1.0),
    pace=1,
    sampling_steps=100,
    midway=False,
)


class DP(DiffusionPolicy):
    """Looks at `image`, `depth` and `agent_pos`; does not know the goal grasps."""

    needs = ("agent_pos", "image", "depth")
    across: Tensor  # (W,), x of what each column shows at depth 1, camera frame
    down: Tensor  # (H,), y of each row

    def __init__(self, config: DPConfig = DPConfig()) -> None:
        super().__init__()
        self.config = c = config
        if len(c.cameras) != 1:
            raise ValueError(f"DP looks through one camera, got {', '.join(c.cameras)}")
        self.camera = find_cameras(c.cameras, c.image_size)[0]
        inverse = torch.from_numpy(self.camera.intrinsics()).inverse()
        for i, (name, size) in enumerate(zip(("across", "down"), c.image_size, strict=True)):
            rays = inverse[i, i] * torch.arange(size).double() + inverse[i, 2]
            self.register_buffer(name, rays.float(), persistent=False)
        channels, coordinates = (7, 3) if c.points else (4, 2)
        self.encoder = ImageEncoder(
            channels, c.image_widths, c.feature, strides=c.image_strides, coordinates=coordinates
        )
        self._build(c.observed * c.feature + proprioception_size(c.observed, c.rotation, c.frame))

    def kept(self, frame: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `ApproachModel`: the middle of the pictures."""
        corner = self._corner(len(frame["depth"]))
        return {**frame, **{key: self._cropped(frame[key][:, None], corner)[:, 0] for key in ("image", "depth")}}

    def observe(self, seen: Mapping[str, Tensor]) -> Tensor:
        """See `DiffusionPolicy`. In training every window is cropped at random, else in the middle."""
        c = self.config
        corner = self._corner(len(seen["depth"]))
        parts = 1 if self.training else max(1, len(corner) // STEADY)  # so few stay in the processor's cache
        values = (part.tensor_split(parts) for part in (seen["image"], seen["depth"], seen["agent_pos"], corner))
        feature = torch.cat([self._feature(*part) for part in zip(*values, strict=True)])
        return torch.cat((feature, proprioception(seen["agent_pos"], c.rotation, c.frame)), dim=-1)

    def _feature(self, image: Tensor, depth: Tensor, hand: Tensor, corner: Tensor) -> Tensor:
        """What the pictures show, (B, observed * feature)."""
        c = self.config
        image, depth = (self._cropped(pictures, corner) for pictures in (image, depth))
        channels = [image.movedim(-1, 2) / 255, ((depth - _NEAR) / (_FAR - _NEAR)).clamp(0, 1)[:, :, None]]
        points = None
        if c.points:
            across, down = (
                rays[first[:, None] + torch.arange(size, device=rays.device)]
                for rays, first, size in zip((self.across, self.down), corner.to(depth.device).T, c.crop, strict=True)
            )
            channels.append(self._points(hand, depth, across, down))
            points = channels[-1].flatten(0, 1) * _CLOSER
        away = torch.where(depth > _NEAR, depth, 2 * _FAR).flatten(0, 1)
        feature = self.encoder(torch.cat(channels, dim=2).flatten(0, 1), points, away)
        return feature.unflatten(0, depth.shape[:2]).flatten(1)

    def _points(self, hand: Tensor, depth: Tensor, across: Tensor, down: Tensor) -> Tensor:
        """What the pixels show, (B, T, 3, H, W), in metres, in the frame of `policies.hand_vectors`, in the world
        from where objects change hands; no more than 1 m each way. across (B, W), down (B, H): of their rays."""
        pose, _ = split_hand_state(hand)
        eye = self.camera.pose_world(pose).to(depth)
        if self.config.frame == "palm":
            eye = pose_multiply(pose_inverse(pose[:, -1:]), eye)
        else:
            eye = torch.cat((eye[..., :3] - eye.new_tensor(MIDDLE), eye[..., 3:]), dim=-1)
        x, y, z = quat_to_matrix(eye[..., 3:])[..., None, None].unbind(-3)  # axes of the camera, (B, T, 3, 1, 1)
        rays = x * across[:, None, None, None, :] + (y * down[:, None, None, :, None] + z)
        there = torch.addcmul(eye[..., :3, None, None], depth[:, :, None], rays)
        return there.clamp_(-_REACH, _REACH).mul_(depth[:, :, None] > _NEAR)

    def _corner(self, worlds: int) -> Tensor:
        """Left and upper edge of each world's crop (B, 2): in the middle, in training anywhere in the window."""
        c = self.config
        middle = torch.tensor([(size - crop) // 2 for size, crop in zip(c.image_size, c.crop, strict=True)])
        if not self.training:
            return middle.expand(worlds, -1)
        spare = [window - crop for window, crop in zip(c.window, c.crop, strict=True)]
        first = torch.tensor([(size - window) // 2 for size, window in zip(c.image_size, c.window, strict=True)])
        return first + torch.stack([torch.randint(n + 1, (worlds,)) for n in spare], dim=-1)

    def _cropped(self, pictures: Tensor, corner: Tensor) -> Tensor:
        """(B, T, H, W, ...) -> (B, T, *crop, ...), at corner (B, 2); those `kept` are so already."""
        width, height = self.config.crop
        if pictures.shape[2:4] == (height, width):
            return pictures
        if not self.training:
            x, y = corner[0].tolist()
            return pictures[:, :, y : y + height, x : x + width]
        places = zip(pictures, corner.tolist(), strict=True)
        return torch.stack([picture[:, y : y + height, x : x + width] for picture, (x, y) in places])
