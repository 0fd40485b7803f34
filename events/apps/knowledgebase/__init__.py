"""Alternative help: the client is sent to somebody outside the service."""
