"""Two-party protocols on shared and opened wires. No jaxprs here."""
