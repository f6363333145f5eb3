"""Single use, whatever happens: replays, crashes, restored files, damaged files, threads, forks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comet_jax.dealer.stock import Ledger, Ticket, new_session
from comet_jax.runtime.errors import StockError

PROGRAM, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path):
    with Ledger.begin(tmp_path / "stock", "session-1") as ledger:
        yield ledger


def test_numbers_come_in_order_and_are_on_disk_before_they_are_used(ledger):
    stock = ledger.stock(PROGRAM, 5)
    for number in range(3):
        assert stock.take() == [Ticket("session-1", PROGRAM, number)]
        assert f'"used": {number + 1},' in (ledger.directory / f"{PROGRAM}.counter").read_text()
    assert [ticket.number for ticket in stock.take(2)] == [3, 4]
    assert (len(stock), stock.used) == (0, 5)


def test_a_dry_stock_says_so_and_can_be_filled(ledger):
    stock = ledger.stock(PROGRAM, 1)
    stock.take()
    with pytest.raises(StockError, match="is dry: 2 wanted, 0 of 1 left"):
        stock.take(2)
    stock.add(2)
    assert [ticket.number for ticket in stock.take(2)] == [1, 2]


def test_programs_have_stocks_of_their_own(ledger):
    one, other = ledger.stock(PROGRAM, 2), ledger.stock(OTHER, 2)
    one.take()
    assert other.take()[0].number == 0
    with pytest.raises(StockError, match="has a stock of program"):
        ledger.stock(PROGRAM, 2)


def test_a_named_piece_is_used_once_and_in_order(ledger):
    stock = ledger.stock(PROGRAM, 5)
    stock.use(Ticket("session-1", PROGRAM, 0))
    with pytest.raises(StockError, match=r"piece 0 .* was used before"):
        stock.use(Ticket("session-1", PROGRAM, 0))
    with pytest.raises(StockError, match=r"piece 2 .* is out of order: the next is 1"):
        stock.use(Ticket("session-1", PROGRAM, 2))
    stock.use(Ticket("session-1", PROGRAM, 1))


@pytest.mark.parametrize("ticket", [Ticket("session-2", PROGRAM, 0), Ticket("session-1", OTHER, 0)])
def test_a_piece_of_another_session_or_program_is_refused(ledger, ticket):
    stock = ledger.stock(PROGRAM, 5)
    with pytest.raises(StockError, match="wrong place"):
        stock.use(ticket)
    assert stock.take()[0].number == 0


def test_a_session_is_begun_once(tmp_path):
    with Ledger.begin(tmp_path, "session-1") as ledger:
        with pytest.raises(StockError, match="still runs"):
            Ledger.begin(tmp_path, "session-1")
        stock = ledger.stock(PROGRAM, 3)
    with pytest.raises(StockError, match="was closed"):
        stock.take()
    assert len(stock) == 0
    with pytest.raises(StockError, match="has ended"):
        Ledger.begin(tmp_path, "session-1")
    Ledger.begin(tmp_path, new_session()).close()


CRASH = """
import os, sys
from comet_jax.dealer.stock import Ledger
import comet_jax.dealer.stock as module
stock = Ledger.begin(sys.argv[1], "session-1").stock("a" * 64, 10)
stock.take(3)
if sys.argv[2] == "while writing":
    module.os.replace = lambda *_: os._exit(9)
    stock.take()
os._exit(9)
"""


@pytest.mark.parametrize("moment", ["between", "while writing"])
def test_after_a_crash_the_session_is_never_continued(tmp_path, moment):
    assert subprocess.run([sys.executable, "-c", CRASH, str(tmp_path), moment]).returncode == 9
    assert '"used": 3,' in (tmp_path / "session-1" / f"{PROGRAM}.counter").read_text()
    for _ in range(2):
        with pytest.raises(StockError, match=r"crashed.*discarded.*begin a new session"):
            Ledger.begin(tmp_path, "session-1")
    with Ledger.begin(tmp_path, "session-2") as ledger:
        ledger.stock(PROGRAM, 1).take()


def test_a_crash_right_after_the_journal_spends_the_session(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.mkdir", mkdir_once(tmp_path))
    with pytest.raises(InterruptedError):
        Ledger.begin(tmp_path, "session-1")
    monkeypatch.undo()
    with pytest.raises(StockError, match="crashed at its start"):
        Ledger.begin(tmp_path, "session-1")


def mkdir_once(root):
    """`Path.mkdir` that works for the root and fails for the session's directory."""
    original = os.mkdir

    def mkdir(path, mode=0o777, parents=False, exist_ok=False):
        if path != root:
            raise InterruptedError
        if not path.exists():
            original(path, mode)

    return mkdir


def test_a_restored_counter_discards_the_rest(ledger):
    stock = ledger.stock(PROGRAM, 9)
    stock.take(2)
    path = ledger.directory / f"{PROGRAM}.counter"
    saved = path.read_text()
    stock.take(2)
    path.write_text(saved)
    for _ in range(2):
        with pytest.raises(StockError, match=r"discarded: .*not that 4 pieces are used.*restored"):
            stock.take()
    assert len(stock) == 0


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "garbage"])
def test_a_damaged_counter_discards_the_rest(ledger, damage):
    stock = ledger.stock(PROGRAM, 9)
    stock.take()
    path = ledger.directory / f"{PROGRAM}.counter"
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes({"truncate": path.read_bytes()[:-9], "empty": b"", "garbage": b"\xff" * 9}[damage])
    for call in (stock.take, lambda: stock.add(1), lambda: stock.use(Ticket("session-1", PROGRAM, 1))):
        with pytest.raises(StockError, match="discarded"):
            call()


def test_a_full_disk_uses_nothing(ledger, monkeypatch):
    stock = ledger.stock(PROGRAM, 9)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comet_jax.dealer.stock.os.fsync", full)
    with pytest.raises(StockError, match=r"piece 0 .*is not used, because .*No space left"):
        stock.take()
    monkeypatch.undo()
    with pytest.raises(StockError, match="could not be written"):
        stock.take()
    assert stock.used == 0


def test_a_deleted_session_is_still_known_from_the_journal(tmp_path):
    Ledger.begin(tmp_path, "session-1").close()
    shutil.rmtree(tmp_path / "session-1")
    with pytest.raises(StockError, match="was restored"):
        Ledger.begin(tmp_path, "session-1")


def test_a_deleted_journal_leaves_the_directory_as_witness(tmp_path):
    Ledger.begin(tmp_path, "session-1").close()
    (tmp_path / "journal").unlink()
    with pytest.raises(StockError, match="has ended"):
        Ledger.begin(tmp_path, "session-1")


def test_a_journal_line_cut_short_does_not_swallow_the_next(tmp_path):
    (tmp_path / "journal").write_text("session-0\nsessio")
    Ledger.begin(tmp_path, "session-1").close()
    shutil.rmtree(tmp_path / "session-1")
    with pytest.raises(StockError, match="was restored"):
        Ledger.begin(tmp_path, "session-1")


def test_threads_never_get_the_same_piece(ledger):
    stock, taken = ledger.stock(PROGRAM, 100), []
    threads = [threading.Thread(target=lambda: [taken.extend(stock.take()) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ticket.number for ticket in taken) == list(range(40))


FORK = """
import os, sys
from comet_jax.dealer.stock import Ledger
from comet_jax.runtime.errors import StockError
stock = Ledger.begin(sys.argv[1], "session-1").stock("a" * 64, 10)
child = os.fork()
if child == 0:
    try:
        stock.take()
    except StockError as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_copy_is_refused(tmp_path):
    assert subprocess.run([sys.executable, "-c", FORK, str(tmp_path)]).returncode == 7


@pytest.mark.parametrize("session", ["short", "../../etc/passwd", "a" * 65, "with space", "", "new\nline1"])
def test_ids_that_are_no_names_are_refused(tmp_path, session):
    with pytest.raises(StockError, match="session id"):
        Ledger.begin(tmp_path, session)


def test_arguments_that_make_no_sense_are_refused(ledger):
    stock = ledger.stock(PROGRAM, 5)
    for call in (
        lambda: stock.take(0),
        lambda: stock.take(-1),
        lambda: stock.add(-1),
        lambda: ledger.stock(OTHER, -1),
        lambda: ledger.stock("not hex", 1),
    ):
        with pytest.raises(StockError):
            call()
    assert stock.used == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "use", "add"]), st.integers(-1, 4)), max_size=12))
def test_no_number_is_ever_given_twice(tmp_path_factory, steps):
    with Ledger.begin(tmp_path_factory.mktemp("stock"), new_session()) as ledger:
        stock, given_out, size = ledger.stock(PROGRAM, 3), [], 3
        for what, n in steps:
            try:
                if what == "take":
                    given_out += [ticket.number for ticket in stock.take(n)]
                elif what == "use":
                    stock.use(Ticket(ledger.session, PROGRAM, n))
                    given_out.append(n)
                else:
                    stock.add(n)
                    size += n
            except StockError:
                pass
        assert given_out == list(range(len(given_out)))
        assert len(given_out) <= size


def test_no_seed_or_secret_is_on_disk(ledger):
    ledger.stock(PROGRAM, 5).take()
    names = sorted(path.name for path in ledger.directory.iterdir())
    assert names == [f"{PROGRAM}.counter", "open"]
