"""The errors that comet_jax raises on purpose. Each message says what is wrong, where, and what to do."""


class CometError(Exception):
    """Something that the user or another organisation did cannot work."""


class UnsupportedOperationError(CometError):
    """An operation on secrets has no private form."""


class CapturedWeightsError(CometError):
    """A function captured an array that both parties would see inside the program."""


class SecretLeakError(CometError):
    """A secret was used in a way that would show it."""
