"""Whole processes for tests, and how long to wait for them."""
