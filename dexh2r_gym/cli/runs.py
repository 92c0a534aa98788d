"""Commands that run and score agents, and measure speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from dexh2r_gym.envs.giver_behaviour import GiverBehaviour
from dexh2r_gym.sim.randomise import Randomisation


@dataclass
class Evaluate:
    """Run an agent on every trial of a split and write a report, as the paper's Table 3 does.

    Writes one record an episode, report.json and report.md into the folder. Killed and started again, it goes on.

    Example: dexh2r evaluate --agent scripted --mode hard --split test --num-envs 32 --out runs/scripted
    """

    out: Path | None = None
    """Folder of the run; made if missing. By default runs/ and a name made of agent, replays, split and mode."""
    agent: str = "scripted"
    """scripted, motionnet, another installed agent, the path of a checkpoint, or module:function for your own,
    whose module may be in the present folder."""
    mode: Literal["easy", "hard"] = "hard"
    """Alignment takes over 10 cm (easy) or 5 cm (hard) from the goal."""
    split: Literal["train", "validation", "test", "all"] = "test"
    replays: str = "mini"
    """`mini`, or the path of a replay store."""
    backend: Literal["mujoco", "mjwarp", "kinematic", "isaacgym"] = "mujoco"
    """mjwarp needs the extra `gpu`, and a GPU unless device is cpu; isaacgym a user's Isaac Gym Preview 4."""
    device: str | None = None
    """Of torch: where the worlds are; by default where the backend is at home."""
    robot: Literal["floating", "ur10e"] = "floating"
    """A hand that floats, or one on an arm whose reach, speed and body limit it."""
    randomisation: Randomisation = field(default_factory=Randomisation)
    ending: Literal["grasp", "hold"] = "grasp"
    """hold: go on after the grasp; the giver lets go and the robot must keep the object through 2 s and a shake."""
    obs_mode: str | None = None
    """state, state_dict, point_cloud, rgbd, or several joined by +; by default what the agent looks at."""
    num_envs: int = 32
    """Worlds side by side; the numbers do not depend on it."""
    seed: int = 0
    video: int = 0
    """How many of the first episodes to film."""
    speed_limits: tuple[float, float, float] | None = (1.5, 4.0, 4.0)
    """Palm m/s, palm rad/s, joints rad/s; None for the paper's unlimited kinematics."""
    giver: GiverBehaviour = field(default_factory=GiverBehaviour)
    """How givers deviate from their recordings."""
    latency: str | None = None
    """Milliseconds by which actions are late; or `measured`: as late as the agent takes to think, in one world."""
    ray: str | None = None
    """Run on a Ray cluster (extra `scale`): its address, `auto` for the one of this machine, or `local` to start one on
    all cores here. The numbers are the same. Replays and checkpoints must be at the same path on all machines."""

    def run(self) -> None:
        from dexh2r_gym.agents import agent_title
        from dexh2r_gym.evaluate import evaluate

        store = Path(self.replays).name.split(".")[0]
        out = self.out or Path("runs") / "-".join(
            (agent_title(self.agent), store, self.split, self.mode, self.backend)
            + (("hold",) if self.ending == "hold" else ())
            + (("giver",) if self.giver.active else ())
            + ((f"latency_{self.latency}",) if self.latency else ())
        )
        if self.out is None and self.robot != "floating":
            out = out.with_name(f"{out.name}-{self.robot}")
        observed: dict[str, Any] = {} if self.obs_mode is None else {"obs_mode": self.obs_mode}
        evaluate(
            self.agent,
            out=out,
            replays=self.replays,
            split=self.split,
            num_envs=self.num_envs,
            seed=self.seed,
            video=self.video,
            mode=self.mode,
            backend=self.backend,
            device=self.device,
            robot=self.robot,
            randomisation=None if self.randomisation == Randomisation() else self.randomisation,
            ending=self.ending,
            speed_limits=self.speed_limits,
            giver=self.giver,
            ray=self.ray,
            **late(self.latency, self.replays),
            **observed,
        )
        print((out / "report.md").read_text())
        print(f"report: {out / 'report.md'}")


def late(latency: str | None, replays: str) -> dict[str, Any]:
    """Options of the environment for a latency in a command's words: milliseconds, `measured`, or None for none."""
    from dexh2r_gym.envs.latency import latency_frames
    from dexh2r_gym.replay import ReplayStore

    if latency is None:
        return {}
    if latency == "measured":
        return {"realtime": True}
    try:
        milliseconds = float(latency)
    except ValueError:
        raise ValueError(f"latency must be a number of milliseconds or 'measured', got {latency!r}") from None
    return {"latency": latency_frames(milliseconds, ReplayStore.open(replays).infos[0].fps)}


@dataclass
class Score:
    """Score a run folder again from its recorded episodes. An incomplete run is refused.

    Example: dexh2r score runs/scripted
    """

    run_folder: Positional[Path]
    allow_incomplete: bool = False
    """Score the episodes that are there."""

    def run(self) -> None:
        from dexh2r_gym.evaluate import score

        score(self.run_folder, allow_incomplete=self.allow_incomplete)
        print((self.run_folder / "report.md").read_text())


@dataclass
class Bench:
    """Measure simulated seconds per wall second, beside EnvPool's HandManipulateBlock (extra `bench`) in the same run.

    Example: dexh2r bench --out runs/bench
    """

    out: Path = Path("runs/bench")
    """Folder for bench.json and bench.md."""
    seconds: float = 10.0
    """Wall seconds of each measurement."""
    num_envs: tuple[int, ...] = (64, 512, 2048)
    """Worlds side by side, one measurement each per backend."""
    grasps: bool = False
    """Measure goal grasps instead: filters and choice beside the plain way, stability tests, search; a minute."""
    sensing: bool = False
    """Measure clouds and pictures instead, beside rendered depth and MuJoCo's own renderer."""
    agents: tuple[str, ...] = ()
    """Measure instead how long these agents think, alone and in 64 worlds."""

    def run(self) -> None:
        if self.agents:
            from dexh2r_gym.bench_agents import bench_agents

            print(bench_agents(self.out, self.agents, seconds=self.seconds))
            return
        if self.sensing:
            from dexh2r_gym.bench_sensing import bench_sensing

            print(bench_sensing(self.out, seconds=self.seconds))
            return
        if self.grasps:
            from dexh2r_gym.bench_grasps import write_bench

            print(write_bench(self.out))
            return
        from dexh2r_gym.bench import bench

        print(bench(self.out, seconds=self.seconds, num_envs=self.num_envs))
