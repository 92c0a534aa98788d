"""Grasps by diffusion with physics guidance, after DexGraspAnything (Zhong et al., CVPR 2025).

A network learns to clean noisy grasps, 25 numbers in the turned frame. It sees the object twice: as distances from
fixed places around the object's middle, and as distances and slopes of its surface at points of the noisy hand itself.
Sampling starts from noise, one grasp for each of the rotations proposed; each step cleans, and in the last steps the
cleaned grasps are also moved down an energy: pads are pulled to the surface (surface pulling, with balanced forces),
the hand is pushed out of the object (external penetration) and its parts off one another (self-penetration).

More grasps are begun than wanted. A second network, that learned from the good and the bad of the search which grasps
stay stable, judges them before guidance begins, so that the most promising go on, and once more at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, mse_loss

from dexh2r_gym.grasps.cloud import prepare_cloud
from dexh2r_gym.grasps.energy import EnergyWeights, GraspEnergy
from dexh2r_gym.grasps.field import DistanceField, FieldStack
from dexh2r_gym.grasps.generators import NUM_PROPOSALS, Proposals
from policies.grasp_data import GraspBatch, Scene, hand_points
from policies.grasp_frame import SIZE, decode, encode, frame_of, palm_in_object, proposal_rotations
from policies.grasp_model import GraspModel

_HAND_POINTS = 6  # a link, at which the network sees the object
_LINKS = 18
_SIGHT = 0.05  # m, distances from the hand beyond this look alike
_BASIS_RADIUS = 0.16  # m
_BASIS_SCALE = 0.1  # m
_JUDGE_WEIGHT = 0.1


@dataclass(frozen=True)
class Guidance:
    """How sampling follows the energy."""

    denoising_steps: int = 12
    guided_steps: int = 3  # the last of them, at least 1, in which the cleaned grasp follows the energy
    descents: int = 5  # of the energy in each guided step
    surplus: float = 6.0  # how many times as many grasps are begun as are wanted
    spare: float = 1.3  # how many times as many are guided to the end
    final_descents: int = 35  # after the last step
    rate: float = 0.03  # of Adam, in the 25 numbers
    weights: EnergyWeights = field(default_factory=EnergyWeights)


@dataclass(frozen=True)
class DiffusionConfig:
    """Sizes of the network and its noise."""

    train_steps: int = 100  # of noise
    basis: int = 256  # places around the middle from which the object's distance is seen
    feature: int = 128
    width: int = 448
    blocks: int = 4
    samples: int = 4  # noisy grasps made of each in a training batch


class _Block(nn.Module):
    """Residual layers, scaled and shifted by the condition."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


class GraspDiffusion(GraspModel):
    """Takes objects as distance fields, seen from the turned frame; see `policies.grasp_frame`."""

    basis: Tensor

    def __init__(self, config: DiffusionConfig = DiffusionConfig(), guidance: Guidance = Guidance()) -> None:
        super().__init__()
        self.config, self.guidance = config, guidance
        c = config
        self.scheduler = DDIMScheduler(
            num_train_timesteps=c.train_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,
        )
        places = torch.randn(c.basis, 3, generator=torch.Generator().manual_seed(0))
        radius = torch.linspace(0.0, 1.0, c.basis)[:, None] ** (1 / 3) * _BASIS_RADIUS
        self.register_buffer("basis", torch.nn.functional.normalize(places, dim=-1) * radius)
        self.object_net = nn.Sequential(nn.Linear(c.basis, c.width), nn.SiLU(), nn.Linear(c.width, c.feature))
        self.time_net = nn.Sequential(
            nn.Embedding(c.train_steps, c.feature), nn.SiLU(), nn.Linear(c.feature, c.feature)
        )
        seen = 4 * _LINKS * _HAND_POINTS
        self.start = nn.Linear(SIZE + seen, c.width)
        self.blocks = nn.ModuleList(_Block(c.width, 2 * c.feature) for _ in range(c.blocks))
        self.end = nn.Linear(c.width, SIZE)
        self.judge_net = nn.Sequential(
            nn.Linear(SIZE + seen + c.feature, c.width // 2),
            nn.SiLU(),
            nn.Linear(c.width // 2, c.width // 2),
            nn.SiLU(),
            nn.Linear(c.width // 2, 2),
        )

    def extra_repr(self) -> str:
        """See `GraspModel`."""
        return f"{self.config}, {self.guidance}"

    def see(self, scene: Scene) -> Tensor:
        """The object's feature (B, feature)."""
        distance, _ = scene.look_up(self.basis.expand(len(scene.index), -1, 3))
        return self.object_net(distance / _BASIS_SCALE)

    def forward(self, noisy: Tensor, time: Tensor, feature: Tensor, scene: Scene) -> Tensor:
        """Clean grasps (B, 25) of noisy ones (B, 25) at times (B,) long, for the objects of B scenes."""
        condition = torch.cat((feature, self.time_net(time)), dim=-1)
        x = self.start(_felt(noisy, scene))
        for block in self.blocks:
            x = block(x, condition)
        return self.end(x)

    def judge(self, grasp: Tensor, feature: Tensor, scene: Scene) -> Tensor:
        """Logits (B, 2) that grasps (B, 25) are stable under all six pushes, and under at least one."""
        return self.judge_net(torch.cat((_felt(grasp, scene), feature), dim=-1))

    def loss(self, batch: GraspBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name; their sum is what is trained."""
        seen = self.see(batch.scene)
        judged = self.judge(batch.grasp, seen, batch.scene)
        rows = batch.good.nonzero().squeeze(1).repeat(self.config.samples)
        feature, scene, grasp = seen[rows], batch.scene.select(rows), batch.grasp[rows]
        time = torch.randint(self.config.train_steps, (len(grasp),), generator=generator).to(grasp.device)
        noise = torch.randn(grasp.shape, generator=generator).to(grasp.device)
        noisy = self.scheduler.add_noise(grasp, noise, time)
        return {
            "grasp": mse_loss(self(noisy, time, feature, scene), grasp),
            "judge": _JUDGE_WEIGHT * binary_cross_entropy_with_logits(judged, batch.stable.to(judged)),
        }

    def propose(
        self, points: Tensor, normals: Tensor | None = None, *, num: int = NUM_PROPOSALS, seed: int = 0
    ) -> Proposals:
        """See `dexh2r_gym.grasps.generators.GraspGenerator`."""
        cloud = prepare_cloud(points, normals, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        guide = self.guidance
        count = max(num, round(guide.surplus * num))
        kept = min(count, max(num, round(guide.spare * num)))
        rotation = proposal_rotations(cloud.points, cloud.normals, count, generator)
        field_ = DistanceField.of_cloud(cloud.points, cloud.normals)
        index = torch.zeros(count, dtype=torch.long)
        scene = Scene(FieldStack([field_]), index, frame_of(rotation, cloud.points.mean(0)))
        energy = GraspEnergy(field_, kept, guide.weights)
        self.scheduler.set_timesteps(guide.denoising_steps)
        with torch.no_grad():
            feature = self.see(scene)
        grasp = torch.randn(count, SIZE, generator=generator)
        for number, time in enumerate(self.scheduler.timesteps, start=guide.guided_steps - guide.denoising_steps):
            with torch.no_grad():
                clean = self(grasp, time.expand(len(grasp)), feature, scene)
                if number == 0:
                    best = self._best(kept, clean, feature, scene)
                    grasp, clean, feature, scene = grasp[best], clean[best], feature[best], scene.select(best)
            if number >= 0:
                clean = self._descend(clean, guide.descents, energy, scene.frame)
            grasp = self.scheduler.step(clean, time, grasp, return_dict=False)[0]
        grasp = self._descend(grasp, guide.final_descents, energy, scene.frame)
        best = self._best(num, grasp, feature, scene)
        (position, joints), frame = decode(grasp[best]), scene.frame[best]
        return Proposals(palm_in_object(frame[:, 3:], frame[:, :3], position), joints)

    @torch.no_grad()
    def _best(self, count: int, grasp: Tensor, feature: Tensor, scene: Scene) -> Tensor:
        """Which of the grasps (B, 25) are most likely stable, (count,) rows in their order."""
        promise = logsigmoid(self.judge(grasp, feature, scene)).sum(-1)
        return promise.topk(count).indices.sort().values

    def _descend(self, grasp: Tensor, steps: int, energy: GraspEnergy, frame: Tensor) -> Tensor:
        """Grasps (B, 25) after so many steps down the energy."""
        position, joints = (x.clone().requires_grad_() for x in decode(grasp))
        optimizer = torch.optim.Adam(
            [{"params": [position], "lr": self.guidance.rate / 12}, {"params": [joints], "lr": self.guidance.rate}]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1), eta_min=self.guidance.rate / 60)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                energy(palm_in_object(frame[:, 3:], frame[:, :3], position), joints).sum().backward()
                optimizer.step()
                schedule.step()
        return encode(position.detach(), joints.detach())


def _felt(grasp: Tensor, scene: Scene) -> Tensor:
    """Grasps (B, 25) with distance and slope of the object at points of their hands. -> (B, 25 + 4 * 108)"""
    with torch.no_grad():
        distance, slope = scene.look_up(hand_points(grasp, _HAND_POINTS))
    return torch.cat((grasp, (distance / _SIGHT).clamp(-1, 1), slope.flatten(1)), dim=-1)
