"""The handover as a task of IsaacGymEnvs. Runs in Isaac Gym's own Python 3.8, which cannot import this package: start
`train.py` there, or put this folder on its path and call `handover.register()`."""
