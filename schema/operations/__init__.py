"""What people look up and change."""
