"""Your own torch module as an agent: it learns by behaviour cloning from the demonstrations of a store.

    python examples/own_torch_policy.py --out runs/own_torch_policy
    dexh2r evaluate --agent examples.own_torch_policy:make_agent --mode easy   # what was saved there
"""

from pathlib import Path
from typing import Literal

import gymnasium as gym
import torch
import tyro
from torch import nn
from tqdm import tqdm

import policies
from dexh2r_gym.evaluate import ENV_ID, evaluate, fingerprint
from policies.hand_vectors import decode, encode

WEIGHTS = Path("runs/own_torch_policy/weights.pt")
HAND, SPEED, GOAL, ALIGNING = slice(0, 28), slice(28, 56), slice(117, 145), 146  # in the flat state


class Reach(nn.Module):
    """The flat state (B, 148) in, the next hand state (B, 28) out. All that is seen and said is relative to the palm."""

    def __init__(self, width: int = 256):
        super().__init__()
        sizes = (31 + 28 + 22, width, width)
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ELU())]
        self.net = nn.Sequential(nn.BatchNorm1d(sizes[0]), *hidden, nn.Linear(width, 31))
        self.register_buffer("mean", torch.zeros(31))
        self.register_buffer("spread", torch.ones(31))

    def forward(self, state):
        """How the hand moves in this frame, in units of how it moves in the demonstrations (B, 31)."""
        hand = state[:, HAND]
        way = encode(state[:, None, GOAL], hand, "6d")[:, 0]
        return self.net(torch.cat((way, state[:, SPEED], hand[:, 6:]), dim=1))

    @torch.no_grad()
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """The agent contract: numpy in and out, on whichever device the weights are."""
        seen = torch.as_tensor(observation, device=self.mean.device)
        move = self.mean + self.spread * self(seen)
        return decode(move[:, None], seen[:, HAND], "6d")[:, 0].cpu().numpy(), None


def demonstrations(replays, frames, num_envs, seed):
    """States (N, 148) and the hand states (N, 28) that were demonstrated next, in trials of the train split."""
    env = gym.make_vec(
        ENV_ID,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        replays=replays,
        backend="kinematic",
        released_metrics=False,
    )
    expert = policies.load("replay", env.unwrapped)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.tensor([0.01] * 3 + [0.05] * 25)  # m and rad: the hand strays, the demonstration shows the way back
    states, targets = [], []
    observation, _ = env.reset(seed=seed)
    for _ in tqdm(range(frames), desc="demonstrations", unit="frame"):
        action, _ = expert.predict(observation)
        states.append(torch.from_numpy(observation))
        targets.append(torch.from_numpy(action))
        stray = noise * torch.randn(action.shape, generator=generator)
        observation = env.step(action + stray.numpy())[0]
    env.close()
    state, target = torch.cat(states), torch.cat(targets)
    return state, target


def main(
    out: Path = WEIGHTS.parent,
    replays: str = "mini",
    frames: int = 300,
    num_envs: int = 64,
    steps: int = 3000,
    batch_size: int = 256,
    mode: Literal["easy", "hard"] = "easy",
    backend: Literal["mujoco", "kinematic"] = "mujoco",
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    seed: int = 0,
) -> None:
    torch.manual_seed(seed)
    state, target = demonstrations(replays, frames, num_envs, seed)
    move = encode(target[:, None], state[:, HAND], "6d")[:, 0]
    taught = (state[:, ALIGNING] == 0) & ((target[:, :3]-state[:, :3]).norm(dim=-1) > 0.002)
    state, move = state[taught].to(device), move[taught].to(device)
    print(len(state))
    model = Reach().to(device)
    model.mean, model.spread = move.mean(0), move.std(0) + 1e-4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in (bar := tqdm(range(steps), desc="training", unit="step")):
        rows = torch.randint(len(state), (batch_size,), device=device)
        loss = nn.functional.l1_loss(model(state[rows]), (move[rows] - model.mean) / model.spread)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step%100==0: bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "weights.pt")
    report = evaluate(model, out=out / "evaluation", resume=False, replays=replays, mode=mode, backend=backend, split="validation")
    for definition in ("paper", "released"):
        scores = report["overall"][definition]
        print(definition, {name: round(scores[name]["value"], 3) for name in ("succ", "safe", "pen_dep_cm")})


if __name__ == "__main__":
    tyro.cli(main)
