"""What specialist providers do with the cases that are assigned to them."""
