"""A case of legal aid: its creation, views and flags, its means test, and calls that ended early."""
