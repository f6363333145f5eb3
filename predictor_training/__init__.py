"""Training, with optax: the bundled language model."""
