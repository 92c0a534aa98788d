"""Jobs on a Ray cluster: many processes on several machines, any of which may die.

A job and its result are values that travel, so machines need not share a disk. A job takes one core and one thread. It
is done again where its worker died or it failed, three times in all; machines with other packages than this one's are
refused, for their numbers could be others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from dexh2r_gym.extras import import_extra
from dexh2r_gym.workers import num_cores

J = TypeVar("J")
R = TypeVar("R")

ATTEMPTS = 3
# Must agree on all machines, and so must the source of our own packages.
_PACKAGES = (
    *("dexh2r-gym", "gymnasium", "mujoco", "numpy", "torch", "scipy", "trimesh", "manifold3d", "zarr"),
    *("diffusers", "safetensors"),
)


class UnlikeError(RuntimeError):
    """Something that a job needs is not the same on the worker's machine. Raised in a job, it stops all at once."""


class RayCluster:
    """Does jobs on a cluster while the `with` block lasts; leaving it, by an error or Ctrl-C too, ends what still runs.

    Args:
        address: of a running cluster (host:port), `auto` for the one of this machine, `local` to start one here with
            all cores, which ends with the block. A script that is connected already stays so, whatever the address.
        cores: of a `local` cluster, by default all that this process may use.

    Raises:
        MissingExtraError: Ray is not installed.
        ConnectionError: no cluster at the address.
    """

    def __init__(self, address: str, *, cores: int | None = None) -> None:
        self._ray: Any = import_extra("ray", "scale")
        self._address, self._cores = address, cores
        self._ours = False  # the connection
        self._running: dict[Any, int] = {}  # tasks, and the number of the job that each does

    def __enter__(self) -> RayCluster:
        if self._ray.is_initialized():
            return self
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start reports to nobody
        start: dict[str, Any] = {}
        if self._address == "local":
            start = {"num_cpus": self._cores or num_cores(), "include_dashboard": False}
        try:
            self._ray.init(self._address, logging_level="error", log_to_driver=False, **start)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(
                f"no Ray cluster at {self._address!r} ({error}): start one with `ray start --head`, "
                "or choose the address `local`"
            ) from error
        self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()

    @property
    def cores(self) -> int:
        """Of all machines at present, at least 1."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(
        self, function: Callable[[J], R], jobs: Sequence[J], *, title: Callable[[J], str] = lambda job: "a job"
    ) -> Iterator[R]:
        """Results in the order in which they come; each worker imports the function, so it must be in a module.

        Raises:
            RuntimeError: a job, called by its title, has failed three times; what it says ends with the worker's
                traceback. UnlikeError: a machine has other packages or files.
        """
        ray = self._ray
        describe, work = _sent_by_value()
        remote = ray.remote(num_cpus=1, max_retries=0)(work)  # retries are ours: Ray's say nothing
        expected = describe(_PACKAGES)
        sent = [ray.cloudpickle.dumps((function, job)) for job in jobs]
        attempts = [0] * len(jobs)
        todo = list(reversed(range(len(jobs))))
        while todo or self._running:
            while todo:
                job = todo.pop()
                attempts[job] += 1
                self._running[remote.remote(_PACKAGES, expected, sent[job])] = job
            (ready, *_), _ = ray.wait(list(self._running), num_returns=1)
            job = self._running.pop(ready)
            outcome, value, trace = self._outcome(ready)
            if outcome == "done":
                yield value
            elif outcome == "unlike":
                raise UnlikeError(value)
            elif attempts[job] == ATTEMPTS:
                raise RuntimeError(
                    f"{title(jobs[job])} failed {ATTEMPTS} times, at last with {value}; what was finished is kept, "
                    f"and the same command goes on{trace}"
                )
            else:
                note = f"{title(jobs[job])} failed with {value}: attempt {attempts[job] + 1} of {ATTEMPTS} follows"
                tqdm.write(note, file=sys.stderr)
                todo.append(job)

    def _outcome(self, reference: Any) -> tuple[str, Any, str]:
        """Of a task that has ended: "done", "failed" or "unlike", its result or what was wrong, traceback."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # before it came to the job
            return "failed", str(error.cause), f"\n{error}"
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            return "failed", f"the death of its worker: {type(error).__name__}: {reason}", ""


def _sent_by_value() -> tuple[Callable[..., dict[str, str]], Callable[..., tuple[str, Any, str]]]:
    """Two functions that refer to nothing outside, so that they run where our packages are others, or not at all."""

    def describe(packages: Sequence[str]) -> dict[str, str]:
        import hashlib
        import os
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path

        found = {"Python": platform.python_version()}
        for name in packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "nothing"
        for name in ("dexh2r_gym", "policies"):
            spec = find_spec(name)
            digest = hashlib.sha256()
            for folder in spec.submodule_search_locations or () if spec else ():
                for file in sorted(Path(folder).rglob("*.py")):
                    digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
            found[f"the source of {name}"] = digest.hexdigest()[:12] if spec else "nothing"
        mano = os.environ.get("DEXH2R_MANO", "")
        files = [file for name in ("RIGHT", "LEFT") if mano and (file := Path(mano, f"MANO_{name}.pkl")).is_file()]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
        found["the hands in DEXH2R_MANO"] = digest.hexdigest()[:12] if files else "nothing"
        return found

    def work(packages: Sequence[str], expected: dict[str, str], sent: bytes) -> tuple[str, Any, str]:
        import pickle
        import platform
        import traceback

        found = describe(packages)
        differ = [
            f"{name} {found[name]} there, {expected[name]} here" for name in found if found[name] != expected[name]
        ]
        if differ:
            return "unlike", f"machine {platform.node()} has other software ({'; '.join(differ)}): install the same", ""
        try:
            import torch

            torch.set_num_threads(1)
            function, job = pickle.loads(sent)
            return "done", function(job), ""
        except Exception as error:
            unlike = type(error).__name__ == "UnlikeError"
            told = str(error) if unlike else f"{type(error).__name__}: {error}"
            return "unlike" if unlike else "failed", told, f"\n\nOn {platform.node()}:\n{traceback.format_exc()}"

    return describe, work
