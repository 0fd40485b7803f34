"""To the broker and from it."""
