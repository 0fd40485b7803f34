"""What any process needs: log lines, signals, retries, named crash points."""
