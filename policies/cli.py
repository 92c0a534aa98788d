"""Commands that this package adds to `dexh2r`: training, and its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, subcommand

from dexh2r_gym.extras import import_extra


@dataclass
class Train:
    """Train an approach policy on demonstrations, or a generator of grasps on grasps made by `dexh2r grasps data`.

    Killed and started again, it goes on. `dexh2r evaluate --agent OUT.safetensors` then runs a policy. It takes a GPU
    if there is one. Several share each batch where torchrun starts a process for each, on other machines too.

    Example: dexh2r train dp3 --replays open.zarr.zip --out runs/dp3

    Four GPUs: torchrun --nproc-per-node 4 -m dexh2r_gym train dp3 --replays open.zarr.zip --out runs/dp3
    """

    policy: Positional[Literal["motionnet", "dp", "dp3", "flow", "grasp-cvae", "grasp-diffusion"]]
    out: Path
    """Checkpoint to write: OUT.safetensors, OUT.json, and a log OUT.jsonl."""
    replays: tuple[str, ...] = ("mini",)
    """Of an approach policy: `mini`, or paths of stores; their train splits are learned from."""
    size: Literal["base", "paper"] = "base"
    """Of an approach policy: base runs in real time on a CPU, paper is as published (flow was not)."""
    cache: Path | None = None
    """Folder in which clouds and pictures of the replays are kept for the next training; by default OUT's `frames`."""
    max_trials: int | None = None
    """Learn from so many trials of each store at most (pictures take 70 kB a frame on disk)."""
    labels: Literal["expert", "demonstrations"] = "expert"
    """Of an approach policy: what the reactive expert would do from where the hand is, also off the demonstrations; or
    what was demonstrated, as published."""
    data: Path | None = None
    """Of a generator: folder of tried grasps."""
    init: Path | None = None
    """A checkpoint (.safetensors) of the same policy or generator to start from, in place of a new one: to train it
    longer, or on other data than it was pre-trained on."""
    steps: int = 6000
    batch_size: int = 256
    """Of a step, all processes together."""
    learning_rate: float = 1e-3
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16 is twice as fast on a CPU that has it (AMX), slow on others; float16 needs a GPU."""
    threads: int = 0
    """CPU threads of a process, 0 for all (one under torchrun); the weights depend on it in their last bits."""
    tensorboard: bool = False
    """Also write losses, learning rate and steps a second for TensorBoard, to the folder `runs` beside OUT."""
    wandb: bool = False
    """The same for Weights & Biases, project dexh2r."""

    def run(self) -> None:
        import torch

        import_extra("accelerate", "policies")
        from policies import train_approach, train_grasps
        from policies.processes import processes
        from policies.train import TrainOptions

        if self.threads:
            torch.set_num_threads(self.threads)
        options = TrainOptions(
            self.steps,
            self.batch_size,
            self.learning_rate,
            seed=self.seed,
            precision=self.precision,
            trackers=tuple(name for name in ("tensorboard", "wandb") if getattr(self, name)),
        )
        if self.policy.startswith("grasp-"):
            if self.data is None:
                raise ValueError(f"{self.policy} learns from tried grasps: --data FOLDER, made by `dexh2r grasps data`")
            train_grasps.train(self.policy, self.data, self.out, options, init=self.init)
        else:
            train_approach.train(
                self.policy,
                self.replays,
                self.out,
                options,
                size=self.size,
                cache=self.cache,
                max_trials=self.max_trials,
                labels=self.labels,
                init=self.init,
            )
        processes().on_main_process(print)(f"wrote {self.out.with_suffix('.safetensors')}")
        processes().destroy_process_group()


@dataclass
class ListCheckpoints:
    """List the checkpoints that come with the package, with what to expect of them.

    Example: dexh2r checkpoints list
    """

    def run(self) -> None:
        from policies.checkpoint import read_card, shipped

        for path in shipped():
            about = read_card(path)
            size = path.stat().st_size / 1e6
            print(f"{path.stem}: {about['policy']}, {size:.1f} MB, {about['card'].get('command', '')}")
            for name, (value, low, high) in about["card"].get("expected", {}).items():
                print(f"    {name} {value:.2f} [{low:.2f}, {high:.2f}]")


@dataclass
class VerifyCheckpoints:
    """Measure the shipped checkpoints again and compare with their cards: hash, and scores within their intervals.

    Example: dexh2r checkpoints verify grasp_diffusion
    """

    names: Positional[tuple[str, ...]] = ()
    """Of checkpoints; none for all."""
    write: bool = False
    """Put what is measured into the cards instead, as for weights just trained."""

    def run(self) -> None:
        from policies.verify import verify

        if not verify(self.names, write=self.write):
            raise ValueError("not all checkpoints are as their cards say")


@dataclass
class Checkpoints:
    """The trained weights that come with the package."""

    command: Annotated[ListCheckpoints, subcommand("list")] | Annotated[VerifyCheckpoints, subcommand("verify")] = (
        field()
    )

    def run(self) -> None:
        self.command.run()


def commands() -> dict[str, Any]:
    """Commands by name, for the entry point group `dexh2r_gym.commands`."""
    return {"train": Train, "checkpoints": Checkpoints}
