"""Tells what it was started with, and which tasks there are."""

import json
import sys

from isaacgymenvs.tasks import isaacgym_task_map

print(json.dumps({"arguments": sys.argv[1:], "tasks": sorted(isaacgym_task_map)}))
