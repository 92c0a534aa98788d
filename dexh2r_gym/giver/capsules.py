"""The giver's hand as 20 capsules: five for the palm, one for every phalanx.

Fitted once to the open hand at rest by least squares (mean square distance of the skin's vertices to the nearest
capsule of a bone that moves them; median 0.4 mm, 95% within 2 mm), then stretched with the shape of each hand. MANO's
hands start from the open hand's capsules and are fitted in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.giver.shape import Capsules

# bone, x0 y0 z0, x1 y1 z1, radius: millimetres, frame of the bone, right hand at rest
_TABLE = (
    (0, -14.7, -1.2, 9.6, -94.4, -1.3, 22.4, 14.5),  # palm below index
    (0, -18.9, 0.4, 1.6, -100.5, 0.5, 1.6, 15.2),  # palm below middle
    (0, -8.1, 0.7, -3.9, -96.1, 1.2, -20.5, 13.6),  # palm below ring
    (0, -11.0, -8.7, -14.9, -76.1, -4.6, -30.8, 15.3),  # palm below pinky
    (0, -12.0, -5.2, 6.3, -59.2, -11.6, 28.3, 19.3),  # ball of the thumb
    (1, -0.2, -1.1, -1.0, -30.0, -0.5, 4.2, 9.6),  # index 1
    (2, -0.6, -2.1, -0.6, -31.5, 0.3, 5.6, 8.2),  # index 2
    (3, -1.2, 0.6, 1.6, -27.5, -3.0, 2.2, 6.8),  # index 3
    (4, 0.0, 1.4, 0.2, -35.0, 0.9, -3.0, 9.9),  # middle 1
    (5, -0.2, -0.8, 1.1, -29.7, 0.7, -2.7, 8.1),  # middle 2
    (6, -0.2, 1.1, 0.6, -27.9, -1.3, -1.9, 6.9),  # middle 3
    (7, 0.1, -0.9, 2.1, -18.8, 0.4, -6.1, 8.0),  # pinky 1
    (8, -0.2, -0.4, 0.5, -17.4, 0.3, -6.8, 6.6),  # pinky 2
    (9, 0.0, -0.5, -0.1, -14.7, -0.1, -4.9, 5.6),  # pinky 3
    (10, -0.2, -0.1, 0.7, -29.0, 0.4, -7.6, 9.2),  # ring 1
    (11, 0.0, -0.1, 0.2, -32.2, 0.0, -9.2, 7.5),  # ring 2
    (12, -0.7, -0.8, -0.3, -19.8, 0.2, -5.3, 6.8),  # ring 3
    (13, 0.0, -0.8, 1.6, -17.8, -6.5, 16.3, 15.6),  # thumb 1
    (14, -1.4, 2.4, 0.1, -28.6, -14.7, 17.0, 10.1),  # thumb 2
    (15, -2.5, -0.2, -1.7, -15.2, -8.3, 6.2, 8.2),  # thumb 3
)  # fmt: skip
NUM_CAPSULES = len(_TABLE)
FIT_STEPS, FIT_STEP = 100, 2e-4  # of Adam; m


def open_capsules() -> Capsules:
    """Capsules of the open right hand of mean shape."""
    table = torch.tensor(_TABLE, dtype=torch.float64)
    return table[:, 0].long(), 1e-3 * table[:, 1:4], 1e-3 * table[:, 4:7], 1e-3 * table[:, 7]


def stretched_capsules(capsules: Capsules, stretch: Tensor) -> Capsules:
    """Capsules of a hand whose bones are stretched about their joints by (16, 3, 3).

    A radius grows as the root of its cross-section: the determinant of the stretch less its part along the capsule.
    """
    bone, p0, p1, radius = capsules
    own = stretch[bone]
    p0, p1, axis = ((own * x[:, None, :]).sum(-1) for x in (p0, p1, torch.nn.functional.normalize(p1 - p0, dim=-1)))
    return bone, p0, p1, radius * (torch.linalg.det(own) / axis.norm(dim=-1)).sqrt()


def fit_capsules(start: Capsules, joints: Tensor, vertices: Tensor, weights: Tensor) -> Capsules:
    """Capsules refitted to a hand at rest: joints (16, 3), vertices (V, 3), weights (V, 16), float64.

    Least squares over ends and radii: of each vertex the distance to the union of the capsules of bones that move it.
    """
    bone = start[0]
    foreign = weights[:, bone] < 0.05  # (V, C)
    local = vertices[:, None] - joints[bone]  # (V, C, 3)
    parameters = torch.cat((start[1], start[2], start[3][:, None]), dim=-1).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=FIT_STEP)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        gap = _distance(local, *parameters.split((3, 3, 1), dim=-1)).masked_fill(foreign, torch.inf).amin(-1)
        (1e6 * gap.square().mean()).backward()
        optimizer.step()
    p0, p1, radius = parameters.detach().split((3, 3, 1), dim=-1)
    return bone, p0, p1, radius.squeeze(-1)


def _distance(points: Tensor, p0: Tensor, p1: Tensor, radius: Tensor) -> Tensor:
    """Signed distance (V, C) of points (V, C, 3) to capsules with ends (C, 3) and radius (C, 1)."""
    along = p1 - p0
    t = (((points - p0) * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return (points - p0 - t[..., None] * along).norm(dim=-1) - radius.squeeze(-1)
