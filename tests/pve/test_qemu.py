"""One guest that is a virtual machine indeed: its agent answers through the double as the scripted guests' does.

Needs QEMU, a kernel, busybox and the guest agent from Debian's packages, installed or unpacked below LABSPAWNER_QEMU_ROOT.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode

import pytest

from labspawner.testing.pve.guest.qemu import PACKAGES, Kit, QemuGuests, archive
from labspawner.testing.waiting import eventually_sync

VMID, NODE = 20001, "pve1"
ROOT = f"/nodes/{NODE}/qemu/{VMID}"


def ask(pve, method, path, **params):
    """The API's answer, or its status and words."""
    tls = ssl.create_default_context(cafile=str(pve.ca_file))
    body = urlencode(params, doseq=True).encode() if method != "GET" else None
    query = f"?{urlencode(params)}" if method == "GET" and params else ""
    headers = {"Authorization": f"PVEAPIToken={pve.token}"}
    request = urllib.request.Request(f"{pve.url_of(NODE)}/api2/json{path}{query}", body, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(request, timeout=300) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.reason


def ended(pve, upid):
    def over():
        said = ask(pve, "GET", f"/nodes/{NODE}/tasks/{quote(upid, safe='')}/status")
        return said["status"] == "stopped" and said["exitstatus"]

    return eventually_sync(over, 60, f"{upid} ends")


def run(pve, *command, stdin=""):
    more = {"input-data": stdin} if stdin else {}
    pid = ask(pve, "POST", f"{ROOT}/agent/exec", command=list(command), **more)["pid"]

    def over():
        said = ask(pve, "GET", f"{ROOT}/agent/exec-status", pid=pid)
        return said if said["exited"] else None

    return pid, eventually_sync(over, 60, f"{command} ends")


def test_an_archive_of_files_is_one_that_the_kernel_reads():
    made = archive(["bin"], {"bin/x": b"abc"})

    assert made.startswith(b"070701")
    assert made.count(b"070701") == 3
    assert len(made) % 4 == 0
    assert b"bin/x\0" in made
    assert b"TRAILER!!!\0" in made


def test_without_its_packages_it_says_which_ones(tmp_path):
    why = Kit.find({"LABSPAWNER_QEMU_ROOT": str(tmp_path)})

    assert isinstance(why, str)
    assert PACKAGES in why


def test_a_real_guest_boots_and_its_agent_answers_through_the_api(new_pve):
    kit = Kit.find(os.environ)
    if isinstance(kit, str):
        pytest.skip(kit)
    pve = new_pve(guests=QemuGuests(kit), clock="real")
    assert (
        ended(pve, ask(pve, "POST", f"/nodes/{NODE}/qemu/{pve.template}/clone", newid=VMID, name="real", pool=pve.pool))
        == "OK"
    )

    assert ended(pve, ask(pve, "POST", f"{ROOT}/status/start")) == "OK"
    eventually_sync(lambda: ask(pve, "POST", f"{ROOT}/agent/ping") == {"result": {}}, 120, "the agent answers")

    pid, done = run(pve, "/bin/sh", "-c", "echo out; echo err >&2; uname -s; cat > /dev/null; exit 3", stdin="hello")
    assert (done["exitcode"], done["out-data"], done["err-data"]) == (3, "out\nLinux\n", "err\n")
    assert ask(pve, "GET", f"{ROOT}/agent/exec-status", pid=pid) == (500, "Agent error: Invalid parameter 'pid'")
    assert ask(pve, "POST", f"{ROOT}/agent/exec", command=["/no/such/program"])[0] == 596
    assert run(pve, "/bin/sh", "-c", "kill -9 $$")[1] == {"exited": 1, "signal": 9}
    rows = {row["name"]: row for row in ask(pve, "GET", f"{ROOT}/agent/network-get-interfaces")["result"]}
    assert rows["lo"]["ip-addresses"][0]["ip-address"] == "127.0.0.1"
    assert ask(pve, "GET", f"{ROOT}/agent/get-host-name") == {"result": {"host-name": "guest"}}

    run(pve, "/bin/sh", "-c", "echo kept > /run/mark")
    assert ended(pve, ask(pve, "POST", f"{ROOT}/status/suspend", todisk=1)) == "OK"
    assert ask(pve, "POST", f"{ROOT}/agent/ping") == (500, f"VM {VMID} is not running")
    assert ended(pve, ask(pve, "POST", f"{ROOT}/status/start")) == "OK"
    eventually_sync(lambda: ask(pve, "POST", f"{ROOT}/agent/ping") == {"result": {}}, 120, "the agent answers again")
    assert run(pve, "/bin/cat", "/run/mark")[1]["out-data"] == "kept\n"

    assert ended(pve, ask(pve, "POST", f"{ROOT}/status/shutdown", timeout=60)) == "OK"
    assert ask(pve, "GET", f"{ROOT}/status/current")["status"] == "stopped"
