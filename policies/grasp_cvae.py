"""Grasps by a conditional variational autoencoder, as DexH2R has it (section 4.1; GraspTTA and RealDex before it).

Training: a PointNet sees the object's cloud, another the hand's surface points; together they give a latent code of 128
numbers, from which, with the object's feature, the grasp is decoded. Losses: the grasp's numbers, its surface points,
depth in the object, distances of what is close to it, and the code's divergence from a normal distribution. Depth and
distances count also for a grasp from a code drawn at random, as in sampling, which the original leaves out. Sampling:
codes are drawn at random, one for each of the rotations proposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, smooth_l1_loss

from dexh2r_gym.grasps.cloud import prepare_cloud
from dexh2r_gym.grasps.generators import NUM_PROPOSALS, Proposals
from policies.grasp_data import GraspBatch, hand_points
from policies.grasp_frame import SIZE, decode, frame_of, palm_in_object, proposal_rotations, turned
from policies.grasp_model import GraspModel
from policies.pointnet import PointNet

_POINT_SCALE = 0.1  # m, of the points a network sees
_HAND_POINTS = 8  # a link, that the encoder and the losses see
_NEAR = 0.01  # m, points of the true hand this close to the object keep their distance


@dataclass(frozen=True)
class CVAEConfig:
    """Sizes of the network, and what counts in its training."""

    num_points: int = 256
    feature: int = 256
    latent: int = 128
    width: int = 512
    points_weight: float = 10.0  # per metre of a surface point's error (mean)
    penetration_weight: float = 10.0  # per metre of depth, of the deepest surface point and of the mean
    distance_weight: float = 20.0  # per metre of error of a close point's distance
    divergence_weight: float = 0.1  # of the code's divergence, a dimension


class GraspCVAE(GraspModel):
    """Takes clouds in the turned frame, metres; see `policies.grasp_frame`."""

    def __init__(self, config: CVAEConfig = CVAEConfig()) -> None:
        super().__init__()
        self.config = c = config
        self.object_net = PointNet((64, 128, c.feature))
        self.hand_net = PointNet((64, 128, c.feature))
        self.encoder = nn.Sequential(nn.Linear(2 * c.feature, c.width), nn.ReLU(), nn.Linear(c.width, 2 * c.latent))
        self.decoder = nn.Sequential(
            nn.Linear(c.latent + c.feature, c.width),
            nn.ReLU(),
            nn.Linear(c.width, c.width),
            nn.ReLU(),
            nn.Linear(c.width, SIZE),
        )

    def loss(self, batch: GraspBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what is trained."""
        c = self.config
        target, scene = batch.grasp[batch.good], batch.scene.select(batch.good)
        true = hand_points(target, _HAND_POINTS)
        feature = self.object_net(batch.cloud[batch.good] / _POINT_SCALE)
        hand = self.hand_net(true / _POINT_SCALE)
        mean, log_variance = self.encoder(torch.cat((feature, hand), dim=-1)).chunk(2, dim=-1)
        log_variance = log_variance.clamp(-10, 10)
        noise, drawn_code = (torch.randn(mean.shape, generator=generator).to(mean.device) for _ in range(2))
        code = mean + (0.5 * log_variance).exp() * noise
        grasp = self.decoder(torch.cat((code, feature), dim=-1))
        made = hand_points(grasp, _HAND_POINTS)
        drawn = self.decoder(torch.cat((drawn_code, feature), dim=-1))
        distance = torch.stack([scene.look_up(hand)[0] for hand in (made, hand_points(drawn, _HAND_POINTS))])
        wanted, _ = scene.look_up(true)
        depth, close = (-distance).clamp_min(0.0), wanted < _NEAR
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return {
            "grasp": smooth_l1_loss(grasp, target, beta=0.1),
            "points": c.points_weight * l1_loss(made, true),
            "penetration": c.penetration_weight * (depth.mean() + depth.amax(-1).mean()),
            "distance": c.distance_weight * ((distance - wanted).abs() * close).sum() / (2 * close.sum()).clamp_min(1),
            "divergence": c.divergence_weight * divergence,
        }

    @torch.no_grad()
    def propose(
        self, points: Tensor, normals: Tensor | None = None, *, num: int = NUM_PROPOSALS, seed: int = 0
    ) -> Proposals:
        """See `dexh2r_gym.grasps.generators.GraspGenerator`."""
        cloud = prepare_cloud(points, normals, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        rotation = proposal_rotations(cloud.points, cloud.normals, num, generator)
        center = cloud.points.mean(0)
        seen = torch.randint(len(cloud.points), (self.config.num_points,), generator=generator)
        seen = seen.unique()  # what is seen twice makes no feature greater
        feature = self.object_net(turned(frame_of(rotation, center), cloud.points[seen]) / _POINT_SCALE)
        code = torch.randn(num, self.config.latent, generator=generator)
        position, joints = decode(self.decoder(torch.cat((code, feature), dim=-1)))
        return Proposals(palm_in_object(rotation, center, position), joints)
