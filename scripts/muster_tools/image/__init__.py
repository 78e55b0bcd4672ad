"""What scripts/image and scripts/bundle are made of. Standard library only."""
