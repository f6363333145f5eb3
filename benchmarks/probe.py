"""What a link really carries: round trips of one byte, and plain TCP transfers, one way and both ways at once.

python -m benchmarks.probe serve 10.77.0.2 7000
python -m benchmarks.probe measure 10.77.0.2 7000    # elsewhere; prints JSON
"""

import json
import socket
import statistics
import struct
import threading
import time

import tyro

CHUNK = 1 << 20
ECHO, RECEIVE, EXCHANGE = b"e", b"r", b"x"
SECONDS = struct.Struct("!d")


def serve(host: tyro.conf.Positional[str], port: tyro.conf.Positional[int]) -> None:
    """Answer one ``measure`` after the other, until ended."""
    with socket.create_server((host, port)) as server:
        print("ready", flush=True)
        while True:
            sock, _ = server.accept()
            with sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                what = sock.recv(1)
                if what == ECHO:
                    while byte := sock.recv(1):
                        sock.sendall(byte)
                elif what == RECEIVE:
                    _receive(sock)
                elif what == EXCHANGE:
                    _exchange(sock, *SECONDS.unpack(sock.recv(SECONDS.size, socket.MSG_WAITALL)))


def measure(
    host: tyro.conf.Positional[str], port: tyro.conf.Positional[int], *, seconds: float = 2.0, trips: int = 50
) -> None:
    """Print round trips (median, milliseconds) and rates (Mbit/s) to who serves at an address.

    Args:
        host: where.
        port: where.
        seconds: for how long a transfer sends.
        trips: how many round trips.
    """
    dial = lambda what: _dial((host, port), what)
    found = {}
    with dial(ECHO) as sock:
        found["rtt_ms"] = round(1e3 * statistics.median(_trip(sock) for _ in range(trips)), 3)
    with dial(RECEIVE) as sock:
        start = time.perf_counter()
        sent = _send(sock, seconds)
        sock.recv(1)  # the end: it has everything
        found["mbps"] = _mbps(sent, start)
    with dial(EXCHANGE) as sock:
        sock.sendall(SECONDS.pack(seconds))
        start = time.perf_counter()
        found["mbps_both_ways"] = _mbps(_exchange(sock, seconds), start)
    print(json.dumps(found))


def _dial(address: tuple[str, int], what: bytes) -> socket.socket:
    sock = socket.create_connection(address, timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(what)
    return sock


def _trip(sock: socket.socket) -> float:
    start = time.perf_counter()
    sock.sendall(ECHO)
    sock.recv(1)
    return time.perf_counter() - start


def _mbps(size: int, start: float) -> float:
    return round(8e-6 * size / (time.perf_counter() - start), 1)


def _send(sock: socket.socket, seconds: float) -> int:
    """Send for ``seconds``, then end this direction; how many bytes."""
    chunk, count, end = bytes(CHUNK), 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        sock.sendall(chunk)
        count += CHUNK
    sock.shutdown(socket.SHUT_WR)
    return count


def _receive(sock: socket.socket) -> int:
    """Read to the end; how many bytes."""
    buffer, count = bytearray(CHUNK), 0
    while size := sock.recv_into(buffer):
        count += size
    return count


def _exchange(sock: socket.socket, seconds: float) -> int:
    """Send for ``seconds`` and receive what the other sends at the same time; how many bytes came."""
    sender = threading.Thread(target=_send, args=(sock, seconds))
    sender.start()
    count = _receive(sock)
    sender.join()
    return count


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"serve": serve, "measure": measure})
