"""Dead letters and parked events: looked at, tried again, discarded."""
