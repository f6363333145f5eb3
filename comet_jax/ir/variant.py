"""Which of several protocols for the same thing a whole program takes: rounds and bytes online against dealt bytes."""

from dataclasses import dataclass

MOST_DIGIT, MOST_WORD = 8, 5
DEALT = 0.01
"""What a dealt byte counts of one that is sent online, unless told otherwise: it is sent before anybody waits."""


@dataclass(frozen=True)
class Variant:
    """How a program compares (protocols/comparison.py).

    ``digit``: bits of a digit, 4 to 8, or None: as narrow as five digits allow, which has the least dealt. Wider digits
    are fewer, and send less. ``word``: the widest word of a comparison, 3 or 5 bits, that is looked up where its bit is
    used, or 0 for none: that saves the bit's opening, a round, for a table of 2^word entries at each use.
    """

    digit: int | None = None
    word: int = 0

    def __post_init__(self):
        if self.digit is not None and not 4 <= self.digit <= MOST_DIGIT:
            raise ValueError(f"a comparison's digits have 4 to {MOST_DIGIT} bits, not {self.digit}")
        if not 0 <= self.word <= MOST_WORD:
            raise ValueError(f"words of up to {MOST_WORD} bits are looked up, not {self.word}")

    def __str__(self) -> str:
        digits = f"by digits of {self.digit} bits" if self.digit else "by five digits or fewer"
        return f"comparisons {digits}, " + (f"looked up in words of {self.word} bits" if self.word else "opened")

    def width(self, span: int) -> int:
        """Bits of a digit for a comparison of ``span`` bits."""
        return self.digit or min(6, max(4, -(-span // 5)))

    def looks_up(self, span: int) -> bool:
        """Whether the word of a comparison of ``span`` bits is looked up. A single digit's result is its own word."""
        digits = -(-span // self.width(span))
        return 1 < 2 * digits - 1 <= self.word
