"""Drawing for a terminal."""
