"""What makes training fast, each part alone or together through `make_fast`."""
