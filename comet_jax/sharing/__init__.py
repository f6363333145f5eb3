"""Rings, fixed point, packing and randomness: how values are held. Nothing here communicates."""
