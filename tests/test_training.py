"""The training loop: processes, devices, precision, trackers. That it learns and goes on: see the tests of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.fx.experimental._config as meta_options
from accelerate.utils import send_to_device
from torch import nn

from dexh2r_gym.extras import MissingExtraError
from policies import train as training
from policies.checkpoint import load_checkpoint, make_model
from policies.frames import Frames
from policies.train import TrainOptions, fit
from tests.test_approach import SMALL as APPROACHES
from tests.test_grasp_generators import OBJECTS, GraspSet, tried
from tests.test_grasp_generators import SMALL as GENERATORS
from tests.training_process import EMA, OPTIONS, ToyFlow, make_toy

ROOT = Path(__file__).parents[1]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
HALF = {"rtol": 1e-3, "atol": 1e-4}  # checkpoints are float16


def start(*arguments: object) -> None:
    """Two processes of `tests.training_process` on this machine."""
    command = [sys.executable, "-m", *TORCHRUN, "-m", "tests.training_process", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def by_hand(steps: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The toy's weights after so many steps of two processes, and their average, written out in one process."""
    model, data = make_toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIONS.learning_rate, weight_decay=OPTIONS.weight_decay)
    averaged: dict[str, torch.Tensor] = {}
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = OPTIONS.learning_rate * training._schedule(step, OPTIONS)
        optimizer.zero_grad()
        for rank in range(2):
            generator = torch.Generator().manual_seed(training.draw_seed(OPTIONS.seed, step, rank))
            loss = model.loss(data.batch(OPTIONS.batch_size // 2, generator), generator)["plan"]
            (loss / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        now = {name: value.detach().clone() for name, value in model.state_dict().items()}
        averaged = {n: EMA * averaged[n] + (1 - EMA) * v for n, v in now.items()} if averaged else now
    return now, averaged


def test_two_processes_train_as_one_stop_together_and_go_on(tmp_path):
    """They are stopped by a loss that is no number in one of them."""
    out = tmp_path / "toy.safetensors"
    start(out, 5)
    for rank, where in ((0, "in another process"), (1, "4 rows")):
        reason = (tmp_path / f"stopped-{rank}").read_text()
        assert f"nan in step 5 ({where})" in reason and "holds the last good state" in reason
    state = torch.load(tmp_path / "toy.training", weights_only=True)
    weights, _ = by_hand(4)
    begun = make_toy()[0].state_dict()
    assert state["step"] == 4 and not out.exists()
    assert max(float((weights[name] - begun[name]).abs().max()) for name in weights) > 5e-3
    for name, value in state["model"].items():
        torch.testing.assert_close(value, weights[name], atol=2e-6, rtol=1e-5)

    start(out, -1)
    _, averaged = by_hand(OPTIONS.steps)
    for name, value in load_checkpoint(out, "flow").state_dict().items():
        torch.testing.assert_close(value, averaged[name], **HALF)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"toy.safetensors", "toy.json", "toy.jsonl", "saved-by-0", "stopped-0", "stopped-1"}
    lines = [json.loads(line)["step"] for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert lines == list(range(1, OPTIONS.steps + 1))
    assert json.loads((tmp_path / "toy.json").read_text())["card"]["machine"].startswith("2 processes of 1 CPU thread")


def test_no_two_draws_have_one_seed():
    cases = [(seed, step, rank) for seed in (0, 1, 2) for step in (0, 1, 999_999) for rank in (0, 1, 1000)]
    assert len({training.draw_seed(*case) for case in cases}) == len(cases)


def train_toy(out: Path, options: TrainOptions = OPTIONS) -> None:
    fit(*make_toy(), out, options, about={"policy": "flow"}, command="")


@pytest.mark.parametrize("policy", [*APPROACHES, *GENERATORS])
@meta_options.patch(meta_nonzero_assume_all_nonzero=True)
def test_losses_do_not_mix_devices(policy):
    """On the device `meta`, which has no numbers but refuses tensors of the CPU beside its own, as a GPU does."""
    device, generator = torch.device("meta"), torch.Generator().manual_seed(0)
    if policy in GENERATORS:
        model = make_model(policy, GENERATORS[policy])
        batch = GraspSet([tried(name) for name in OBJECTS], 16).batch(4, generator)
    else:
        model = make_model(policy, APPROACHES[policy])
        c = model.config
        width, height = getattr(c, "image_size", (1, 1))
        shapes = {
            "agent_pos": (28,),
            "goal_pos": (28,),
            "giver_joints": (48,),
            "point_cloud": (getattr(c, "num_points", 1), 3),
            "image": (height, width, 3),
            "depth": (height, width),
        }
        batch = {name: torch.zeros(4, c.observed, *shapes[name]) for name in {*model.needs, "goal_pos"}}
        batch["future"] = torch.zeros(4, model.ahead, 28)
    total = torch.stack(list(model.to(device).loss(send_to_device(batch, device), generator).values())).sum()
    total.backward()
    assert total.device == device
    assert all(p.grad is not None for p in model.parameters()), "averaging gradients waits for all of them"


def test_weights_are_averaged_and_buffers_are_the_last(tmp_path, monkeypatch):
    states = []
    keep, loss = training.save_training, ToyFlow.loss

    def copied(path, state):
        states.append({name: value.clone() for name, value in state["model"].items()})
        keep(path, state)

    def counted(self, batch, generator):
        self.future_numbers.mean += 0.1  # as batch normalisation counts
        return loss(self, batch, generator)

    monkeypatch.setattr(training, "_STATE_EVERY", 1)
    monkeypatch.setattr(training, "save_training", copied)
    monkeypatch.setattr(ToyFlow, "loss", counted)
    train_toy(tmp_path / "toy.safetensors", replace(OPTIONS, steps=40))
    weights = [state["end.weight"] for state in states]
    expected = weights[0]
    for now in weights:
        expected = 0.998 * expected + 0.002 * now
    got = load_checkpoint(tmp_path / "toy.safetensors").state_dict()
    torch.testing.assert_close(got["end.weight"], expected, **HALF)
    assert not any(torch.allclose(now, expected, **HALF) for now in (weights[0], weights[-1]))
    torch.testing.assert_close(got["future_numbers.mean"], states[-1]["future_numbers.mean"], **HALF)
    assert (states[-1]["future_numbers.mean"] - states[-2]["future_numbers.mean"]).min() > 0.09


def test_precisions(tmp_path):
    """One after the other in one process; float16 is refused on a CPU before anything is written."""
    logs = {}
    for precision in ("float32", "bfloat16"):
        train_toy(tmp_path / f"{precision}.safetensors", replace(OPTIONS, precision=precision, steps=50))
        logs[precision] = json.loads((tmp_path / f"{precision}.jsonl").read_text())["plan"]
    assert logs["bfloat16"] != logs["float32"] and logs["bfloat16"] == pytest.approx(logs["float32"], rel=0.05)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"float16 needs a GPU.*float32 or bfloat16"):
            train_toy(tmp_path / "half.safetensors", replace(OPTIONS, precision="float16"))
        assert not list(tmp_path.glob("half*"))


def test_tensorboard_has_losses_rate_and_speed_of_a_training_that_went_on(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(training, "_STATE_EVERY", 4)
    monkeypatch.setattr(training, "_LOG_EVERY", 2)
    options = replace(OPTIONS, trackers=("tensorboard",))
    with monkeypatch.context() as stopped:
        stopped.setattr("tests.training_process.Toy.batch", stops_at(7))
        with pytest.raises(KeyboardInterrupt):
            train_toy(tmp_path / "toy.safetensors", options)
    train_toy(tmp_path / "toy.safetensors", options)
    events = accumulator.EventAccumulator(str(tmp_path / "runs" / "toy")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss/plan", "learning_rate", "steps_per_second"}
    records = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    losses = events.Scalars("loss/plan")
    assert [event.step for event in losses] == [record["step"] for record in records] == [2, 4, 6, 8]
    assert [event.value for event in losses] == pytest.approx([record["plan"] for record in records], abs=1e-5)
    rates = [OPTIONS.learning_rate * training._schedule(step, OPTIONS) for step in (1, 3, 5, 7)]
    assert [event.value for event in events.Scalars("learning_rate")] == pytest.approx(rates)
    assert all(event.value > 0 for event in events.Scalars("steps_per_second"))
    assert "trackers" not in json.loads((tmp_path / "toy.json").read_text())["card"]["options"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages of files as Linux does")
def test_reading_a_large_file_of_pictures_does_not_fill_memory(tmp_path):
    rows, size = 64, 1 << 20
    written = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.uint8, (rows, size))
    written[:] = np.arange(rows, dtype=np.uint8)[:, None]
    written.flush()
    del written
    frames = Frames({"image": np.load(tmp_path / "big.npy", mmap_mode="r")})
    process = psutil.Process()
    before = process.memory_info().shared
    for row in range(rows):
        assert frames.read(torch.tensor([[row]]))["image"].unique().tolist() == [row]
    assert process.memory_info().shared - before < 8 * size


def stops_at(count: int):
    """`Toy.batch` that is interrupted after so many batches."""
    real, calls = type(make_toy()[1]).batch, []

    def batch(self, size, generator):
        calls.append(size)
        if len(calls) > count:
            raise KeyboardInterrupt
        return real(self, size, generator)

    return batch


@pytest.mark.parametrize(("name", "fix"), [("tensorboard", "dexh2r-gym[train]"), ("wandb", "pip install wandb")])
def test_a_tracker_that_is_not_installed_is_said_at_once(name, fix, monkeypatch, dexh2r, tmp_path):
    monkeypatch.setattr("policies.train_log.find_spec", lambda module: None)
    message = str(dexh2r(f"train flow --out {tmp_path / 'out'} --{name}"))
    assert f"{name} is not installed" in message and fix in message
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingExtraError):
        TrainOptions(trackers=(name,))
