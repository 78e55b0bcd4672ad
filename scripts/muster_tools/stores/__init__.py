"""What `scripts/stores` is made of."""
