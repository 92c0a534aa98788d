"""One thread for torch and numpy, here and in what tests start: they share the machine, and results must not depend on
it. Where cores are busy, several threads take many times as long as one."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch and numpy are imported

import shlex
import sys

import pytest
import torch

import dexh2r_gym  # noqa: F401  before any test imports mujoco: where there is no screen, it chooses EGL
from dexh2r_gym import cli

torch.set_num_threads(1)


@pytest.fixture
def dexh2r(monkeypatch):
    """Runs the command in this process; returns its exit code, or the message it exits with."""

    def run(line: str) -> int | str:
        monkeypatch.setattr(sys, "argv", ["dexh2r", *shlex.split(line)])
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
        return 0

    return run
