"""Processes put together from what the other folders hold."""
