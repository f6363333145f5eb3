"""Models in plain Flax, as a user would write them, with their weights."""
