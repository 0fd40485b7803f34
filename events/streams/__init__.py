"""Redis as a broker that loses nothing: a kombu transport with one Redis stream for each queue."""
