"""Who asks over HTTP, whether that is allowed, and what is kept of it."""
