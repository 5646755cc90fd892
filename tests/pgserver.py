"""A real PostgreSQL for tests: a server of our own on a unix socket, or that of LABSPAWNER_TEST_PG_URL."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

_numbers = itertools.count()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server: LABSPAWNER_TEST_PG_URL, or one that ends with this block. Skips the test where there is none."""
    if url := os.environ.get("LABSPAWNER_TEST_PG_URL"):
        yield url
        return
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found or not shutil.which("setpriv"):
        pytest.skip("no PostgreSQL: set LABSPAWNER_TEST_PG_URL, or install Debian's packages postgresql and util-linux")
    folder = tempfile.mkdtemp(prefix="lab-pg-")  # a short path: a unix socket's name ends at 107 bytes
    try:
        yield from _cluster(found[-1].parent, Path(folder))
    finally:
        shutil.rmtree(folder)


@contextmanager
def schema_of_its_own(server: str) -> Iterator[str]:
    """The URL of an empty schema there, which goes with this block."""
    name = f"labspawner_test_{os.getpid()}_{next(_numbers)}"
    engine = sa.create_engine(server, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        url = sa.make_url(server).update_query_dict({"options": f"-csearch_path={name}"})
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))


def _cluster(binaries: Path, folder: Path) -> Iterator[str]:
    """A server on a unix socket only, which dies with this process, however that ends."""
    run_as = ["setpriv", "--pdeathsig=INT"]
    if os.geteuid() == 0:  # initdb refuses root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        run_as += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    data = folder / "data"
    options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run(
        [*run_as, binaries / "initdb", "-D", data, *options], check=True, cwd=folder, stdout=subprocess.DEVNULL
    )
    settings = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("wb") as output:
        server = subprocess.Popen(
            [*run_as, binaries / "postgres", "-D", data, *settings], cwd=folder, stdout=output, stderr=output
        )
    try:
        url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        _wait_until_it_answers(url, server, folder / "log")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(120)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    deadline = time.monotonic() + 240
    while True:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
