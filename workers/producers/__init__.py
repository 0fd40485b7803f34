"""What feeds the queue of events, and waits for it."""
