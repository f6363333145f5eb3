"""From what users write to graphs."""
