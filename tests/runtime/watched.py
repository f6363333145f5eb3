"""A process under a watchdog, for test_watchdog.py: `python watched.py KEYS ROLE HOW PORT [PEER]`.

HOW is "listen" (for each of PEER,PEER) or "connect" (to PEER). Prints its port, then "up", then blocks in a way
that Python cannot interrupt, like a thread inside a collective does, until told otherwise on stdin.
"""

from __future__ import annotations

import sys
import threading

from comet_jax.runtime import credentials
from comet_jax.runtime.link import connect, listen
from comet_jax.runtime.watchdog import Watchdog


def main() -> None:
    keys, role, how, port, peers = sys.argv[1:6]
    mine = credentials.load(keys, role)
    if how == "listen":
        listener = listen(mine)
        print(listener.port, flush=True)
        links = [listener.accept(peer, "watch") for peer in peers.split(",")]
    else:
        links = [connect(mine, peers, ("127.0.0.1", int(port)), "watch")]
    with Watchdog(links, timeout=2.0) as watchdog:
        print("up", flush=True)
        # A lock that nobody releases: the main thread waits in C.
        stuck = threading.Lock()
        stuck.acquire()

        word: list[str] = []

        def listen_to_stdin() -> None:
            word.append(sys.stdin.readline().strip())
            if word[0]:
                stuck.release()

        threading.Thread(target=listen_to_stdin, daemon=True).start()
        stuck.acquire()
        if word[0] == "abort":
            watchdog.abort("NaN in input 'tokens'")
            raise SystemExit(3)
        if word[0] == "raise":
            raise ValueError("secret value 4711")


if __name__ == "__main__":
    main()
