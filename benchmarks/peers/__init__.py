"""Other systems, measured as we measure ourselves."""
