"""Dealt material is single use: the counter is on disk before the material is used.

A mask used twice gives away the difference of two secrets, so "which numbers were used" must survive anything: a
crash between two steps, a process started twice, a directory restored from a backup. The rules are simple:

- Number n is marked used, durably, *before* `Stock.take` returns it. A crash wastes material, never repeats it.
- Numbers are used in order, each once. A number, session or program that is not the next one is refused.
- A session lives in one process. Its id is written to a journal when it begins, and an id that was ever begun, in
  any way, is refused for ever after: cleanly ended, crashed or restored, it is never continued. Nothing is lost by
  that, as seeds are never on disk: a new process needs a new session, with new material, anyway.

What no file can detect is the *whole* directory restored from before the session began. So session ids must be
fresh: made from random bytes of both parties, as `new_session` does for one side.

On disk:  DIRECTORY/journal                    one line per session ever begun (append only)
          DIRECTORY/SESSION/open               exists while the session's process lives (left behind by a crash)
          DIRECTORY/SESSION/PROGRAM.counter    JSON: session, program, used, size
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import threading
from pathlib import Path
from typing import Self

from comet_jax.runtime.errors import DryStockError, StockError

_JOURNAL, _OPEN = "journal", "open"


def new_session() -> str:
    """A fresh session id: 32 random hex digits."""
    return secrets.token_hex(16)


@dataclasses.dataclass(frozen=True)
class Ticket:
    """Permission to use one piece of dealt material, once.

    Attributes:
        session: the session's id.
        program: SHA-256 of the program, hex.
        number: which piece, from 0.
    """

    session: str
    program: str
    number: int


class Ledger:
    """The bookkeeping of one session in one process: a `Stock` per program. Made by `Ledger.begin`.

    Attributes:
        session: the session's id.
        directory: where its files are.
    """

    def __init__(self, directory: Path, session: str) -> None:
        self.session, self.directory = session, directory / session
        self._stocks: dict[str, Stock] = {}

    @classmethod
    def begin(cls, directory: str | os.PathLike[str], session: str) -> Ledger:
        """Begin a session that was never begun before.

        Args:
            directory: of this role; made (mode 0700) when missing. Never share it between roles or restore it.
            session: 8 to 64 letters, digits, "-" or "_"; fresh (`new_session`).

        Raises:
            StockError: the session was begun before, by whatever process, or the journal cannot be read.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", session):
            raise StockError(f"session id {session!r} is not 8 to 64 letters, digits, '-' or '_'")
        root = Path(directory)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        ended = _how_it_ended(root, session)
        if ended:
            raise StockError(
                f"session {session} {ended}. Whatever stock it had left is discarded, because some of it may "
                f"have been used: begin a new session, with new material from the dealer"
            )
        # Journal first: from here on the id is spent, even if the power fails before the next line.
        _append(root / _JOURNAL, session)
        try:
            (root / session).mkdir(mode=0o700)
        except FileExistsError:
            raise StockError(f"session {session} was begun by another process just now: use another id") from None
        ledger = cls(root, session)
        _write(ledger.directory / _OPEN, str(os.getpid()))
        _sync(root)
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stock(self, program: str, size: int) -> Stock:
        """The stock of `program`, of which the dealer made `size` pieces; called once per program.

        Raises:
            StockError: the program has a stock already (`Stock.add` enlarges it), or the arguments make no sense.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", program):
            raise StockError(f"program {program!r} is not a SHA-256 in 64 lower-case hex digits")
        if program in self._stocks:
            raise StockError(f"session {self.session} has a stock of program {program[:16]} already: use add()")
        self._stocks[program] = Stock(self.directory, self.session, program, size)
        return self._stocks[program]

    def close(self) -> None:
        """End the session; what is left of its stocks is discarded."""
        for stock in self._stocks.values():
            stock.discard("the session was closed")
        with contextlib.suppress(FileNotFoundError):
            (self.directory / _OPEN).unlink()
        _sync(self.directory)


class Stock:
    """Numbered pieces of dealt material for one program of one session. Made by `Ledger.stock`.

    Safe to use from several threads; a forked copy refuses to work.

    Attributes:
        session: the session's id.
        program: SHA-256 of the program, hex.
    """

    def __init__(self, directory: Path, session: str, program: str, size: int) -> None:
        if size < 0:
            raise StockError(f"a stock of {size} pieces makes no sense")
        self.session, self.program = session, program
        self._path = directory / f"{program}.counter"
        self._used, self._size, self._dead = 0, size, ""
        self._lock, self._owner = threading.Lock(), os.getpid()
        _write(self._path, self._state(0, size))

    def __len__(self) -> int:
        """Pieces left."""
        return 0 if self._dead else self._size - self._used

    @property
    def used(self) -> int:
        """Pieces used so far; the next number."""
        return self._used

    def add(self, count: int) -> None:
        """Count `count` more pieces from the dealer; their numbers follow those of the earlier ones.

        Raises:
            StockError: count is negative or the stock is discarded.
        """
        with self._lock:
            self._check()
            if count < 0:
                raise StockError(f"cannot add {count} pieces")
            _write(self._path, self._state(self._used, self._size + count))
            self._size += count

    def take(self, count: int = 1) -> list[Ticket]:
        """The next `count` pieces, already marked used on disk; one write to disk however many.

        Raises:
            StockError: fewer are left, or the counter on disk is not what this process wrote last (then all the
                rest is discarded).
        """
        with self._lock:
            return self._take(self._used, count)

    def use(self, ticket: Ticket) -> None:
        """Mark the piece that a message named as used, before using it.

        Raises:
            StockError: it is of another session or program, used already, or not the next one; or as in `take`.
        """
        if (ticket.session, ticket.program) != (self.session, self.program):
            raise StockError(
                f"piece {ticket.number} is of session {ticket.session}, program {ticket.program[:16]}; this stock "
                f"is of session {self.session}, program {self.program[:16]}: it was sent to the wrong place"
            )
        with self._lock:
            if ticket.number != self._used:
                what = "was used before" if ticket.number < self._used else "is out of order"
                raise StockError(
                    f"piece {ticket.number} of session {self.session} {what}: the next is {self._used}. A piece is "
                    f"never used twice; both ends must work in the same order"
                )
            self._take(ticket.number, 1)

    def discard(self, reason: str) -> None:
        """Refuse everything from now on. Calling it again does no harm."""
        with self._lock:
            self._dead = self._dead or reason

    def _take(self, first: int, count: int) -> list[Ticket]:
        self._check()
        if count < 1:
            raise StockError(f"cannot take {count} pieces")
        if first + count > self._size:
            raise DryStockError(
                f"the stock of session {self.session}, program {self.program[:16]}, is dry: {count} wanted, "
                f"{self._size - first} of {self._size} left. Let the dealer prepare more before going on"
            )
        try:
            _write(self._path, self._state(first + count, self._size))
        except OSError as error:
            self._dead = f"the counter could not be written ({error.strerror})"
            raise StockError(
                f"piece {first} of session {self.session} is not used, because {self._dead}. The rest of the stock "
                f"is discarded: repair {self._path.parent}, then begin a new session"
            ) from None
        self._used = first + count
        return [Ticket(self.session, self.program, n) for n in range(first, first + count)]

    def _check(self) -> None:
        """Refuse to go on when discarded, forked, or when the disk does not say what we wrote last."""
        if self._dead:
            raise StockError(f"the stock of session {self.session} is discarded: {self._dead}. Begin a new session")
        if os.getpid() != self._owner:
            raise StockError("a forked process has a copy of the stock: only the process that began it may use it")
        try:
            found = self._path.read_text(errors="replace")
        except OSError as error:
            found = f"nothing ({error.strerror})"
        if found != self._state(self._used, self._size):
            self._dead = (
                f"{self._path} says {found[:200]!r}, not that {self._used} pieces are used: it was damaged, or "
                f"restored from a copy"
            )
            raise StockError(f"the stock of session {self.session} is discarded: {self._dead}. Begin a new session")

    def _state(self, used: int, size: int) -> str:
        return json.dumps({"session": self.session, "program": self.program, "used": used, "size": size}) + "\n"


def _how_it_ended(root: Path, session: str) -> str:
    """How an earlier life of `session` ended, in words; "" when there was none."""
    journal = root / _JOURNAL
    # A line cut short by a power failure named a session that had used nothing yet; it is refused nowhere.
    begun = journal.exists() and session in journal.read_text(errors="replace").splitlines()
    if (root / session / _OPEN).exists():
        return "was begun before and not closed: its process crashed, or still runs"
    if (root / session).exists():
        return "was begun before and has ended"
    if begun:
        return f"is in {journal}, but its files are gone: it crashed at its start, or {root} was restored"
    return ""


def _append(path: Path, line: str) -> None:
    """Append one line, durably."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(handle).st_size
        # Close a line that a power failure cut short, or this one would be glued to it and not be found.
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, ("\n" if torn else "").encode() + line.encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    _sync(path.parent)


def _write(path: Path, text: str) -> None:
    """Replace the contents of `path` so that after a power failure it holds the old or the new text, complete."""
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    """Make renames and new names in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
