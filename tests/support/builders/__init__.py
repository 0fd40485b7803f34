"""Events for tests: generated, told in short, and worked out by hand."""
