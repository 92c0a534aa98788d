"""The process in which Isaac Gym runs: found, started, spoken to, and ended without leaving anything behind.

It is told by lines of JSON what to do, and shares one block of memory with us for the arrays; its last words are kept
for errors. It ends when `close` is called, when nobody uses it any more, and when our process ends, however it does.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dexh2r_gym.types import GIVER_PARTS, HAND_STATE_SIZE, NUM_GIVER_JOINTS, NUM_JOINTS

PYTHON_VARIABLE = "DEXH2R_ISAACGYM_PYTHON"
DEVICE_VARIABLE = "DEXH2R_ISAACGYM_DEVICE"
SUPPORTED_PYTHON = ((3, 8),)
SUPPORTED_ISAACGYM = ("1.0rc4", "1.0.preview4")  # what Preview 4 calls itself
PROBE_TIMEOUT, IMPORT_TIMEOUT, START_TIMEOUT, CALL_TIMEOUT = 60.0, 300.0, 1800.0, 300.0  # s
_WORKER = Path(__file__).with_name("isaacgym_worker.py")
_LOG_LINES = 12
_HOW = (
    "Isaac Gym Preview 4 runs in Python 3.8: `conda create -n isaacgym python=3.8`, download it from "
    "https://developer.nvidia.com/isaac-gym, `pip install -e isaacgym/python` in that environment, and set "
    f"{PYTHON_VARIABLE} to its interpreter, such as ~/miniconda3/envs/isaacgym/bin/python"
)


STATE: dict[str, tuple[int, ...]] = {
    "hand_pose": (7,),
    "hand_joints": (NUM_JOINTS,),
    "hand_velocity": (HAND_STATE_SIZE,),
    "object_pose": (7,),
    "object_velocity": (6,),
    "giver_force": (),
    "giver_peak": (len(GIVER_PARTS),),
    "giver_impulse": (len(GIVER_PARTS),),
    "contact_speed": (),
    "load": (3,),
}
ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "mask": ("bool", ()),
    "held": ("bool", ()),
    "object": ("int64", ()),
    "giver": ("int64", ()),
    "hand_target": ("float32", (7,)),
    "joint_target": ("float32", (NUM_JOINTS,)),
    "object_target": ("float32", (7,)),
    "giver_target": ("float32", (NUM_GIVER_JOINTS, 7)),
    "saved_place": ("float32", (2 + NUM_GIVER_JOINTS, 7)),
    "saved_joints": ("float32", (NUM_JOINTS,)),
    "saved_dofs": ("float32", (6 + NUM_JOINTS, 2)),
    "saved_free": ("float32", (13,)),
    **{name: ("float32", shape) for name, shape in STATE.items()},
}  # what is shared with the worker, each (B, ...)


class IsaacGymError(RuntimeError):
    """Isaac Gym cannot be had, or its worker has failed; the message says what is missing and how to get it."""


class WorkerProcess:
    """The worker, its arrays and its folder.

    Attributes:
        arrays: by name, see `ARRAYS`. folder: temporary, for what it is to read. pid: of the process.
    """

    def __init__(self, python: str, num_worlds: int) -> None:
        self._python = python
        self.folder = Path(tempfile.mkdtemp(prefix="dexh2r-isaacgym-"))
        self._layout, size = {}, 0
        for name, (dtype, shape) in ARRAYS.items():
            self._layout[name] = (dtype, (num_worlds, *shape), size)
            size += -(-np.dtype(dtype).itemsize * int(np.prod((num_worlds, *shape))) // 64) * 64
        shared = Path("/dev/shm")
        where = shared if os.access(shared, os.W_OK) else self.folder
        with tempfile.NamedTemporaryFile(prefix="dexh2r-isaacgym-", dir=where, delete=False) as file:
            file.truncate(size)
            self._memory_path = Path(file.name)
            memory = mmap.mmap(file.fileno(), size)
        self.arrays = {
            name: np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)
            for name, (dtype, shape, offset) in self._layout.items()
        }
        self._log = self.folder / "worker.log"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONHOME"}
        libraries = str(Path(python).parent.parent / "lib")  # where conda keeps libpython3.8, which Isaac Gym loads
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            part for part in (libraries, environment.get("LD_LIBRARY_PATH", "")) if part
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-u", str(_WORKER), str(self.folder), str(self._memory_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, who then close it
            )
        self.pid = self._process.pid
        self._unread = b""
        self._end = weakref.finalize(self, _end, self._process, self.folder, self._memory_path)

    def check(self) -> None:
        """IsaacGymError where what runs there is not Isaac Gym Preview 4."""
        about = self._receive(IMPORT_TIMEOUT)["about"]
        if about["import_error"]:
            reason = about["import_error"].strip().splitlines()[-1]
            raise IsaacGymError(f"{self._python} cannot import Isaac Gym and torch: {reason}. {_HOW}")
        if about["missing"] or about["version"] not in (None, *SUPPORTED_ISAACGYM):
            lacks = f", which lacks {', '.join(about['missing'])}" if about["missing"] else ""
            raise IsaacGymError(
                f"found Isaac Gym {about['version'] or 'of unknown version'}{lacks}; Preview 4 (1.0rc4) is needed. "
                + _HOW
            )

    def start(self, worlds: list[list[list[int]]], dt: float, device: str, num_threads: int) -> None:
        """Make the simulation of what `folder` holds. worlds: numbers of objects and of givers of each."""
        request = {
            "folder": str(self.folder),
            "memory": str(self._memory_path),
            "layout": self._layout,
            "worlds": worlds,
            "dt": dt,
            "device": device,
            "num_threads": num_threads,
        }
        self.call("start", START_TIMEOUT, **request)
        self._memory_path.unlink(missing_ok=True)  # both sides have it; nothing is left behind, whatever happens

    def call(self, name: str, timeout: float | None = None, **arguments: Any) -> None:
        """Have the worker do something, and wait for it at most so many seconds, by default `CALL_TIMEOUT`."""
        self._send({"call": name, **arguments})
        reply = self._receive(CALL_TIMEOUT if timeout is None else timeout)
        if "progress" in reply:
            with tqdm(total=len(self.arrays["mask"]), desc="Isaac Gym makes worlds", delay=2, leave=False) as bar:
                while "progress" in reply:
                    bar.update(reply["progress"] - bar.n)
                    reply = self._receive(START_TIMEOUT)
        if "error" in reply:
            log = reply["error"] if "no CUDA device" in reply["error"] else reply["trace"].strip()
            self.close()
            if "no CUDA device" in log:
                raise IsaacGymError(
                    f"{log}. Isaac Gym simulates on an NVIDIA GPU; install its driver and a torch with CUDA in that "
                    f"environment, or set {DEVICE_VARIABLE}=cpu to simulate on the CPU, slowly"
                )
            raise IsaacGymError(f"the Isaac Gym worker failed in {name}:\n{log}")

    def close(self) -> None:
        """Let the worker free the simulation, and end it where it does not."""
        if self._process.poll() is None:
            try:
                self._send({"call": "close"})
                self._process.wait(10)
            except (IsaacGymError, subprocess.TimeoutExpired):
                pass
        self._end()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._died()

    def _receive(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                log = self._last_words()
                self._end()
                raise IsaacGymError(f"the Isaac Gym worker did not answer within {timeout:g} s; it was ended.{log}")
            if not (data := os.read(pipe, 1 << 16)):
                self._died()
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def _died(self) -> None:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        log = self._last_words()
        self._end()
        how = "stopped answering" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        raise IsaacGymError(f"the Isaac Gym worker (process {self.pid}) died: {how}.{log}")

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in (["Its last words:", *lines] if lines else []))


def _end(process: subprocess.Popen, folder: Path, memory: Path) -> None:
    """Leave nothing behind: no process, no file."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass  # what was not sent any more
    memory.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def find_python() -> str:
    """The interpreter that DEXH2R_ISAACGYM_PYTHON names. IsaacGymError where there is none, or not of Python 3.8."""
    python = os.environ.get(PYTHON_VARIABLE)
    if not python:
        raise IsaacGymError(f"backend 'isaacgym' needs {PYTHON_VARIABLE}, which is not set. {_HOW}")
    python = os.path.expanduser(python)
    if not os.path.isfile(python):
        raise IsaacGymError(f"{PYTHON_VARIABLE} is {python}, and there is no such file. {_HOW}")
    if not os.access(python, os.X_OK):
        raise IsaacGymError(f"{PYTHON_VARIABLE} is {python}, which cannot be executed. {_HOW}")
    try:
        probe = subprocess.run(
            [python, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT,
        )
        version = tuple(int(x) for x in probe.stdout.split())
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise IsaacGymError(f"{PYTHON_VARIABLE} is {python}, which does not run as Python: {error}. {_HOW}") from error
    if version not in SUPPORTED_PYTHON:
        found = ".".join(map(str, version)) or "what it is it does not say"
        raise IsaacGymError(f"{PYTHON_VARIABLE} is {python}, Python {found}; Isaac Gym Preview 4 needs 3.8. {_HOW}")
    return python
