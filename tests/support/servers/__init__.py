"""Servers of a test's own, and what stands between a worker and them."""
