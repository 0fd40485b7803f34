"""What workers report of their work: heartbeats, totals, spans."""
