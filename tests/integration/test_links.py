"""Links of given rate and latency: what is sent arrives, in order, and a private program runs over them."""

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.links import ROOT, Link, NotPermittedError, joined, link_named
from comet_jax.commands.bench import measure
from comet_jax.commands.jobs import Job
from comet_jax.errors import CometError

ECHO = """
import socket
server = socket.create_server(("10.77.0.2", 7000))
print("ready", flush=True)
sock, _ = server.accept()
while data := sock.recv(1 << 16):
    sock.sendall(data)
"""
# Sends what it reads and prints what comes back, both at once.
SEND = """
import socket, sys, threading
sock, data = socket.create_connection(("10.77.0.2", 7000)), sys.stdin.buffer.read()
sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
sender.start()
while back := sock.recv(1 << 16):
    sys.stdout.buffer.write(back)
sender.join()
"""
# As in a container without privileges, whoever runs the tests: CAP_SYS_ADMIN is out of reach.
UNPRIVILEGED = """
import ctypes, sys
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN)
from benchmarks.links import main
sys.argv = ["links", "relu", "--links", "lan"]
main()
"""


@pytest.fixture
def two():
    """Two hosts, 200 Mbit/s and 4 ms apart."""
    try:
        with joined(Link(200, 4), ("party0", "party1")) as places:
            yield places
    except NotPermittedError as error:
        pytest.skip(str(error))


def test_bytes_arrive_in_order_both_ways_at_once(two):
    data = np.random.default_rng(0).bytes(3_000_001)
    command = lambda role, script: [*two[role].prefix, sys.executable, "-c", script]
    with subprocess.Popen(command("party1", ECHO), stdout=subprocess.PIPE) as echo:
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == b"ready\n"
            sent = subprocess.run(command("party0", SEND), input=data, capture_output=True, timeout=60, check=True)
        finally:
            echo.kill()
    assert sent.stdout == data


def test_a_host_reaches_nobody_but_the_others(two):
    routes = subprocess.run([*two["party0"].prefix, "ip", "route"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in routes.stdout.splitlines()] == ["10.77.0.0/24"]


def test_a_private_program_runs_over_links():
    try:
        with joined(Link(1000, 2)) as places:
            found = measure(Job(job="layernorm", tokens=2, runs=1), "processes", places)
    except NotPermittedError as error:
        pytest.skip(str(error))
    assert found["max_abs_err"] < 0.01
    assert found["wall_s"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_who_may_not_make_links_is_told_why():
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", UNPRIVILEGED], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "skipped: links cannot be made here: unshare" in done.stderr


@pytest.mark.parametrize("name", ["lans", "5", "0/1", "10/-1", "nan/1", "1/2/3"])
def test_links_that_are_none_are_refused(name):
    with pytest.raises(CometError, match="there is no link"):
        link_named(name)


def test_links_have_names_or_numbers():
    assert link_named("wan") == Link(100, 40)
    assert link_named("250/10") == Link(250, 10)
