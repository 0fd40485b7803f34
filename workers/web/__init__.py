"""What all pages and addresses over HTTP share."""
