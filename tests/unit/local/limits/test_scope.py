"""Scopes of systemd: the command line, and what is done with the scope, against a double of systemd."""

from __future__ import annotations

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from unit.local.limits.systemd_double import SystemdDouble

from labspawner.errors import SetupError
from labspawner.providers.local.confinement import Limits
from labspawner.providers.local.limits import probe_scopes, scope
from labspawner.providers.local.limits.cgroupfs import Mounts

MIB = 2**20
LIMITS = Limits(cpu=1.5, memory_bytes=512 * MIB, processes=100)
UNIT = "labspawner_hub_local_lease1.scope"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemdDouble:
    found = SystemdDouble(tmp_path, tmp_path / "cgroup")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("JUPYTERHUB_CRYPT_KEY", "a secret of the hub")
    return found


def look(systemd: SystemdDouble, **changes):
    return probe_scopes(
        **{
            "hub_id": "hub",
            "provider": "local",
            "fs": systemd.fs,
            "mounts": Mounts(v2=systemd.root),
            "uid": 0,
            **changes,
        }
    )


@pytest.fixture
def scopes(systemd: SystemdDouble):
    found = look(systemd)
    assert found.groups is not None, found.words
    return found.groups


def test_the_command_line_has_every_limit_and_room_for_our_helpers():
    words = scope.command(UNIT, LIMITS, user_manager=False)

    assert words[:5] == ("systemd-run", "--scope", "--quiet", "--collect", f"--unit={UNIT}")
    properties = {word for before, word in pairwise(words) if before == "-p"}
    assert properties == {
        "Delegate=yes",
        "MemoryAccounting=yes",
        "TasksAccounting=yes",
        f"MemoryMax={(512 + 256) * MIB}",
        "MemorySwapMax=0",
        "CPUQuota=150%",
        "CPUWeight=150",
        "TasksMax=164",
    }
    assert words[-1] == "--"


def test_what_is_not_limited_is_not_named():
    words = " ".join(scope.command(UNIT, Limits(), user_manager=False))

    assert not any(name in words for name in ("MemoryMax", "CPUQuota", "TasksMax"))


def test_an_ordinary_user_asks_their_own_manager():
    assert scope.command(UNIT, LIMITS, user_manager=True)[:2] == ("systemd-run", "--user")


def test_the_smallest_share_is_one_percent():
    assert "CPUQuota=1%" in scope.command(UNIT, Limits(cpu=0.001), user_manager=False)


def test_units_of_different_leases_never_have_one_name():
    names = {
        scope.unit_name(hub_id=hub, provider=provider, name=name)
        for hub, provider, name in [
            ("a", "b", "c"),
            ("a-b", "c", "c"),
            ("a", "b-c", "c"),
            ("a_b", "c", "c"),
            ("A", "b", "c"),
        ]
    }

    assert len(names) == 5
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for name in names)


def test_the_probe_tries_and_leaves_nothing(systemd: SystemdDouble):
    found = look(systemd)

    assert found.words == "scopes of systemd limit memory, CPU, processes"
    assert systemd.units() == []
    assert any("--scope" in call for call in systemd.calls())


def test_a_scope_has_two_leaves_and_the_limits_are_the_servers(scopes, systemd: SystemdDouble):
    group = scopes.create("lease1", LIMITS)

    leaf = systemd.root / "labspawner.slice" / UNIT
    assert group.inside_files == (str(leaf / "inside/cgroup.procs"),)
    assert group.outside_files == (str(leaf / "outside/cgroup.procs"),)
    assert group.limits_of() == LIMITS
    assert (leaf / "outside/memory.max").read_text() == "max"
    assert (leaf / "cgroup.procs").read_text() == ""
    assert len(group.pids()) == 1
    assert group.pids_inside() == frozenset()
    group.joined()
    group.joined()
    assert group.remove()


def test_the_anchor_is_told_no_secret_of_the_hub(scopes):
    group = scopes.create("lease1", LIMITS)
    (anchor,) = group.pids()

    environment = Path(f"/proc/{anchor}/environ").read_text()

    assert "a secret of the hub" not in environment
    group.kill()
    group.remove()


def test_the_anchor_goes_when_it_is_not_needed_any_more_and_the_hub_collects_it(scopes):
    group = scopes.create("lease1", LIMITS)
    (anchor,) = group.pids()

    group.joined()

    assert not Path(f"/proc/{anchor}").exists()
    assert group.remove()


def test_whoever_asks_for_the_scope_may_say_that_the_keeper_has_joined(scopes):
    (anchor,) = scopes.create("lease1", LIMITS).pids()
    assert Path(f"/proc/{anchor}").exists()

    scopes.group("lease1").joined()

    assert not Path(f"/proc/{anchor}").exists()
    assert scopes.group("lease1").remove()


def test_kill_ends_the_anchor_too(scopes, systemd: SystemdDouble):
    group = scopes.create("lease1", LIMITS)
    (anchor,) = group.pids()

    assert group.kill()

    assert not Path(f"/proc/{anchor}").exists()
    assert group.remove()
    assert systemd.units() == []
    assert group.remove()


def test_remove_says_no_while_somebody_lives_in_it(scopes, systemd: SystemdDouble):
    group = scopes.create("lease1", LIMITS)
    with subprocess.Popen(["sleep", "60"]) as server:
        Path(group.inside_files[0]).write_text(str(server.pid))

        assert not group.remove(deadline_s=0.05)

        assert systemd.units() == [UNIT]
        assert group.kill()
    assert group.remove()


def test_a_scope_that_systemd_does_not_remove_is_removed_by_us(scopes, systemd: SystemdDouble):
    group = scopes.create("lease1", LIMITS)
    group.kill()
    systemd.say("keeps")

    assert group.remove()
    assert systemd.units() == []


def test_what_a_crash_left_is_listed_and_only_ours(scopes, systemd: SystemdDouble):
    other = look(systemd, hub_id="hub-b").groups
    made = [scopes.create("lease1", LIMITS), other.create("lease2", LIMITS)]

    found = scopes.list_groups()

    assert set(found) == {"lease1"}
    for group in [*found.values(), *other.list_groups().values()]:
        group.kill()
        assert group.remove()
    for group in made:
        group.joined()


def test_a_scope_of_the_same_name_that_a_killed_hub_left_makes_room(scopes):
    first = scopes.create("lease1", LIMITS)
    (anchor,) = first.pids()

    second = scopes.create("lease1", Limits())

    assert anchor not in second.pids()
    assert second.limits_of() == Limits()
    first.kill()
    second.kill()
    second.remove()


def test_what_systemd_refuses_is_a_sentence_with_its_words_in_the_log(scopes, systemd: SystemdDouble):
    systemd.say("refuse", "Failed to start transient scope unit: Access denied")

    with pytest.raises(SetupError) as caught:
        scopes.create("lease1", LIMITS)

    assert "Access denied" in str(caught.value)
    assert systemd.units() == []


def test_a_systemd_that_hangs_is_waited_for_no_longer_than_told(scopes, systemd: SystemdDouble, monkeypatch):
    systemd.say("hang")
    monkeypatch.setattr(scope, "_ANSWER_S", 0.05)

    with pytest.raises(SetupError) as caught:
        scopes.create("lease1", LIMITS)

    assert "does not answer" in str(caught.value)


def test_a_systemd_that_was_uninstalled_meanwhile_is_a_sentence(scopes, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    with pytest.raises(SetupError):
        scopes.create("lease1", LIMITS)


def test_a_scope_whose_limits_cannot_be_set_is_taken_away_again(scopes, systemd: SystemdDouble):
    systemd.fs.refuses["inside/memory.max"] = 16

    with pytest.raises(SetupError) as caught:
        scopes.create("lease1", LIMITS)

    assert "memory.max" in str(caught.value)
    assert systemd.units() == []


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        (0, "no scopes: the system's systemd does not run here (offline)"),
        (1000, "no scopes: the user's systemd does not run here (offline)"),
    ],
)
def test_without_systemd_as_the_first_process_there_are_none(systemd: SystemdDouble, uid, words):
    systemd.say("state", "offline")

    assert look(systemd, uid=uid).words == words


def test_an_ordinary_user_gets_scopes_of_their_own_manager(systemd: SystemdDouble):
    found = look(systemd, uid=1000)

    assert found.groups is not None
    assert all("--user" in call for call in systemd.calls())


def test_without_the_commands_there_are_none(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert probe_scopes(hub_id="hub", provider="local").words == "no scopes: systemd-run and systemctl not found"


def test_older_control_groups_have_none(systemd: SystemdDouble):
    found = look(systemd, mounts=Mounts(v2=systemd.root, v1={"memory": Path("/x")}))

    assert "version 2" in found.words


def test_a_systemd_that_does_not_say_where_its_scope_is_is_not_used(systemd: SystemdDouble):
    systemd.say("mute")

    assert "does not say where" in look(systemd).words
    assert systemd.units() == []


def test_a_systemd_that_refuses_is_not_used(systemd: SystemdDouble):
    systemd.say("refuse", "Interactive authentication required.")

    assert "Interactive authentication required." in look(systemd).words


def test_a_systemctl_that_does_not_run_means_no_scopes(systemd: SystemdDouble):
    (systemd.here / "systemctl").write_text("#!/bin/sh\nexit 1\n")

    assert "(no answer)" in look(systemd).words


def test_a_limit_that_does_not_work_in_the_trial_is_said(systemd: SystemdDouble):
    class Deaf(type(systemd.fs)):
        def write(self, path, text):
            if path.name != "pids.max":
                super().write(path, text)

    systemd.fs.__class__ = Deaf

    assert look(systemd).words == "no scopes: limits of processes are not taken"
    assert systemd.units() == []
