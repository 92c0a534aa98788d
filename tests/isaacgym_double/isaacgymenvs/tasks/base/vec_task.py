"""What a task of IsaacGymEnvs may rely on, and what is expected of it, checked."""

import numpy as np
import torch
from isaacgym import gymapi

_BUFFERS = {"obs_buf": torch.float, "rew_buf": torch.float, "reset_buf": torch.long, "progress_buf": torch.long}


class VecTask:
    """Subclasses set `self.cfg` and make `create_sim`, `reset_idx`, `pre_physics_step` and `post_physics_step`."""

    def __init__(
        self, config, rl_device, sim_device, graphics_device_id, headless, virtual_screen_capture, force_render
    ):
        env, sim = config["env"], config["sim"]
        assert self.cfg is config, "self.cfg is to be set before"
        kind, _, number = sim_device.partition(":")
        self.device_type, self.device_id = kind, int(number or 0)
        self.device = sim_device if sim["use_gpu_pipeline"] else "cpu"
        self.rl_device, self.headless, self.force_render = rl_device, headless, force_render
        self.graphics_device_id = -1 if headless and not env.get("enableCameraSensors", False) else graphics_device_id
        self.num_environments = env["numEnvs"]
        self.num_observations, self.num_actions = env["numObservations"], env["numActions"]
        self.num_states = env.get("numStates", 0)
        self.control_freq_inv = env.get("controlFrequencyInv", 1)
        self.clip_obs, self.clip_actions = env.get("clipObservations", np.inf), env.get("clipActions", np.inf)
        self.control_steps = 0
        assert config["physics_engine"] == "physx"
        self.physics_engine, self.sim_params = gymapi.SIM_PHYSX, _sim_params(sim)
        self.gym = gymapi.acquire_gym()
        self.create_sim()
        self.gym.prepare_sim(self.sim)
        self.viewer, self.extras, self.obs_dict = None, {}, {}
        sizes = {"obs_buf": (self.num_envs, self.num_observations)}
        for name, dtype in _BUFFERS.items():
            setattr(self, name, torch.zeros(sizes.get(name, self.num_envs), dtype=dtype, device=self.device))
        self.reset_buf += 1

    @property
    def num_envs(self):
        return self.num_environments

    def create_sim(self, compute_device, graphics_device, physics_engine, sim_params):
        return self.gym.create_sim(compute_device, graphics_device, physics_engine, sim_params)

    def _check(self):
        for name, dtype in _BUFFERS.items():
            buffer = getattr(self, name)
            assert buffer.dtype == dtype and len(buffer) == self.num_envs and buffer.device.type == self.device, name
        assert torch.isfinite(self.obs_buf).all() and torch.isfinite(self.rew_buf).all()

    def step(self, actions):
        assert actions.shape == (self.num_envs, self.num_actions)
        self.pre_physics_step(torch.clamp(actions, -self.clip_actions, self.clip_actions))
        for _ in range(self.control_freq_inv):
            self.gym.simulate(self.sim)
        if self.device == "cpu":
            self.gym.fetch_results(self.sim, True)
        self.post_physics_step()
        self.control_steps += 1
        self.timeout_buf = (self.progress_buf >= self.max_episode_length - 1) & (self.reset_buf != 0)
        self.extras["time_outs"] = self.timeout_buf.to(self.rl_device)
        self._check()
        self.obs_dict["obs"] = torch.clamp(self.obs_buf, -self.clip_obs, self.clip_obs).to(self.rl_device)
        return self.obs_dict, self.rew_buf.to(self.rl_device), self.reset_buf.to(self.rl_device), self.extras

    def reset(self):
        self._check()
        self.obs_dict["obs"] = torch.clamp(self.obs_buf, -self.clip_obs, self.clip_obs).to(self.rl_device)
        return self.obs_dict


def _sim_params(config):
    params = gymapi.SimParams()
    assert config["up_axis"] == "z"
    params.up_axis, params.gravity = gymapi.UP_AXIS_Z, gymapi.Vec3(*config["gravity"])
    params.dt, params.substeps = config["dt"], config["substeps"]
    params.use_gpu_pipeline = config["use_gpu_pipeline"]
    for name, value in config["physx"].items():
        setattr(params.physx, name, gymapi.ContactCollection(value) if name == "contact_collection" else value)
    return params
