"""Who takes part: five roles, of five organisations."""

PARTIES = ("party0", "party1")
"""The two that compute on shares, in order."""

ROLES = ("dealer", *PARTIES, "client", "model")
"""Every role of a private inference."""
