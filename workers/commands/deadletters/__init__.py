"""Commands about dead letters and parked events."""
