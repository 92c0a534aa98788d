"""The robot's arm, a UR10e: kinematics, limits, pictures. See `dexh2r_gym.arm.robot` for what is modelled."""

ROBOTS = ("floating", "ur10e")
