"""A double of IsaacGymEnvs, for tests: its list of tasks, and the contract of `VecTask`."""
