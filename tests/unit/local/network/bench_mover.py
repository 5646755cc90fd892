"""How much a pump costs: `python tests/unit/local/network/bench_mover.py` prints throughput and latency beside a
direct connection in the same run. Numbers depend on the machine; the ratios are what to look at."""

from __future__ import annotations

import os
import select
import socket
import statistics
import tempfile
import time
from pathlib import Path

from labspawner.providers.local.warm.mover import Mover

TOTAL_BYTES = 2**30
ROUNDS = 3000


def forked_server(address: str) -> int:
    """A process that answers the first byte `p` of a connection with each message, and swallows all else."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    pid = os.fork()
    if pid:
        listening.close()
        return pid
    buffer = bytearray(2**18)
    while True:
        accepted, _ = listening.accept()
        answers = accepted.recv(1) == b"p"
        while count := accepted.recv_into(buffer):
            if answers:
                accepted.sendall(buffer[:count])
        if not answers:
            accepted.sendall(b"e")
        accepted.close()


def forked_pump(address: str) -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as front:
        port = int(front.getsockname()[1])
        pid = os.fork()
        if pid:
            return pid, port
        mover = Mover([{"in": "host", "listen": {"fd": os.dup(front.fileno())}, "to": {"unix": address}}])
        front.close()
        while True:
            select.select([mover], [], [], mover.wait_s())
            mover.turn()


def throughput_mb_s(connection: socket.socket) -> float:
    data = memoryview(bytes(2**18))
    connection.sendall(b"t")
    began = time.perf_counter()
    for _ in range(TOTAL_BYTES // len(data)):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b"e"
    return TOTAL_BYTES / 1e6 / (time.perf_counter() - began)


def latency_us(connection: socket.socket) -> float:
    connection.sendall(b"p")
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        connection.sendall(b"x" * 500)
        assert connection.recv(1000)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def connect(to: str | int) -> socket.socket:
    if isinstance(to, int):
        connection = socket.create_connection(("127.0.0.1", to))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(to)
    return connection


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "server.sock")
        server = forked_server(address)
        pump, port = forked_pump(address)
        try:
            rows = {}
            for name, to in (("direct", address), ("pumped", port)):
                with connect(to) as one:
                    rows[name] = (latency_us(one),)
                with connect(to) as one:
                    rows[name] += (throughput_mb_s(one),)
            for name, (latency, throughput) in rows.items():
                print(f"{name}: {latency:7.0f} us a round trip, {throughput:7.0f} MB/s")
            print(f"ratio:  {rows['pumped'][0] / rows['direct'][0]:7.2f}", end="")
            print(f"                  {rows['pumped'][1] / rows['direct'][1]:7.2f}")
        finally:
            for pid in (pump, server):
                os.kill(pid, 9)
                os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
