"""Tasks by name."""

isaacgym_task_map = {}
