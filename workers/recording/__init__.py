"""One batch, from messages to commit and ack."""
