"""What `scripts/mutate` is made of: the list of mutations, and how each is judged."""
