"""The statements of a batch, and what they leave for the next one."""
