"""What `scripts/demo` is made of. `ending`, `progress` and `prepare` need the standard library only: they run before
anything is installed."""
