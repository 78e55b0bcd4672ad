"""What `scripts/board` is made of: `main` runs the cluster and asks, `picture` draws."""
