"""Logs and ports: what the local provider keeps on the machine."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from labspawner.errors import NoRoom
from labspawner.model import LeaseId
from labspawner.providers.local.logs import LogBook
from labspawner.providers.local.ports import Ports
from labspawner.providers.redaction import redact, secrets_in
from labspawner.testing.hub import free_ports

ONE = LeaseId("lone")
TWO = LeaseId("ltwo")


@pytest.fixture
def book(tmp_path: Path) -> LogBook:
    return LogBook(tmp_path / "logs", limit_bytes=1000, kept=1)


def write(book: LogBook, lease_id: LeaseId, text: str) -> None:
    descriptor = book.open(lease_id)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def test_a_log_is_private_and_its_tail_hides_secrets(book: LogBook) -> None:
    write(book, ONE, "first\nGET /?token=abcdef0123\nkey s3cret-value\n")

    tail = book.tail(ONE, 2, secrets=["s3cret-value"])

    assert tail == "GET /?token=[hidden]\nkey [hidden]"
    assert stat.S_IMODE(book.path(ONE).stat().st_mode) == 0o600


def test_no_log_and_no_lines_are_empty(book: LogBook) -> None:
    write(book, ONE, "x\n")

    assert book.tail(TWO, 5) == ""
    assert book.tail(ONE, 0) == ""


def test_a_planted_link_is_neither_written_nor_read(book: LogBook, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hub's own")
    write(book, TWO, "x")
    book.path(ONE).symlink_to(tmp_path / "secret")

    assert book.tail(ONE, 5) == ""
    with pytest.raises(OSError, match="symbolic"):
        book.open(ONE)


def test_a_log_stays_in_its_folder_whatever_the_lease_is_called(book: LogBook, tmp_path: Path) -> None:
    assert book.path(LeaseId("../../etc/x")).parent == tmp_path / "logs"


def test_a_long_live_log_loses_its_beginning_while_it_is_written(book: LogBook) -> None:
    descriptor = book.open(ONE)
    try:
        os.write(descriptor, b"".join(b"line %d\n" % number for number in range(500)))
        book.prune({ONE})
        os.write(descriptor, b"the end\n")
    finally:
        os.close(descriptor)

    assert book.path(ONE).stat().st_size < 1000
    assert book.tail(ONE, 2) == "line 499\nthe end"


def test_only_the_newest_logs_of_ended_servers_are_kept(book: LogBook) -> None:
    for number, lease_id in enumerate(("lold", "lnew", "llive")):
        write(book, LeaseId(lease_id), "x")
        os.utime(book.path(LeaseId(lease_id)), (number, number))

    book.prune({LeaseId("llive")})

    assert sorted(path.stem for path in book.path(ONE).parent.iterdir()) == ["llive", "lnew"]


def test_pruning_before_the_first_log_is_nothing(book: LogBook) -> None:
    book.prune(set())


def test_secrets_are_found_by_name_and_short_ones_are_left() -> None:
    environment = {"JUPYTERHUB_API_TOKEN": "0123456789", "DB_PASSWORD": "hunter22", "MY_TOKEN": "1", "LANG": "C.UTF-8"}

    assert secrets_in(environment) == {"0123456789", "hunter22"}
    assert redact("Authorization: token abc", ()) == "Authorization: token [hidden]"


def test_two_launches_never_get_the_same_port() -> None:
    ports = Ports("127.0.0.1", None)

    taken = [ports.take(LeaseId(f"l{number}")) for number in range(50)]

    assert len(set(taken)) == 50


def test_a_taken_or_avoided_port_of_the_range_is_passed_over() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        first = busy.getsockname()[1]
        ports = Ports("127.0.0.1", (first, min(first + 20, 65535)))

        assert ports.take(ONE, avoid={first + 1}) > first + 1


def test_no_free_port_is_said_and_a_port_given_back_is_used_again() -> None:
    (port,) = free_ports(1)
    ports = Ports("127.0.0.1", (port, port))
    assert ports.take(ONE) == port

    with pytest.raises(NoRoom) as failure:
        ports.take(TWO)
    ports.give_back(ONE)

    assert "no free network port" in failure.value.message
    assert ports.take(TWO) == port
