"""Credentials of all roles, and pairs of connected links."""

from __future__ import annotations

import contextlib
import threading

import pytest

from comet_jax.runtime import credentials
from comet_jax.runtime.link import connect, listen


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A directory with the credentials of every role."""
    directory = tmp_path_factory.mktemp("keys")
    credentials.create(directory)
    return directory


@pytest.fixture
def load(keys):
    """role -> its credentials."""
    return lambda role: credentials.load(keys, role)


@pytest.fixture
def pair(load):
    """Makes two connected links: pair("party0", "party1", limits=...) -> (listening side, connecting side)."""
    with contextlib.ExitStack() as stack:

        def make(server: str = "party0", client: str = "party1", purpose: str = "test", **options):
            listener = stack.enter_context(listen(load(server), **options))
            result = []

            def dial():
                address = ("127.0.0.1", listener.port)
                result.append(connect(load(client), server, address, purpose, timeout=10, **options))

            thread = threading.Thread(target=dial)
            thread.start()
            one = stack.enter_context(listener.accept(client, purpose, timeout=10))
            thread.join()
            return one, stack.enter_context(result[0])

        yield make


@pytest.fixture
def both():
    """Runs functions at the same time: both(f, g) -> their results, an exception counting as a result."""

    def run(*functions):
        results = [None] * len(functions)

        def call(index):
            try:
                results[index] = functions[index]()
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    return run
