"""Values and rows as bytes and text: for a terminal, a program, a file."""
