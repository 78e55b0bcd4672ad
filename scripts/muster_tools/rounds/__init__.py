"""What `scripts/rounds` is made of."""
