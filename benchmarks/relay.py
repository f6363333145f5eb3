"""A wide-area network in one process: hosts in network namespaces, joined by links of a given rate and latency.

    python -m benchmarks.relay --hosts 4711=10.77.0.1 4712=10.77.0.2 --rate 1e9 --latency 0.001

A host is a namespace, named by a process that lives in it, and an address. Each gets a TUN device, whose other end is
held here. A packet that a host sends is read, waits until it would have arrived, and is written to the host that it is
for. Every ordered pair of hosts has a line of its own: packets queue for it (``rate``), then travel (``latency``).
Queues have no end, so nothing is lost and TCP alone decides how much is under way.

Packets keep the kernel's offload headers: the two kernels hand over up to 64 KB at once while TCP's segments stay those
of an Ethernet, and so do its windows. That is what makes gigabits possible from Python: without limits, two cores of a
loaded machine carried 12 Gbit/s one way and 7 both ways at once. A round trip takes 0.03 ms more than it should, and up
to 0.15 ms more where the relay sleeps between packets.

It prints one line when hosts can reach each other, and runs until its input ends: before the hosts do. It needs root,
`ip`, `nsenter` and /dev/net/tun.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict

import tyro

MTU = 1500
# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
OFFLOAD_HEADER = 10  # struct virtio_net_hdr, before every packet
LARGEST = OFFLOAD_HEADER + 65_535
PR_SET_TIMERSLACK = 29


def open_tun(pid: int, address: str) -> int:
    """A TUN device in the namespace of process ``pid``, with ``address`` of a /24; the descriptor of its other end."""
    tun, name = os.open("/dev/net/tun", os.O_RDWR), f"relay{pid}"
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    for command in (
        ("ip", "link", "set", name, "netns", str(pid)),
        (*inside, "address", "add", f"{address}/24", "dev", name),
        (*inside, "link", "set", name, "mtu", str(MTU), "up"),
    ):
        subprocess.run(command, check=True)
    return tun


def relay(tuns: dict[bytes, int], rate: float, latency: float, until: int) -> None:
    """Carry packets between ``tuns``, address -> descriptor, until the descriptor ``until`` has something to read.

    ``rate``: bits per second of each line. ``latency``: seconds, one way.
    """
    free: defaultdict[tuple[int, bytes], float] = defaultdict(float)  # line -> when it is free again
    travelling: list[tuple[float, int, int, bytes]] = []
    order = itertools.count()
    watched = [*tuns.values(), until]
    while True:
        wait = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        ready, _, _ = select.select(watched, (), (), wait)
        if until in ready:
            return
        for tun in ready:
            packet = os.read(tun, LARGEST)
            to = packet[OFFLOAD_HEADER + 16 : OFFLOAD_HEADER + 20]
            if packet[OFFLOAD_HEADER] >> 4 != 4 or to not in tuns:  # not IPv4, or for nobody
                continue
            line = tun, to
            free[line] = max(free[line], time.monotonic()) + 8 * (len(packet) - OFFLOAD_HEADER) / rate
            heapq.heappush(travelling, (free[line] + latency, next(order), tuns[to], packet))
        while travelling and travelling[0][0] <= time.monotonic():
            _, _, tun, packet = heapq.heappop(travelling)
            os.write(tun, packet)


def main(hosts: tuple[str, ...], rate: float, latency: float) -> None:
    """Join hosts until the input ends.

    Args:
        hosts: PID=ADDRESS, for each a process in its namespace and the IPv4 address that it gets there.
        rate: bits per second.
        latency: seconds, one way.
    """
    # Sleep to the microsecond: by default the kernel may wake a process 50 of them late.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    pairs = [host.split("=") for host in hosts]
    tuns = {socket.inet_aton(address): open_tun(int(pid), address) for pid, address in pairs}
    print("ready", flush=True)
    relay(tuns, rate, latency, sys.stdin.fileno())


if __name__ == "__main__":
    tyro.cli(main)
