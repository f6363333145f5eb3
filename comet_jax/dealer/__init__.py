"""The dealer of correlated randomness: what has been dealt, and that it is used once."""
