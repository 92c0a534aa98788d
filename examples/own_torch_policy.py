"""Your own torch module as an agent: it learns by behaviour cloning from the demonstrations of a store.

python examples/own_torch_policy.py --out runs/own_torch_policy
dexh2r evaluate --agent examples.own_torch_policy:make_agent --mode easy  # what was saved there
"""

from pathlib import Path
from typing import Literal

import gymnasium as gym
import torch
import tyro
from torch import nn
from tqdm import tqdm

import policies
from dexh2r_gym.evaluate import ENV_ID, evaluate
from policies.hand_vectors import decode, encode

WEIGHTS = Path("runs/own_torch_policy/weights.pt")
HAND, SPEED, GOAL, ALIGNING = slice(0, 28), slice(28, 56), slice(117, 145), 146  # in the flat state


class Reach(nn.Module):
    """The flat state (B, 148) in, the next hand state out. It sees the goal from the palm and says how the hand moves,
    in 31 numbers: 3 of position, 6 of rotation, 22 joints."""

    def __init__(self, width: int = 256):
        super().__init__()
        hidden = nn.Linear(31 + 28 + 22, width), nn.ELU(), nn.Linear(width, width), nn.ELU()
        self.net = nn.Sequential(nn.BatchNorm1d(31 + 28 + 22), *hidden, nn.Linear(width, 31))
        self.register_buffer("mean", torch.zeros(31))  # of the moves that were demonstrated
        self.register_buffer("spread", torch.ones(31))

    def forward(self, state):
        hand = state[:, HAND]
        goal = encode(state[:, None, GOAL], hand, "6d")[:, 0]
        return self.net(torch.cat((goal, state[:, SPEED], hand[:, 6:]), dim=1))

    @torch.no_grad()
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """The agent contract: numpy in and out, computed wherever the weights are."""
        seen = torch.as_tensor(observation, device=self.mean.device)
        move = self.mean + self.spread * self(seen)
        return decode(move[:, None], seen[:, HAND], "6d")[:, 0].cpu().numpy(), None


def load(weights, device="cpu"):
    model = Reach()
    model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    return model.to(device).eval()


def make_agent(env, seed):
    """What `dexh2r evaluate --agent module:function` calls."""
    return load(WEIGHTS)


def demonstrations(replays, frames, num_envs, seed):
    """States (N, 148), and the hand states (N, 28) that were demonstrated next; where the hand waits is left out."""
    many = {"num_envs": num_envs, "vectorization_mode": "vector_entry_point"}
    env = gym.make_vec(ENV_ID, replays=replays, split="train", backend="kinematic", released_metrics=False, **many)
    shown = policies.load("replay", env.unwrapped)
    stray = torch.tensor([0.02] * 3 + [0.1] * 25)  # m, rad: the hand errs, and the demonstration is the way back
    observation, _ = env.reset(seed=seed)
    pairs = []
    for _ in tqdm(range(frames), desc="demonstrations", unit="frame"):
        action, _ = shown.predict(observation)
        pairs.append((torch.from_numpy(observation), torch.from_numpy(action)))
        observation, *_ = env.step(action + (stray * torch.randn(action.shape)).numpy())
    env.close()
    states, hands = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    moving = (hands[:, :3] - states[:, :3]).norm(dim=1) > 0.002
    kept = moving & (states[:, ALIGNING] == 0)  # while it aligns, the environment moves the hand
    return states[kept], hands[kept]


def main(
    out: Path = WEIGHTS.parent,
    replays: str = "mini",
    frames: int = 300,
    num_envs: int = 64,
    steps: int = 2000,
    mode: Literal["easy", "hard"] = "easy",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    seed: int = 0,
) -> None:
    """Train a small network on demonstrations, save and load it, and evaluate it on trials that it never saw.

    Args:
        out: folder of weights.pt and of the evaluation; must not exist yet.
        replays: `mini`, or the path of a replay store: its train split is learned from, its test split evaluated on.
        frames: for how many the demonstrations are played, in each world.
        num_envs: worlds side by side.
        steps: of training, 256 states each.
        mode: the environment closes the hand 10 cm (easy) or 5 cm (hard) from the goal.
        backend: of the evaluation: contact physics, or the hand goes where it is told.
        device: cpu, cuda, cuda:1 ...: of the network. The seed gives the same weights on the same device.
        seed: of trials, errors, weights and batches.
    """
    out.mkdir(parents=True)
    torch.manual_seed(seed)  # of all devices
    states, hands = demonstrations(replays, frames, num_envs, seed)
    moves = encode(hands[:, None], states[:, HAND], "6d")[:, 0].to(device)
    states = states.to(device)
    model = Reach().to(device)
    model.mean, model.spread = moves.mean(dim=0), moves.std(dim=0) + 1e-4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in (bar := tqdm(range(steps), desc="training", unit="step")):
        rows = torch.randint(len(states), (256,), device=device)
        loss = nn.functional.mse_loss(model(states[rows]), (moves[rows] - model.mean) / model.spread)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    torch.save(model.state_dict(), out / "weights.pt")

    agent = load(out / "weights.pt", device)
    report = evaluate(agent, out=out / "evaluation", replays=replays, mode=mode, backend=backend, seed=seed)
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})


if __name__ == "__main__":
    tyro.cli(main)
