"""The category of law of a case is changed."""
