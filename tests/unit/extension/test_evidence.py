"""What is seen of kernels, terminals and tabs, piece by piece."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from labspawner.extension import terminals
from labspawner.extension.browsers import FORGOTTEN_AFTER, Browsers, NotAHeartbeat
from labspawner.extension.evidence import Evidence, iso
from labspawner.extension.kernels import KernelLog, Kernels
from labspawner.testing.waiting import eventually_sync

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=timezone.utc)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def status(state: str, parent: str = "execute_request", message: str = "1", **more: Any) -> list[bytes]:
    """A status message as it comes over the wire."""
    header = {"msg_type": "status"}
    parent_header = {"msg_type": parent, "msg_id": message, **more} if parent else {}
    parts = [header, parent_header, {}, {"execution_state": state}]
    return [b"topic", b"<IDS|MSG>", b"signature", *(json.dumps(part).encode() for part in parts)]


@pytest.fixture
def kernel() -> KernelLog:
    return KernelLog()


def test_a_cell_is_busy_from_its_beginning_to_its_end(kernel):
    kernel.read(status("busy"), NOW)
    assert kernel.busy_since == NOW

    kernel.read(status("idle"), later(90))

    assert kernel.busy_since is None
    assert kernel.last_execution == later(90)


@pytest.mark.parametrize(
    "parent", ["kernel_info_request", "complete_request", "debug_request", "comm_info_request", ""]
)
def test_what_a_browser_asks_on_its_own_is_no_work(kernel, parent):
    kernel.read(status("busy", parent), NOW)

    assert kernel.busy_since is None
    assert kernel.last_execution is None


def test_the_end_of_something_else_does_not_end_a_cell(kernel):
    kernel.read(status("busy", message="training"), NOW)

    kernel.read(status("idle", "debug_request", "other"), later(1))
    kernel.read(status("idle", message="an earlier one"), later(2))

    assert kernel.busy_since == NOW


def test_a_button_of_a_widget_that_computes_is_work_but_no_cell(kernel):
    kernel.read(status("busy", "comm_msg"), NOW)

    assert kernel.busy_since == NOW
    assert kernel.last_execution is None


def test_the_next_cell_ends_one_whose_end_was_lost(kernel):
    kernel.read(status("busy", message="1"), NOW)
    kernel.read(status("busy", message="2"), later(10))

    assert kernel.busy_since == later(10)
    kernel.read(status("idle", message="2"), later(20))
    assert kernel.busy_since is None


def test_two_subshells_are_busy_each_on_its_own(kernel):
    kernel.read(status("busy", message="1"), NOW)
    kernel.read(status("busy", message="2", subshell_id="s"), later(10))

    kernel.read(status("idle", message="2", subshell_id="s"), later(20))

    assert kernel.busy_since == NOW


@pytest.mark.parametrize("state", ["starting", "restarting", "dead"])
def test_a_new_or_dead_process_runs_nothing(kernel, state):
    kernel.read(status("busy"), NOW)
    kernel.waiting = True

    kernel.read(status(state, ""), later(1))

    assert (kernel.busy_since, kernel.waiting) == (None, False)


def test_a_kernel_that_died_is_noticed_by_looking(kernel):
    kernel.read(status("busy"), NOW)

    kernel.look("dead", NOW, later(5))

    assert kernel.busy_since is None


def test_a_kernel_that_was_busy_before_we_listened_is_found_and_let_go(kernel):
    kernel.look("busy", later(-60), NOW)
    assert kernel.busy_since is None  # a message may be on its way
    kernel.look("busy", later(-60), later(1))
    assert kernel.busy_since == later(-60)

    kernel.look("idle", NOW, later(2))

    assert kernel.busy_since is None


@pytest.mark.parametrize(
    "parts",
    [[], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"s", b"{", b"{}", b"{}", b"{}"], [b"<IDS|MSG>", b"s", b"[]", b"", b"", b""],
     [b"<IDS|MSG>", b"s", b'{"msg_type": "status"}', b"[]", b"{}", b'{"execution_state": "busy"}']],
)  # fmt: skip
def test_what_is_no_message_is_ignored(kernel, parts):
    kernel.read(parts, NOW)

    assert kernel.busy_since is None


class Gateway:
    """A kernel manager whose kernels run elsewhere: it has states, and nothing to listen to."""

    def __init__(self) -> None:
        self.kernels = {"k": SimpleNamespace(kernel_name="r", execution_state="busy", last_activity=NOW, iopub_port=1)}

    def list_kernel_ids(self) -> list[str]:
        return list(self.kernels)

    def get_kernel(self, kernel_id: str) -> Any:
        return self.kernels[kernel_id]

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.kernels


def test_kernels_behind_a_gateway_are_known_by_their_state():
    gateway = Gateway()
    kernels = Kernels(gateway, lambda: NOW, lambda: None)

    kernels.look()
    kernels.look()

    assert list(kernels.busy()) == [("k", False)]
    gateway.kernels.clear()
    kernels.look()
    assert kernels.ids() == []


async def test_a_session_manager_that_breaks_costs_only_the_paths():
    kernels = Kernels(Gateway(), lambda: NOW, lambda: None)
    evidence = Evidence(kernels=kernels, sessions=None, terminal_manager=lambda: None, clock=lambda: NOW)

    report = await evidence.report()

    assert [kernel["path"] for kernel in report["kernels"]] == [""]
    assert report["terminals"] == []
    assert report["at"] == "2026-11-02T10:00:00.000+00:00"


async def test_evidence_of_use_never_goes_back():
    evidence = Evidence(
        kernels=Kernels(Gateway(), lambda: NOW, lambda: None),
        sessions=None,
        terminal_manager=lambda: None,
        clock=lambda: NOW,
    )
    await evidence.saved(data={"action": "save", "path": "a"}, logger=None, schema_id="")
    await evidence.saved(data={"action": "get", "path": "a"})
    evidence.browsers.heard({"last_input_s_ago": 3600}, NOW)

    assert evidence.last_activity() == NOW


def test_no_instant_is_null():
    assert iso(None) is None


def test_a_tab_is_connected_until_it_is_not_heard_of():
    tabs = Browsers()
    tabs.heard({"id": "a", "visible": True, "last_input_s_ago": 4, "unsaved": ["b.ipynb", "a.py"]}, NOW)
    tabs.heard({"id": "b", "visible": False, "last_input_s_ago": None, "unsaved": ["a.py"]}, later(100))

    assert len(tabs.connected(later(100))) == 2
    assert tabs.unsaved(later(100)) == ["a.py", "b.ipynb"]
    assert len(tabs.connected(NOW + FORGOTTEN_AFTER)) == 1
    assert tabs.last_input == later(-4)


def test_tabs_and_their_documents_have_a_bound():
    tabs = Browsers()
    for number in range(100):
        tabs.heard({"id": str(number), "unsaved": ["x" * 1000 + str(n) for n in range(100)]}, NOW)

    assert len(tabs.connected(NOW)) == 32
    assert all(len(path) == 300 for path in tabs.unsaved(NOW))


@pytest.mark.parametrize(
    "body",
    [None, [], "x", {"last_input_s_ago": True}, {"last_input_s_ago": "1"}, {"last_input_s_ago": -1},
     {"last_input_s_ago": float("nan")}, {"last_input_s_ago": float("inf")}, {"last_input_s_ago": 1e12},
     {"unsaved": {}}, {"unsaved": [1]}],
)  # fmt: skip
def test_what_is_no_heartbeat_is_refused(body):
    with pytest.raises(NotAHeartbeat):
        Browsers().heard(body, NOW)


@pytest.fixture
def shell():
    """A shell in a pseudo-terminal, as a terminal manager holds one."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve("/bin/sh", ["sh"], {"PATH": os.environ["PATH"]})
    yield SimpleNamespace(terminals={"1": SimpleNamespace(ptyproc=SimpleNamespace(pid=pid, fd=master))}, fd=master)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(master)


@pytest.mark.filterwarnings("ignore:.*forkpty:DeprecationWarning")
def test_a_terminal_shows_its_foreground_and_when_somebody_typed(shell):
    [before] = terminals.look(shell)
    assert (before.foreground, before.since) == (None, None)

    os.write(shell.fd, b"sleep 300\n")
    at_work = eventually_sync(lambda: next((t for t in terminals.look(shell) if t.foreground == "sleep 300"), None))
    os.write(shell.fd, b"\x03")
    eventually_sync(lambda: not terminals.look(shell)[0].foreground)

    assert at_work.foreground == "sleep 300"
    assert abs(at_work.since - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert at_work.last_input <= datetime.now(timezone.utc)
    assert terminals.foregrounds([before, at_work]) == ["1"]


def test_a_terminal_that_is_closed_shows_nothing():
    closed = SimpleNamespace(terminals={"1": SimpleNamespace(ptyproc=SimpleNamespace(pid=2**22 + 1, fd=-1))})

    [seen] = terminals.look(closed)

    assert (seen.foreground, seen.last_input) == (None, None)


def test_what_is_no_terminal_was_never_typed_in():
    with open("/dev/null") as file:
        assert terminals.last_input(file.fileno()) is None


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["python", "train.py", "--epochs", "3"], "python train.py --epochs 3"),
        (["/bin/bash"], None),
        (["-bash"], None),
        (["bash", "-il"], None),
        (["bash", "--norc"], None),
        (["bash", "--norc", "-c", "make"], "bash --norc -c make"),
        (["bash", "-c", "make"], "bash -c make"),
        (["sh", "run.sh"], "sh run.sh"),
        (["fish", "--command=make"], "fish --command=make"),
        (["curl", "--token=abcdef", "x"], "curl --token=… x"),
        (["mysql", "--password", "abcdef"], "mysql --password …"),
        (["echo", "x" * 500], "echo " + "x" * 114 + "…"),
        ([], "…"),
    ],
)
def test_a_command_is_shown_short_and_without_secrets_and_a_bare_shell_is_none(monkeypatch, tmp_path, argv, shown):
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))
    monkeypatch.setattr(terminals, "_PROC", tmp_path)

    assert terminals.command_line(77) == shown


def test_a_process_that_is_gone_has_no_beginning():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert terminals.begun(child.pid) is None
    assert terminals.command_line(child.pid) == "…"
