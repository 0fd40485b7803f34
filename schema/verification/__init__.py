"""Reads and writes of `verify` and `rebuild`."""
