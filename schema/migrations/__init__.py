"""Versions of the schema, and the way from one to the next."""
