"""Isaac Gym Preview 4, which lives in Python 3.8: driven through a worker process in the user's own interpreter.

The worker is `isaacgym_worker.py`, the process that runs it `isaacgym_process.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dexh2r_gym.giver import GiverHand
from dexh2r_gym.objects import ObjectModel
from dexh2r_gym.rotations import quat_rotate
from dexh2r_gym.sim import Pair
from dexh2r_gym.sim.isaacgym_assets import write_scene
from dexh2r_gym.sim.isaacgym_process import DEVICE_VARIABLE, STATE, WorkerProcess, find_python
from dexh2r_gym.types import MAX_SPEED, SceneState


class IsaacGymSimulator:
    """See `dexh2r_gym.sim.Simulator`.

    Isaac Gym cannot change the shapes of an actor once it runs, so every world has the actors of all objects and givers
    known, all but its own parked. The worker is started by the first reset with those that have been prepared by then;
    when a world is reset to one it lacks, a new worker takes over, and the other worlds go on from where they are.

    `contact_speed` is that of the links and bones that touch, not of the points where they do. Friction, mass and
    strength are the same in all episodes: Isaac Gym's tensors do not reach them.
    """

    def __init__(self, num_worlds: int, dt: float, num_threads: int = 0) -> None:
        n = num_worlds
        self._python = find_python()
        self._device = os.environ.get(DEVICE_VARIABLE, "cuda:0")
        if self._device != "cpu" and not self._device.startswith("cuda:"):
            raise ValueError(f"{DEVICE_VARIABLE} is {self._device!r}; valid: cpu, cuda:0, cuda:1 ...")
        self._num_worlds, self._dt, self._num_threads = n, dt, num_threads
        self._objects: dict[ObjectModel, int] = {}
        self._givers: dict[GiverHand, int] = {}
        self._pairs: list[Pair] = []
        self._worker: WorkerProcess | None = None
        self._known = (0, 0)  # how many objects and givers the worker has
        self._started = torch.zeros(n, dtype=torch.bool)
        self._center = torch.zeros(n, 3, dtype=torch.float64)  # of mass, object frame
        self.state = SceneState.blank(n)

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """See `dexh2r_gym.sim.Simulator`."""
        for obj, giver in pairs:
            self._objects.setdefault(obj, len(self._objects))
            self._givers.setdefault(giver, len(self._givers))
        self._pairs += pairs

    def reset(
        self,
        worlds: Tensor,
        pair: Tensor,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        factors: Tensor | None = None,
    ) -> None:
        """See `dexh2r_gym.sim.Simulator`. ValueError for factors."""
        if factors is not None:
            raise ValueError("Isaac Gym's tensors do not reach friction, mass and strength: no factors can be set")
        pairs = [self._pairs[i] for i in pair.tolist()]
        objects = torch.tensor([self._objects[obj] for obj, _ in pairs])
        givers = torch.tensor([self._givers[giver] for _, giver in pairs])
        if self._worker is None or int(objects.max()) >= self._known[0] or int(givers.max()) >= self._known[1]:
            self._start_worker(self._started.index_fill(0, worlds, False))
        assert self._worker is not None
        self._center[worlds] = torch.tensor(np.stack([obj.center_of_mass for obj, _ in pairs]))
        arrays, rows = self._worker.arrays, worlds.numpy()
        arrays["mask"][:] = False
        arrays["mask"][rows] = True
        arrays["object"][rows], arrays["giver"][rows] = objects, givers
        arrays["hand_target"][rows], arrays["joint_target"][rows] = hand_pose, joints
        arrays["object_target"][rows] = self._to_mass(object_pose, worlds)
        arrays["giver_target"][rows] = giver_bones
        arrays["held"][rows] = True
        self._worker.call("reset")
        self._started[worlds] = True
        s = self.state  # at rest: Isaac Gym shows what was set only after it has moved
        s.hand_pose[worlds], s.object_pose[worlds] = hand_pose, object_pose
        s.hand_joints[worlds] = joints.double()
        for value in (s.hand_velocity, s.object_velocity, s.giver_force, s.giver_peak, s.giver_impulse):
            value[worlds] = 0
        s.contact_speed[worlds], s.load[worlds], s.diverged[worlds] = 0, 0, False

    def grip(self, worlds: Tensor) -> None:
        """Nothing to do: contacts are always solved as closely as they ever are."""

    def step(
        self,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        active: Tensor,
        held: Tensor,
    ) -> None:
        """See `dexh2r_gym.sim.Simulator`. IsaacGymError where the worker has died or does not answer."""
        assert self._worker is not None, "reset comes before step"
        on = active & ~self.state.diverged
        if not on.any():
            return
        arrays = self._worker.arrays
        arrays["hand_target"][...], arrays["joint_target"][...] = hand_pose, joints
        arrays["object_target"][...] = self._to_mass(object_pose, slice(None))
        arrays["giver_target"][...] = giver_bones
        arrays["mask"][...], arrays["held"][...] = on, held
        self._worker.call("step")
        self._read(on)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
            self._started[:] = False

    def _start_worker(self, keep: Tensor) -> None:
        """A worker that knows all objects and givers; worlds (B,) bool to be kept go on in it."""
        old, worker = self._worker, WorkerProcess(self._python, self._num_worlds)
        try:
            if old is not None and keep.any():
                old.call("save")
                for name, array in old.arrays.items():
                    worker.arrays[name][...] = array
            worker.check()
            write_scene(worker.folder, list(self._objects), list(self._givers))
            everything = [list(range(len(self._objects))), list(range(len(self._givers)))]
            worker.start([everything] * self._num_worlds, self._dt, self._device, self._num_threads)
            if old is not None and keep.any():
                worker.arrays["mask"][...] = keep
                worker.call("restore")
        except BaseException:
            worker.close()
            raise
        self.close()
        self._started, self._worker = keep.clone(), worker
        self._known = len(self._objects), len(self._givers)

    def _to_mass(self, object_pose: Tensor, worlds: Tensor | slice) -> Tensor:
        """Poses (n, 7) of objects in worlds (n,) -> those of their centres of mass, in which Isaac Gym has them."""
        shift = quat_rotate(object_pose[:, 3:], self._center[worlds])
        return torch.cat((object_pose[:, :3] + shift, object_pose[:, 3:]), dim=-1)

    def _read(self, on: Tensor) -> None:
        """State of the worlds that moved, (B,) bool; those whose numbers are not physics any more keep the last."""
        assert self._worker is not None
        new = {name: torch.from_numpy(self._worker.arrays[name].astype(np.float64)) for name in STATE}
        for name in ("hand_pose", "object_pose"):
            new[name][:, 3:] /= new[name][:, 3:].norm(dim=-1, keepdim=True)
        shift = quat_rotate(new["object_pose"][:, 3:], self._center)
        new["object_pose"][:, :3] -= shift
        new["object_velocity"][:, :3] -= torch.linalg.cross(new["object_velocity"][:, 3:], shift)
        numbers = torch.cat([value.reshape(len(on), -1) for value in new.values()], dim=-1)
        speed = torch.cat((new["hand_velocity"], new["object_velocity"]), dim=-1).abs().amax(dim=-1)
        s = self.state
        s.diverged = s.diverged | (on & (~torch.isfinite(numbers).all(dim=-1) | ~(speed < MAX_SPEED)))
        for name, value in new.items():
            last = getattr(s, name)
            shape = (-1, *[1] * (last.ndim - 1))
            lasting = torch.zeros_like(last) if not name.endswith(("pose", "joints")) else last
            now = torch.where(s.diverged.view(shape), lasting, value.view_as(last))
            setattr(s, name, torch.where(on.view(shape), now, last))
