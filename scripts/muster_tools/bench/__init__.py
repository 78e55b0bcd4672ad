"""What scripts/bench is made of: a module a family of rows, and what all of them stand on (`figures`, `measure`, `peers`)."""
