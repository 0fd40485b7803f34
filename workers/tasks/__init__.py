"""The jobs after recording, run by dramatiq."""
