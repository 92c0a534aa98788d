"""Thousands of worlds of contact physics on a GPU: MuJoCo Warp, all worlds in one batch. Runs without one, slowly.

Its numbers are single precision. A step, and a reset by mask, are queued without waiting for the device.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor
from tqdm import tqdm

from dexh2r_gym.devices import SLOWLY, missing_cuda
from dexh2r_gym.scene import SUBSTEPS_PER_SECOND
from dexh2r_gym.sim import Pair
from dexh2r_gym.sim.layout import NUM_TARGETS, Layout, firm_friction, no_touch, unsound
from dexh2r_gym.sim.randomise import SCALED, scale_physics
from dexh2r_gym.sim.union import DIFFERS, Union
from dexh2r_gym.types import NUM_JOINTS, SceneState
from dexh2r_gym.worlds import put_, take

CONTACTS = 48  # room a world, for pairs of geoms that are near each other and for contacts; all worlds share it
CONVEX = 2 / 3  # part of that room for pairs with a mesh, each of which takes 7 kB
CONSTRAINTS = 384  # room in each world: rows of contacts, joint limits and the weld
SPARE_CONTACTS = 256  # beside those, for few worlds


class MjwarpSimulator:
    """See `dexh2r_gym.sim.Simulator`; how targets move within a frame: `Layout.targets`.

    A world in which more touches than there is room for has diverged.

    Args:
        device: of torch: "cpu", "cuda", "cuda:1" ... State and arguments are there.
        grips: whether `grip` can be called, which doubles the time: MuJoCo Warp solves friction in all worlds alike,
            so each substep is solved both ways, and every world takes its own.

    Raises:
        RuntimeError: there is no such device.
    """

    def __init__(self, num_worlds: int, dt: float, device: torch.device | str = "cpu", *, grips: bool = False):
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        self._device = find_device(device)
        self._dt = dt
        self._num_substeps = max(1, round(dt * SUBSTEPS_PER_SECOND))
        self._num_worlds = n = num_worlds
        self._grips = grips
        self._pairs: list[Pair] = []
        self._row: list[int] = []  # of each pair, in the tables
        self._rows: dict[tuple[int, int], int] = {}
        self._known = 0  # rows that the tables have
        self._union: Union | None = None
        self._data: Any = None  # of MuJoCo Warp
        self._graph: Any = None  # of a frame, on a GPU
        self._of = self._zeros(n, dtype=torch.long)  # row of each world
        self._factors = self._zeros(n, 3) + 1.0
        # where each mocap body was told to be at the end of the last frame, and the joints
        self._last = self._zeros(n, NUM_TARGETS, 7)
        self._last[..., 3] = 1
        self._last_joints = self._zeros(n, NUM_JOINTS)
        self._touch = no_touch(n, self._device)
        self._diverged = self._zeros(n, dtype=torch.bool)
        self.state: SceneState

    def _zeros(self, *size: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(*size, dtype=dtype, device=self._device)

    def prepare(self, pairs: Sequence[Pair]) -> None:
        """See `dexh2r_gym.sim.Simulator`. Best all objects are told of at first: new ones cost a second."""
        for obj, giver in pairs:
            self._row.append(self._rows.setdefault((id(obj), id(giver)), len(self._rows)))
            if self._row[-1] == len(self._pairs):
                self._pairs.append((obj, giver))
        self._row_of = torch.tensor(self._row, device=self._device)

    def _build(self) -> None:
        """Tables of all pairs known, and where there are new meshes the model in which every world has its row."""
        union = Union.of(self._pairs, self._dt / self._num_substeps, self._union)
        model, known = union.model, self._union is not None and self._union.model is union.model
        self._union, self._known = union, len(self._pairs)
        tables = {name: table.to(self._device, torch.float32) for name, table in union.values.items()}
        for name in SCALED:
            if name not in DIFFERS and name != "dof_M0":  # the same for all pairs
                value = torch.from_numpy(getattr(model, name)).to(self._device, torch.float32)
                tables[name] = value.expand(len(self._pairs), *value.shape)
        tables["geom_dataid"] = union.geom_dataid.to(self._device)
        if not known:
            self._put_model(model, list(tables))
        self._tables = {name: table.reshape(-1, *self._fields[name].shape[1:]) for name, table in tables.items()}
        self._dress(torch.arange(self._num_worlds, device=self._device))

    def _put_model(self, model: mujoco.MjModel, varied: list[str]) -> None:
        """Bring a model to the device, with arrays of its own for every world of what varies."""
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)  # there is none here
        self._layout = Layout.of(model, self._device)
        with wp.ScopedDevice(str(self._device)):
            self._model = mjw.put_model(model, batch_sizes=dict.fromkeys(varied, self._num_worlds))
            self._model.opt.warn_overflow = 0  # `step` looks itself
            if self._grips:
                firm = copy.copy(model)
                firm_friction(firm)
                # its options; all arrays are those of the one model
                self._firm_model = replace(self._model, opt=mjw.put_model(firm).opt)
                self._firm_model.opt.warn_overflow = 0
            if self._data is None:
                self._start(model)
            wp.synchronize_device()  # torch has a queue of its own
        self._fields = {name: wp.to_torch(getattr(self._model, name)) for name in varied}
        self._graph = None

    def _start(self, model: mujoco.MjModel) -> None:
        """State of all worlds, which stays when the model is built anew."""
        n, k = self._num_worlds, self._num_substeps
        contacts = n * CONTACTS + SPARE_CONTACTS
        self._data = data = mjw.make_data(
            model, nworld=n, naconmax=contacts, naccdmax=int(CONVEX * contacts), njmax=CONSTRAINTS
        )
        self._qpos, self._qvel, self._warm = map(wp.to_torch, (data.qpos, data.qvel, data.qacc_warmstart))
        self._gripping = wp.zeros(n, dtype=bool)
        self._grip = wp.to_torch(self._gripping)
        if self._grips:  # of a substep: the state before it, and state and sensors after it with firm friction
            self._states = (data.qpos, data.qvel, data.qacc_warmstart)
            self._before = [wp.zeros_like(x) for x in self._states]
            self._firm = [wp.zeros_like(x) for x in (*self._states, data.sensordata)]
        self._overflow, self._weld = wp.to_torch(data.overflow), wp.to_torch(data.eq_active)
        # of every substep, as wp arrays and as views of them: what is told, what is sensed
        self._told = [wp.zeros((k, *x.shape), dtype=x.dtype) for x in (data.mocap_pos, data.mocap_quat, data.ctrl)]
        self._sensed = wp.zeros((k, *data.sensordata.shape), dtype=float)
        self._plan = [wp.to_torch(x) for x in self._told]
        self._felt = wp.to_torch(self._sensed)

    def _dress(self, worlds: Tensor) -> None:
        """Give these worlds the numbers of their pairs and factors."""
        row = take(self._of, worlds)
        values = {name: table[row] for name, table in self._tables.items()}
        scale_physics(self._layout, values, take(self._factors, worlds))
        for name, field in self._fields.items():
            put_(field, worlds, values[name])

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
        """See `dexh2r_gym.sim.Simulator`."""
        put_(self._of, worlds, self._row_of[pair])
        put_(self._factors, worlds, 1.0 if factors is None else factors)
        if self._known < len(self._pairs):
            self._build()
        else:
            self._dress(worlds)
        at, poses = self._layout, torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones), dim=1)
        put_(self._last, worlds, poses)
        put_(self._last_joints, worlds, joints.double())
        qpos = self._qpos.new_zeros(len(pair), self._qpos.shape[1])
        qpos[:, at.palm_q], qpos[:, at.object_q], qpos[:, at.joint_q] = (
            x.to(qpos) for x in (hand_pose, object_pose, joints)
        )
        put_(self._qpos, worlds, qpos)
        for value in (self._qvel, self._warm, *self._touch.values()):
            put_(value, worlds, 0)
        put_(self._diverged, worlds, False)
        put_(self._grip, worlds, False)
        self._read_state()

    def grip(self, worlds: Tensor) -> None:
        """See `dexh2r_gym.sim.Simulator`."""
        if not self._grips:
            raise ValueError("this simulator was made without grips")
        put_(self._grip, worlds, True)

    def step(
        self,
        hand_pose: Tensor,
        joints: Tensor,
        object_pose: Tensor,
        giver_bones: Tensor,
        active: Tensor,
        held: Tensor,
    ) -> None:
        on = active & ~self._diverged
        target = torch.cat((hand_pose[:, None], object_pose[:, None], giver_bones), dim=1)
        plan = self._layout.targets(self._last, target, self._last_joints, joints, self._num_substeps, self._dt)
        rows = (self._layout.mocap, self._layout.mocap, self._layout.joint_u)
        for told, value, row in zip(self._plan, plan, rows, strict=True):
            told[:, :, row] = value.transpose(0, 1).float()
        self._weld[:, 0] = held
        states = (self._qpos, self._qvel, self._warm)
        before = [value.clone() for value in states]
        self._overflow.zero_()
        self._run()
        bad = unsound(self._qpos, self._qvel) | ((self._overflow & _dropped()) != 0)
        self._diverged = self._diverged | (on & bad)
        for value, old in zip(states, before, strict=True):
            put_(value, ~on | bad, old)
        felt = self._layout.touch(self._felt.transpose(0, 1).double(), self._dt)
        for name, value in self._touch.items():
            put_(value, on, felt[name])
        put_(self._last, on, target)
        put_(self._last_joints, on, joints)
        self._read_state()

    def close(self) -> None:
        """See `dexh2r_gym.sim.Simulator`. Nothing is held outside of this process."""

    def _run(self) -> None:
        """One frame of all worlds: kernel by kernel at first, then on a GPU as a graph, in torch's queue."""
        if self._device.type == "cpu":
            with wp.ScopedDevice("cpu"), kernels_being_built():
                self._substeps()
            return
        stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
        if self._graph is not None:
            wp.capture_launch(self._graph, stream=stream)
            return
        with wp.ScopedDevice(str(self._device)):
            with wp.ScopedStream(stream), kernels_being_built():  # kernels have to be there before they are captured
                self._substeps()
            wp.synchronize_device()
            with wp.ScopedCapture() as capture:  # in Warp's own queue: torch's cannot be captured
                self._substeps()
        self._graph = capture.graph

    def _substeps(self) -> None:
        data = self._data
        assert data is not None, "reset comes before step"
        for i in range(self._num_substeps):
            for out, told in zip((data.mocap_pos, data.mocap_quat, data.ctrl), self._told, strict=True):
                wp.copy(out, told[i])
            # the weld needs this step's velocities: `step` computes them after it, of itself it takes the last step's
            mjw.fwd_kinematics(self._model, data)
            mjw.com_vel(self._model, data)
            if self._grips:
                self._step_firmly()
            mjw.step(self._model, data)
            if self._grips:
                for out, firm in zip((*self._states, data.sensordata), self._firm, strict=True):
                    wp.launch(_choose, out.shape, inputs=[self._gripping, firm], outputs=[out])
            wp.copy(self._sensed[i], data.sensordata)

    def _step_firmly(self) -> None:
        """What a substep with friction as for a firm grip comes to, kept aside; the state stays as it is."""
        for kept, value in zip(self._before, self._states, strict=True):
            wp.copy(kept, value)
        mjw.step(self._firm_model, self._data)
        for kept, value in zip(self._firm, (*self._states, self._data.sensordata), strict=True):
            wp.copy(kept, value)
        for kept, value in zip(self._before, self._states, strict=True):
            wp.copy(value, kept)

    def _read_state(self) -> None:
        qpos, qvel, before = self._qpos.double(), self._qvel.double(), getattr(self, "state", None)
        self.state = self._layout.state(qpos, qvel, self._touch, self._diverged, before)


@wp.kernel
def _choose(gripping: wp.array[bool], firm: wp.array2d[float], out: wp.array2d[float]):
    """What was solved firmly, where a world grips."""
    world, i = wp.tid()  # type: ignore[misc]
    if gripping[world]:
        out[world, i] = firm[world, i]  # type: ignore[index]


def find_device(device: torch.device | str) -> torch.device:
    """A device of torch on which Warp runs too.

    Raises:
        RuntimeError: there is none of that name; the message says what is missing.
    """
    found = torch.device(device)
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise RuntimeError(f"backend 'mjwarp' runs on 'cuda' and 'cpu', not on {str(found)!r}")
    if not torch.cuda.is_available():
        raise RuntimeError(missing_cuda(found))
    if not wp.is_cuda_available():
        raise RuntimeError(f"device {str(found)!r} needs a newer driver: Warp {wp.__version__} finds no CUDA; {SLOWLY}")
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= torch.cuda.device_count():
        raise RuntimeError(
            f"there is no device {str(found)!r}: PyTorch finds {torch.cuda.device_count()} GPUs; {SLOWLY}"
        )
    return torch.device("cuda", index)


@contextmanager
def kernels_being_built() -> Iterator[None]:
    """Show how kernels are built, where it takes long: minutes at first use; Warp keeps them for the next time."""
    with tqdm(desc="building kernels, kept for next time", unit="kernel", delay=2, leave=False) as bar:

        class Progress:
            """Counts the modules that are loaded; see `warp.Logger`."""

            def info(self, message: str) -> None:
                bar.update()

            def debug(self, message: str) -> None:
                pass

            def warning(self, message: str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
                warnings.warn(message, category, stacklevel=stacklevel + 1)

            def error(self, message: str) -> None:
                bar.write(message)

        with wp.ScopedLogger(Progress()), wp.ScopedLogLevel(wp.LOG_INFO):
            yield


def _dropped() -> int:
    """Flags of MuJoCo Warp that say that a contact found no room."""
    kind = mjw.OverflowType
    return int(kind.NEFC | kind.NJMAX_NNZ | kind.BROADPHASE | kind.NARROWPHASE | kind.CCD | kind.CONTACT_MATCH)
