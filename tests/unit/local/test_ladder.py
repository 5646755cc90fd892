"""Which rung is taken, and what is said about it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from labspawner.errors import SetupError
from labspawner.providers.local import ladder
from labspawner.providers.local.confinement import Network, Rung
from labspawner.providers.local.ladder import choose, describe, find_sandbox, judge, report
from labspawner.sentences import Sentence, plain

NO_BWRAP = Sentence("{program} is missing: apt-get install {package}", program="bwrap", package="bubblewrap")
NO_GROUPS, NO_SYSTEMD = plain("no groups"), plain("no systemd")


@pytest.mark.parametrize(
    ("missing", "rung"),
    [
        ((None, None, None), Rung.SYSTEMD),
        ((None, None, NO_SYSTEMD), Rung.CGROUP),
        ((None, NO_GROUPS, NO_SYSTEMD), Rung.RLIMIT),
        ((NO_BWRAP, None, None), Rung.PLAIN),
    ],
)
def test_auto_takes_the_best_that_works(missing: tuple[Sentence | None, ...], rung: Rung) -> None:
    assert choose(judge(*missing)) is rung


def test_a_rung_that_is_set_is_taken_although_a_better_one_works() -> None:
    assert choose(judge(None, None, None), wanted="rlimit") is Rung.RLIMIT


def test_a_rung_that_is_set_and_does_not_work_says_what_to_install() -> None:
    with pytest.raises(SetupError, match="apt-get install bubblewrap") as failure:
        choose(judge(NO_BWRAP, None, None), wanted="cgroup")

    assert "cgroup" in failure.value.message


def test_without_a_sandbox_nothing_starts_where_that_is_not_allowed() -> None:
    with pytest.raises(SetupError, match="apt-get install bubblewrap"):
        choose(judge(NO_BWRAP, None, None), allow_unsandboxed=False)


def test_the_log_names_the_rung_and_why_it_is_no_better(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    report(Rung.RLIMIT, judge(None, NO_GROUPS, NO_SYSTEMD), provider="local")

    assert "rung=rlimit" in caplog.text
    assert "no systemd; no groups" in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_servers_without_a_sandbox_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    report(Rung.PLAIN, judge(NO_BWRAP, NO_GROUPS, NO_SYSTEMD), provider="local")

    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "apt-get install bubblewrap" in record.message


@pytest.mark.parametrize("rung", Rung)
@pytest.mark.parametrize("network", Network)
def test_people_are_told_what_holds_and_what_does_not(rung: Rung, network: Network) -> None:
    for own_uids in (True, False):
        for limited in ((), ("memory", "cpu", "processes")):
            said = describe(rung, own_uids=own_uids, limited=limited, network=network)
            assert len(said) >= 3
            assert any("not" in sentence or "flaw" in sentence for sentence in said)


def test_what_is_not_limited_is_named() -> None:
    said = " ".join(describe(Rung.CGROUP, own_uids=True, limited=("memory",)))

    assert "cpu, processes" in said


def test_a_missing_bubblewrap_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    assert find_sandbox() == NO_BWRAP


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'bwrap: Creating new namespace failed' >&2; exit 1", "Creating new namespace failed"),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_bubblewrap_that_does_not_run_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(ladder, "_lacking_capabilities", list)

    assert said in str(find_sandbox())


def test_a_bubblewrap_that_cannot_be_run_at_all_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bwrap").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(ladder, "_lacking_capabilities", list)

    assert "No such file" in str(find_sandbox())  # although another one comes later on PATH


def test_root_in_a_container_is_told_which_rights_are_missing(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")  # as docker gives

    assert ladder._lacking_capabilities(tmp_path / "status") == ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lack a right of root's")
def test_a_root_without_rights_does_not_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_lacking_capabilities", lambda: ["CAP_SYS_ADMIN"])
    if find_sandbox() == NO_BWRAP:
        pytest.skip("bubblewrap is not installed")

    assert "CAP_SYS_ADMIN" in str(find_sandbox())
