"""The way to the world is tried before it is promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from labspawner.providers.local.network import egress
from labspawner.providers.local.network.egress import denied, find_egress, host_addresses, resolv_conf


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin:/usr/sbin:/sbin")
    return tmp_path


def slirp(folder: Path, script: str) -> None:
    """A slirp4netns of our own, first on the path; it shows its arguments in `asked`."""
    program = folder / "slirp4netns"
    program.write_text(f'#!/bin/bash\necho "$*" >> {folder}/asked\n{script}\n')
    program.chmod(0o755)


READY = """
for word in "$@"; do case $word in
  --ready-fd=*) ready=${word#*=};;
  --exit-fd=*) life=${word#*=};;
esac; done
echo -n 1 >&$ready
eval "exec $ready>&-"
cat <&$life
"""


def test_where_it_is_missing_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("PATH", str(path))

    found = find_egress()

    assert not found.available
    assert str(found.missing) == "slirp4netns is missing: apt-get install slirp4netns"


def test_one_that_works_is_taken_with_all_its_guards(path: Path) -> None:
    slirp(path, READY)

    found = find_egress()

    assert found.missing is None
    assert found.command[0] == str(path / "slirp4netns")
    assert {"--disable-host-loopback", "--enable-sandbox", "--enable-seccomp"} <= set(found.command)


def test_guards_that_do_not_work_here_are_left_out_and_that_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slirp(path, f'[[ $* == *--enable-sandbox* ]] && {{ echo "no sandbox" >&2; exit 1; }}\n{READY}')

    found = find_egress()

    assert "--enable-sandbox" not in found.command
    assert "--enable-seccomp" in found.command
    assert "no sandbox" in caplog.text


def test_one_that_does_not_work_says_why(path: Path) -> None:
    slirp(path, 'echo "cannot open /dev/net/tun" >&2; exit 1')

    found = find_egress()

    assert not found.available
    assert "cannot open /dev/net/tun" in str(found.missing)


def test_one_that_says_nothing_is_no_way_either(path: Path) -> None:
    slirp(path, "exit 0")

    assert "ended without a word" in str(find_egress().missing)


def test_one_that_hangs_is_given_up_and_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_TRIAL_S", 0.2)
    slirp(path, "exec sleep 60")

    assert "not ready within" in str(find_egress().missing)


def test_a_machine_without_namespaces_has_none(path: Path) -> None:
    slirp(path, READY)
    unshare = path / "unshare"
    unshare.write_text('#!/bin/sh\necho "unshare failed: Operation not permitted" >&2\nexit 1\n')
    unshare.chmod(0o755)

    assert "Operation not permitted" in str(find_egress().missing)


def test_every_address_of_the_machine_metadata_and_link_local_are_denied() -> None:
    networks = denied(host=lambda: ["192.0.2.7", "fd00::7"])

    assert {"192.0.2.7/32", "fd00::7/128", "169.254.0.0/16", "100.100.100.200/32", "fe80::/10"} <= set(networks)


def test_what_the_administrator_adds_is_denied_too_and_nonsense_is_an_error() -> None:
    assert "10.0.0.0/8" in denied(["10.1.2.3/8"], host=lambda: [])
    with pytest.raises(ValueError, match="campus"):
        denied(["campus"], host=lambda: [])


def test_the_addresses_of_this_machine_are_found_without_its_loopback() -> None:
    found = list(host_addresses())

    assert not {address for address in found if address.startswith("127.") or address == "::1"}
    assert not any("%" in address for address in found)


def test_names_are_asked_for_where_slirp4netns_answers_and_the_search_list_stays() -> None:
    host = "# made by hand\nnameserver 127.0.0.53\nsearch lab.example\noptions edns0\n"

    assert resolv_conf(host) == "search lab.example\noptions edns0\nnameserver 10.0.2.3\n"
    assert resolv_conf("") == "nameserver 10.0.2.3\n"
