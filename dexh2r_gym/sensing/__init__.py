"""What the robot sees: cameras, clouds of the object as observed, colour and depth pictures."""
