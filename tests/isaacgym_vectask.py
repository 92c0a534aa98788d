"""Runs the IsaacGymEnvs task in a process of its own, as Isaac Gym wants to be imported before torch: used by
test_isaacgymenvs.py. Arguments: cfg as JSON, actions by trial (T, n, 28) in a .npy, where to write what came of it."""

import json
import sys

cfg, actions, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]

import isaacgym  # noqa: E402, F401

# isort: split
import handover  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

handover.register()
from isaacgymenvs.tasks import isaacgym_task_map  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)
task = isaacgym_task_map["DexH2RHandover"](
    cfg=cfg,
    rl_device="cpu",
    sim_device="cpu",
    graphics_device_id=0,
    headless=True,
    virtual_screen_capture=False,
    force_render=False,
)
own = {"gymnasium", "mujoco", "trimesh", "zarr", "tyro"} & set(sys.modules)
assert not own, f"not to be had in Isaac Gym's Python: {own}"
trial = task._trial.clone()
seen = {"trial": trial.numpy(), "obs": [task.reset()["obs"].numpy().copy()], "reward": [], "done": [], "late": []}
actors = len(task.sim.actors)
for action in torch.from_numpy(np.load(actions)):
    obs, reward, done, extras = task.step(action[trial])
    for name, value in (("obs", obs["obs"]), ("reward", reward), ("done", done), ("late", extras["time_outs"])):
        seen[name].append(value.numpy().copy())
    seen["succ"] = float(extras["succ"])
np.savez(out, actors=actors, **{name: np.array(value) for name, value in seen.items()})
