"""Episodes of an environment as datasets of others: Minari (`export.minari`) and LeRobot (`export.lerobot`)."""
