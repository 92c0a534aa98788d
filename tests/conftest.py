"""One thread for torch: test processes share the machine, and its results must not depend on it."""

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
