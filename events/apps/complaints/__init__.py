"""A complaint's whole life, from its creation to its closing."""
