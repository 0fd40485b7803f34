"""What an event, a code, a case and a log entry are, and which of each an organisation knows."""
