"""Inverse kinematics of the arm, batched: damped least squares between bounds.

Every step solves (J'J + mu) dq = J'e for the joints that are free, e being what is left of position and rotation, and
mu growing with it (Levenberg and Marquardt; Sugihara 2011). A joint that its bound holds back is taken out, so that
the others make up for it as far as they can. A world that has arrived stands still, whatever the others do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dexh2r_gym.arm.kinematics import ARM_RANGE, ArmFrames, arm_frames, palm_jacobian
from dexh2r_gym.rotations import angle_of, quat_to_matrix

ROTATION_WEIGHT = 0.2  # m/rad: an error of 0.2 m counts as much as one of 1 rad
DAMPING, LEAST_DAMPING = 0.1, 1e-8  # mu is the first times the squared error, and the second
ARRIVED = 1e-5  # m, of the weighted error
GREATEST_STEP = 0.5  # rad, of any joint in one step
STOOD = 1e-5  # rad; a world whose joints move less in a step is where it can get
STEPS = 12


def palm_error(frames: ArmFrames, target: Tensor) -> Tensor:
    """What is left to a target (N, 7), in the world frame: (N, 6), m and rad times `ROTATION_WEIGHT`."""
    return _error(frames, target[:, :3], quat_to_matrix(target[:, 3:]).transpose(1, 2))


def _error(frames: ArmFrames, position: Tensor, axes: Tensor) -> Tensor:
    """As `palm_error`; axes (N, 3, 3): the target's, in rows. Right but for half turns, where it is 0."""
    own = torch.stack((frames.x[:, 6], frames.y[:, 6], frames.z[:, 6]), dim=1)
    crossed = 0.5 * torch.linalg.cross(own, axes)
    sine = crossed[:, 0] + crossed[:, 1] + crossed[:, 2]  # (N, 3) the axis times the sine of the angle
    dots = own * axes
    cosine = 0.5 * (dots[:, 0] + dots[:, 1] + dots[:, 2])
    cosine = cosine[:, :1] + cosine[:, 1:2] + cosine[:, 2:] - 0.5
    length = (sine[:, :1].square() + sine[:, 1:2].square() + sine[:, 2:].square()).sqrt()
    scale = torch.where(length > 1e-9, angle_of(length, cosine) / length.clamp_min(1e-9), 1.0)
    return torch.cat((position - frames.palm, ROTATION_WEIGHT * scale * sine), dim=-1)


def solve(
    joints: Tensor, target: Tensor, lower: Tensor | None = None, upper: Tensor | None = None, steps: int = STEPS
) -> Tensor:
    """Joints (N, 6) that bring the palm to the targets (N, 7), or as near as they come.

    joints: (N, 6) rad, to begin from. lower, upper: bounds (N, 6) within which joints stay; by default their ranges.
    """
    lower = -ARM_RANGE.to(joints).expand_as(joints) if lower is None else lower
    upper = ARM_RANGE.to(joints).expand_as(joints) if upper is None else upper
    weight = joints.new_tensor([1.0] * 3 + [ROTATION_WEIGHT] * 3)[:, None]
    axes = quat_to_matrix(target[:, 3:]).transpose(1, 2)
    joints, running = joints.clone(), torch.arange(len(joints))
    for _ in range(steps):
        q, low, high = joints[running], lower[running], upper[running]
        frames = arm_frames(q)
        error = _error(frames, target[running, :3], axes[running])
        squared = (error * error).sum(-1)
        far = squared > ARRIVED**2
        if not far.all():
            running, q, low, high, error, squared = (v[far] for v in (running, q, low, high, error, squared))
            frames = ArmFrames(*(part[far] for part in frames))
        if len(running) == 0:
            break
        jacobian = weight * palm_jacobian(frames)  # (n, 6, 6)
        wish = (jacobian * error[:, :, None]).sum(1)  # J'e
        free = ~(((q <= low) & (wish < 0)) | ((q >= high) & (wish > 0)))
        jacobian = jacobian * free[:, None]
        normal = (jacobian[:, :, :, None] * jacobian[:, :, None, :]).sum(1)
        mu = DAMPING * squared + LEAST_DAMPING
        normal = normal + torch.diag_embed(torch.where(free, mu[:, None], 1.0))
        factor, _ = torch.linalg.cholesky_ex(normal)
        step = torch.cholesky_solve((wish * free)[..., None], factor)[..., 0]
        step = step / (step.abs().amax(-1, keepdim=True) / GREATEST_STEP).clamp_min(1.0)
        new = torch.minimum(torch.maximum(q + step, low), high)
        joints[running] = new
        running = running[(new - q).abs().amax(dim=-1) > STOOD]
    return joints
