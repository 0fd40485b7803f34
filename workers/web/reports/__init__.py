"""One report over HTTP: a page for people, JSON and CSV for programs."""
