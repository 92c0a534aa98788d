"""Processes that take jobs: as many as there are cores, one thread each, ended without a word by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, util
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

J = TypeVar("J")
R = TypeVar("R")


def num_cores() -> int:
    """Cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_workers(wanted: int | None) -> int:
    """As many as wanted, by default one a core; ValueError unless there is at least one."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"workers must be at least 1, got {wanted}")
    return wanted or num_cores()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch in here."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Workers:
    """Processes that take jobs, each on one thread. With one worker this process does them, on one thread too.

    They end with the `with` block, at once if it is left by an error or Ctrl-C, and with the process that started them.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        self._threads = torch.get_num_threads()
        if self._count == 1:
            torch.set_num_threads(1)
        else:
            context = get_context("spawn")
            reader, self._line = context.Pipe(duplex=False)  # closed to end the workers, by this process's end too
            self._pool = ProcessPoolExecutor(self._count, context, initializer=_begin, initargs=(reader,))
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            torch.set_num_threads(self._threads)
            return
        if error is not None:
            self._line.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._line.close()

    def map(self, function: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
        """Results in the order in which they come."""
        if self._pool is None:
            yield from map(function, jobs)
            return
        with _without_interrupt():
            futures: list[Future[R]] = [self._pool.submit(_do, function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            reason = 'perhaps for lack of memory, or of `if __name__ == "__main__":` in the script'
            raise RuntimeError(f"a worker process died, {reason}; run again to go on") from error


@contextmanager
def _without_interrupt() -> Iterator[None]:
    """Processes that are started in here do not hear Ctrl-C, from their first moment on."""
    heard = signal.getsignal(signal.SIGINT)
    if heard is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


# In a worker: it may be ended while it does a job, not while it takes one or hands in a result, for which others wait.
_busy = threading.Lock()  # held by the main thread while it must not be ended


def _begin(line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _busy.acquire()
    threading.Thread(target=_end_with_line, args=(line,), daemon=True).start()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(function: Callable[[J], R], job: J) -> R:
    _busy.release()
    try:
        return function(job)
    finally:
        _busy.acquire()


def _end_with_line(line: Connection) -> None:
    try:
        line.recv_bytes()
    except EOFError:
        with _busy:
            # Removes semaphores, of which the user would be told that they leaked.
            util._run_finalizers(0)  # type: ignore[attr-defined]
            os._exit(1)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
