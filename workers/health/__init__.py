"""Whether all is well, and what waits."""
