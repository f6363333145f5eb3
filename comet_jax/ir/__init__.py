"""Programs: the graph of a model, patterns in it, and the two-party program that it becomes."""
