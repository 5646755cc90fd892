"""labspawner-guest: what it takes, what it keeps from whom, and how it keeps a server."""

from __future__ import annotations

import ast
import base64
import json
import os
import stat

import pytest

from labspawner.guest import CHECKS, HELPER, MAX_INPUT_BYTES, PROTOCOL, REASONS, UNIT, helper_source, labspawner_guest
from labspawner.guest.labspawner_guest import (
    Refused,
    read_request,
    redacted,
    sessions_of_loginctl,
    sessions_of_who,
)
from labspawner.testing import tinyserver
from labspawner.testing.waiting import eventually_sync


def a_request(**changes):
    found = {"protocol": 1, "user": "alice", "command": ["jupyterhub-singleuser"], "environment": {"A": "1"}}
    return json.dumps({key: value for key, value in {**found, **changes}.items() if value is not None}).encode()


# -- the file


def test_it_is_one_file_that_python_3_8_reads_and_that_imports_the_standard_library_alone(source):
    tree = ast.parse(source, feature_version=(3, 8))

    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {
        "__future__", "base64", "binascii", "collections", "contextlib", "datetime", "fcntl", "glob", "hashlib", "http",
        "json", "os", "pwd", "re",
        "shutil", "signal", "socket", "ssl", "stat", "subprocess", "sys", "time", "typing", "urllib",
    }  # fmt: skip
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"removeprefix", "removesuffix", "pidfd_open", "to_thread"}
    assert helper_source() == source
    assert source.startswith("#!/usr/bin/env python3\n")


def test_the_file_and_the_package_mean_the_same(source):
    assert (labspawner_guest.PROTOCOL, labspawner_guest.HELPER, labspawner_guest.UNIT) == (PROTOCOL, HELPER, UNIT)
    assert labspawner_guest.MAX_INPUT_BYTES == MAX_INPUT_BYTES
    tree = ast.parse(source)
    said = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Refused"
        and isinstance(node.args[0], ast.Constant)
    }
    assert said == REASONS


# -- what it takes


def test_a_request_comes_back_complete():
    found = read_request(a_request())

    assert found == {
        "user": "alice", "home": "", "lease": "", "command": ["jupyterhub-singleuser"], "environment": {"A": "1"},
        "files": {}, "when_ended": "stay",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "bad_input"),
        (b"nonsense", "bad_input"),
        (b"[]", "bad_input"),
        (b"\xff\xfe", "bad_input"),
        (b"[" * 60_000, "bad_input"),
        (a_request(environment={"A": "x" * MAX_INPUT_BYTES}), "bad_input"),
        (a_request(protocol=2), "protocol"),
        (a_request(protocol=None), "protocol"),
        (a_request(protocol=True), "protocol"),
        (a_request(command=[]), "bad_input"),
        (a_request(command="jupyterhub-singleuser"), "bad_input"),
        (a_request(command=["a\0b"]), "bad_input"),
        (a_request(user=""), "bad_input"),
        (a_request(user=7), "bad_input"),
        (a_request(user="root"), "no_user"),
        (a_request(environment={"A=B": "1"}), "bad_input"),
        (a_request(environment={"A": 1}), "bad_input"),
        (a_request(environment=[1]), "bad_input"),
        (a_request(files={"../x": "1"}), "bad_input"),
        (a_request(when_ended="explode"), "bad_input"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(raw, reason):
    with pytest.raises(Refused) as refused:
        read_request(raw)

    assert refused.value.reason == reason
    assert refused.value.message.endswith(".")
    assert refused.value.reason in REASONS


def test_a_refusal_names_no_secret(vm):
    answer = vm.say("configure", request={**vm.request(), "command": 7})

    assert (answer["ok"], answer["reason"]) == (False, "bad_input")
    assert vm.token not in json.dumps(answer)


@pytest.mark.parametrize("words", [[], ["nonsense"], ["logs"], ["logs", "x"], ["status", "more"], ["configure", "x"]])
def test_a_wrong_command_line_is_told_the_verbs(vm, words):
    done = vm.run(*words)

    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["reason"]) == (False, "usage")
    assert "configure" in answer["message"]


# -- the server


def test_a_configured_server_runs_with_its_environment_and_status_knows_it(vm):
    answer = vm.say("configure", request=vm.request())
    vm.listening()
    status = vm.say("status")

    assert {key: answer[key] for key in ("lease", "state", "started", "replaced", "port")} == {
        "lease": "lease-1", "state": "active", "started": True, "replaced": False, "port": vm.port,
    }  # fmt: skip
    assert (status["lease"], status["user"], status["server"]["port"]) == ("lease-1", "alice", vm.port)
    assert status["server"]["pid"]
    environment = (vm.root / "run/labspawner/server.json").stat()
    assert stat.S_IMODE(environment.st_mode) == 0o600


def test_secrets_are_in_no_command_line_and_in_no_readable_file(vm):
    vm.say("configure", request=vm.request())
    vm.listening()

    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as words:
                    assert vm.token.encode() not in words.read()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    for path in vm.root.rglob("*"):
        if path.is_file() and vm.token in path.read_text(encoding="utf-8", errors="replace"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_same_request_again_leaves_the_server_and_another_replaces_it(vm):
    vm.say("configure", request=vm.request())
    vm.listening()
    first = vm.say("status")["server"]["pid"]

    same = vm.say("configure", request=vm.request())
    assert vm.say("status")["server"]["pid"] == first
    other = vm.say("configure", request=vm.request(lease="lease-2"))
    vm.listening()

    assert (same["started"], same["replaced"]) == (False, False)
    assert (other["started"], other["replaced"]) == (True, True)
    status = vm.say("status")
    assert status["lease"] == "lease-2"
    assert status["server"]["pid"] != first


def test_a_server_that_died_is_started_again_by_the_same_request(vm):
    vm.say("configure", request=vm.request(*tinyserver.command(die_after_s=0.0, exit_code=3, say="boom")))
    eventually_sync(lambda: vm.say("status")["server"]["state"] == "failed", 60)

    again = vm.say("configure", request=vm.request(*tinyserver.command(die_after_s=0.0, exit_code=3, say="boom")))

    assert (again["started"], again["replaced"]) == (True, False)


def test_a_server_that_dies_is_failed_with_its_code_and_its_last_words_without_secrets(vm):
    words = tinyserver.command(
        die_after_s=0.0, exit_code=3, say=f"boom {vm.token} http://x/?token=abcdef&y", never_listen=True
    )
    vm.say("configure", request=vm.request(*words))

    eventually_sync(lambda: vm.say("status")["server"]["state"] == "failed", 60)

    assert vm.say("status")["server"]["exit_code"] == 3
    assert vm.run("logs", "5").stdout.decode() == "boom *** http://x/?token=***&y\n"


def test_a_server_that_cannot_be_started_says_why_in_its_log(vm):
    request = vm.request(home="/home/nobody-made-it")
    vm.say("configure", request=request)

    eventually_sync(lambda: vm.say("status")["server"]["state"] == "failed", 60)

    assert vm.say("status")["server"]["exit_code"] == 127
    assert "cannot be started" in vm.run("logs", "5").stdout.decode()


def test_stop_ends_the_server_and_forgets_its_environment_and_may_be_repeated(vm):
    vm.say("configure", request=vm.request(files={"JUPYTERHUB_SSL_KEYFILE": "a key"}))
    vm.listening()

    assert vm.say("stop")["stopped"] is True
    assert vm.say("stop")["stopped"] is False

    status = vm.say("status")
    assert (status["lease"], status["server"]["state"], status["server"]["listening"]) == (None, "inactive", False)
    assert not list((vm.root / "run/labspawner").rglob("*.json"))
    assert not (vm.root / "run/labspawner/files").exists()


def test_a_server_that_does_not_listen_to_sigterm_is_ended_all_the_same(vm):
    vm.say("configure", request=vm.request(*tinyserver.command(deaf=True)))
    vm.listening()
    machine = labspawner_guest.Machine({"LABSPAWNER_GUEST_ROOT": str(vm.root), "LABSPAWNER_GUEST_INIT": "process"})

    labspawner_guest.Own(machine, stop_s=0.2).stop()

    assert vm.say("status")["server"]["state"] == "inactive"
    assert vm.say("status")["server"]["listening"] is False


def test_files_become_paths_in_the_environment_and_nobody_else_reads_them(vm):
    show = ["/bin/sh", "-c", 'cat "$JUPYTERHUB_SSL_KEYFILE"; pwd; echo "$HOME $USER $A"']
    request = vm.request(*show, files={"JUPYTERHUB_SSL_KEYFILE": "-----BEGIN\n"}, variables={"A": "b c\n'"})

    vm.say("configure", request=request)
    eventually_sync(lambda: vm.say("status")["server"]["state"] == "inactive", 60)

    home = vm.root / "home/alice"
    assert vm.run("logs", "9").stdout.decode() == f"-----BEGIN\n{home}\n{home} alice b c\n'\n"
    key = vm.root / "run/labspawner/files/JUPYTERHUB_SSL_KEYFILE"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_template_without_the_program_refuses_and_names_where_it_looked(vm):
    (vm.root / "etc/labspawner").mkdir(parents=True)
    (vm.root / "etc/labspawner/guest.json").write_text('{"path": ["/opt/of-the-lab/bin"]}')

    answer = vm.say("configure", request=vm.request("no-such-program-here"))

    assert (answer["ok"], answer["reason"]) == (False, "no_command")
    assert "/opt/of-the-lab/bin" in answer["message"]


def test_the_folder_that_a_template_names_is_searched_first(vm):
    own = vm.root / "own"
    own.mkdir()
    (own / "lab-server").write_text("#!/bin/sh\necho found\n")
    (own / "lab-server").chmod(0o755)
    (vm.root / "etc/labspawner").mkdir(parents=True)
    (vm.root / "etc/labspawner/guest.json").write_text(json.dumps({"path": [str(own)]}))

    vm.say("configure", request=vm.request("lab-server"))

    eventually_sync(lambda: vm.run("logs", "5").stdout == b"found\n", 60)


def test_status_of_a_machine_that_was_never_configured_is_no_error(vm):
    status = vm.say("status")

    assert (status["lease"], status["user"]) == (None, None)
    assert status["server"] == {"state": "inactive", "pid": None, "exit_code": None, "port": None, "listening": False}
    assert status["activity"] == dict.fromkeys(("last_activity", "kernels", "busy", "terminals", "connections"))
    assert status["cloud_init"] == "absent"


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({"disabled": ""}, "disabled"),
        ({"status.json": '{"v1": {"stage": "init"}}'}, "running"),
        ({"status.json": "{}", "result.json": '{"v1": {"errors": []}}'}, "done"),
        ({"result.json": '{"v1": {"errors": ["x"]}}'}, "error"),
        ({"result.json": '{"v1": {"errors": [], "recoverable_errors": {"WARNING": ["x"]}}}'}, "degraded"),
    ],
)
def test_status_says_how_far_cloud_init_is(vm, files, state):
    folder = vm.root / "run/cloud-init"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)

    assert vm.say("status")["cloud_init"] == state


def test_versions_are_read_from_the_environment_of_the_program(vm):
    packages = vm.root / "opt/lab/lib/python3.12/site-packages"
    (packages / "jupyterhub-5.3.0.dist-info").mkdir(parents=True)
    (packages / "jupyterlab-4.4.1.dist-info").mkdir()
    program = vm.root / "opt/lab/bin/jupyterhub-singleuser"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (vm.root / "etc/labspawner").mkdir(parents=True)
    (vm.root / "etc/labspawner/guest.json").write_text(json.dumps({"path": [str(program.parent)]}))

    versions = vm.say("status")["versions"]

    assert versions == {"python": "3.12", "jupyterhub": "5.3.0", "jupyterlab": "4.4.1", "labspawner": None}


# -- pure parts


def test_sessions_are_read_from_who():
    text = "alice    tty1         2026-11-22 11:00\nbob      pts/0        2026-11-22 11:02 (10.0.0.9)\nnonsense\n"

    found = sessions_of_who(text, {"tty1": 1000.0}.get)

    assert found == [
        {"user": "alice", "where": "tty1", "remote": "", "last_input": "1970-01-01T00:16:40+00:00"},
        {"user": "bob", "where": "pts/0", "remote": "10.0.0.9", "last_input": None},
    ]


def test_sessions_are_read_from_loginctl_without_those_of_programs():
    text = (
        "Name=alice\nTTY=\nDisplay=:0\nRemoteHost=\nIdleSinceHint=1000000000\nClass=user\n\n"
        "Name=gdm\nTTY=tty1\nDisplay=\nClass=greeter\n\n"
        "Name=bob\nTTY=pts/1\nRemoteHost=10.0.0.9\nIdleSinceHint=0\nClass=user\n\nNonsense"
    )

    assert sessions_of_loginctl(text) == [
        {"user": "alice", "where": ":0", "remote": "", "last_input": "1970-01-01T00:16:40+00:00"},
        {"user": "bob", "where": "pts/1", "remote": "10.0.0.9", "last_input": None},
    ]


def test_values_of_secret_variables_are_taken_out_and_short_ones_are_left():
    text = redacted("s3cr3t-value 8888 ?token=abc", {"MY_SECRET": "s3cr3t-value", "PORT": "8888", "A_TOKEN": "88"})

    assert text == "*** 8888 ?token=***"


# -- check


def test_check_names_what_a_template_has_not_and_what_to_do(vm):
    answer = json.loads(vm.run("check").stdout)

    found = {row["code"]: row for row in answer["findings"]}
    assert tuple(found) == CHECKS
    assert answer["ok"] is False
    assert found["helper"]["level"] == found["guest-agent"]["level"] == found["jupyterhub"]["level"] == "error"
    assert all(row["hint"].strip() for row in found.values() if row["level"] != "ok")
    assert all(row["hint"] == "" for row in found.values() if row["level"] == "ok")


def test_check_is_content_with_a_good_template(vm):
    if os.geteuid() != 0:
        pytest.skip("only root has files of root")
    for path in (
        "usr/local/sbin/labspawner-guest",
        "usr/sbin/qemu-ga",
        "usr/bin/cloud-init",
        "opt/lab/bin/jupyterhub-singleuser",
    ):
        file = vm.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    for name in ("jupyterhub-6.1.1", "jupyterlab-4.4.1", "labspawner-0.1.0"):
        (vm.root / "opt/lab/lib/python3.12/site-packages" / f"{name}.dist-info").mkdir(parents=True)
    (vm.root / "etc/labspawner").mkdir(parents=True)
    (vm.root / "etc/labspawner/guest.json").write_text(json.dumps({"path": [str(vm.root / "opt/lab/bin")]}))
    (vm.root / "etc/machine-id").write_text("uninitialized\n")

    answer = vm.say("check")

    left = {row["code"] for row in answer["findings"] if row["level"] != "ok"}
    assert answer["ok"] is True
    assert left <= {"systemd", "disk-space"}  # this machine's own


@pytest.mark.parametrize(
    ("path", "text", "blocked"),
    [
        ("etc/qemu/qemu-ga.conf", "[general]\nblock-rpcs=guest-exec,guest-file-open\n", True),
        ("etc/sysconfig/qemu-ga", 'BLACKLIST_RPC="guest-file-open,guest-exec"\n', True),
        ("etc/sysconfig/qemu-ga", 'FILTER_RPC_ARGS="--allow-rpcs=guest-ping,guest-info"\n', True),
        ("etc/sysconfig/qemu-ga", 'FILTER_RPC_ARGS="--allow-rpcs=guest-ping,guest-exec,guest-exec-status"\n', False),
        ("etc/qemu/qemu-ga.conf", "# block-rpcs=guest-exec\n", False),
    ],
)
def test_check_sees_an_agent_that_may_run_nothing(vm, path, text, blocked):
    file = vm.root / path
    file.parent.mkdir(parents=True)
    file.write_text(text)

    found = {row["code"]: row for row in json.loads(vm.run("check").stdout)["findings"]}

    assert (found["guest-exec"]["level"] == "error") is blocked


# -- call-home


def at_home(vm, hub, nonce="nonce-1", **more):
    (vm.root / "etc/labspawner").mkdir(parents=True, exist_ok=True)
    settings = {"url": hub.url, "nonce": nonce, **more}
    (vm.root / "etc/labspawner/call-home.json").write_text(json.dumps(settings))


def test_call_home_shows_its_nonce_and_starts_what_it_is_told(vm, hub):
    at_home(vm, hub)
    hub.answers = [
        (503, {"Retry-After": "0.1"}, b""),
        (202, {"Retry-After": "0"}, b""),
        (200, {}, json.dumps(vm.request()).encode()),
    ]

    answer = vm.say("call-home")
    vm.listening()

    assert (answer["ok"], answer["started"], answer["lease"]) == (True, True, "lease-1")
    assert len(hub.heard) == 3
    path, body = hub.heard[0]
    assert path == "/hub/labspawner/guest/call-home"
    assert (body["protocol"], body["nonce"], body["addresses"]) == (1, "nonce-1", ["127.0.0.1"])


def test_call_home_takes_the_nonce_of_smbios_where_the_template_has_the_url_alone(vm, hub):
    at_home(vm, hub, nonce="")
    folder = vm.root / "sys/class/dmi/id"
    folder.mkdir(parents=True)
    (folder / "product_serial").write_text("labspawner:nonce-2\n")
    (folder / "product_uuid").write_text("ABC-DEF\n")
    hub.answers = [(200, {}, json.dumps(vm.request()).encode())]

    vm.say("call-home")

    assert hub.heard[0][1]["nonce"] == "nonce-2"
    assert hub.heard[0][1]["uuid"] == "abc-def"


def user_data(vm, text):
    kept = vm.root / labspawner_guest.USER_DATA.lstrip("/")
    kept.parent.mkdir(parents=True)
    kept.write_text(text)


def invitation(hub, nonce="n" * 43):
    url = base64.urlsafe_b64encode(hub.url.encode()).decode().rstrip("=")
    return f"password: $6$labspawner${nonce}${url}\n"


def test_call_home_takes_nonce_and_url_of_what_cloud_init_was_told_and_needs_no_file_of_the_template(vm, hub):
    user_data(vm, f"#cloud-config\nuser: alice\n{invitation(hub)}chpasswd:\n  expire: False\n")
    hub.answers = [(200, {}, json.dumps(vm.request()).encode())]

    answer = vm.say("call-home", LABSPAWNER_GUEST_ADDRESS=vm.address)

    assert answer["started"]
    assert hub.heard[0][1]["nonce"] == "n" * 43
    assert set(hub.heard[0][1]["versions"]) <= {"python", "jupyterhub", "jupyterlab", "labspawner"}


@pytest.mark.parametrize(
    "text",
    [
        "password: $6$salt$abc/def\n",
        "password: $6$labspawner$short$aHR0cDovL3g\n",
        "#password: $6$labspawner$" + "n" * 43 + "$aHR0cDovL3g\n",
        "password: $6$labspawner$" + "n" * 43 + "$\n",
        "password: $6$labspawner$" + "n" * 43 + "$____\n",
        "password: $6$labspawner$" + "n" * 43 + "$ZmlsZTovLy9ldGMvcGFzc3dk\n",
    ],
    ids=["a password", "too short", "a comment", "no url", "no text", "a file"],
)
def test_call_home_takes_a_password_for_no_invitation(vm, hub, text):
    user_data(vm, text)

    assert vm.say("call-home")["reason"] == "no_nonce"
    assert hub.heard == []


def test_call_home_waits_for_cloud_init_which_makes_the_account(vm, hub):
    user_data(vm, invitation(hub))
    folder = vm.root / "run/cloud-init"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"v1": {"stage": "init"}}')
    hub.answers = [(200, {}, json.dumps(vm.request()).encode())]
    machine = labspawner_guest.Machine({"LABSPAWNER_GUEST_ROOT": str(vm.root)})

    labspawner_guest._until_set_up(machine, patience_s=0.2)
    assert machine.cloud_init() == "running"
    (folder / "result.json").write_text('{"v1": {"errors": []}}')

    assert vm.say("call-home")["started"]


def test_the_unit_that_calls_home_runs_the_helper_where_it_belongs_and_after_the_network(vm):
    text = vm.run("call-home-unit").stdout.decode()

    assert f"ExecStart=-{HELPER} call-home\n" in text
    assert "After=network-online.target" in text
    assert "WantedBy=" in text


def test_addresses_and_variables_of_a_test_mean_nothing_outside_of_one(tmp_path):
    given = {"LABSPAWNER_GUEST_ADDRESS": "127.9.9.9", "LABSPAWNER_GUEST_VARIABLES": '{"A": "b"}'}

    real = labspawner_guest.Machine(given)
    tested = labspawner_guest.Machine({**given, "LABSPAWNER_GUEST_ROOT": str(tmp_path)})

    assert (real.source, real.variables) == ("", {})
    assert (tested.source, tested.variables) == ("127.9.9.9", {"A": "b"})


@pytest.mark.parametrize("status", [302, 400, 403, 404, 410, 500])
def test_call_home_takes_a_refusal_for_final(vm, hub, status):
    at_home(vm, hub)
    hub.answers = [(status, {"Location": hub.url + "/elsewhere"}, b"")]

    answer = vm.say("call-home")

    assert (answer["ok"], answer["reason"]) == (False, "hub_refused")
    assert len(hub.heard) == 1
    assert vm.say("status")["server"]["state"] == "inactive"


def test_call_home_without_a_nonce_calls_nobody(vm, hub):
    at_home(vm, hub, nonce="")

    assert vm.say("call-home")["reason"] == "no_nonce"
    assert hub.heard == []


def test_call_home_gives_up_on_a_hub_that_never_has_an_answer(hub):
    hub.answers = [(503, {"Retry-After": "0.1"}, b""), (503, {"Retry-After": "50"}, b""), (503, {}, b"")]

    with pytest.raises(Refused) as refused:
        labspawner_guest._fetched(hub.url + "/call-home", b"{}", "", patience_s=50.0)

    assert refused.value.reason == "hub_silent"
    assert len(hub.heard) == 2  # for the third time it would be too late
