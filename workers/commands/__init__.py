"""The commands of `caselog`, one module for each kind of user at the terminal."""
