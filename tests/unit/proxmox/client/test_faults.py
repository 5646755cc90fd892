"""What each text means; all of them were seen on a real cluster, unless a line says otherwise."""

from __future__ import annotations

import pytest

from labspawner.providers.proxmox.answers import (
    Fault,
    PveRefused,
    PveSilent,
    PveUntrusted,
    Right,
    TaskEnd,
    classify,
    lock_of,
    lock_vmid_of,
    node_of,
)

UPID = "UPID:pve1:00006F91:000A3BB6:6B0209D5:qmclone:9100:spawner@pve!hub:"

ANSWERS = [
    (500, "unable to create VM 102: config file already exists", Fault.ID_TAKEN),
    (500, "unable to create VM 9000 - VM 9000 already exists on node 'pve1'", Fault.ID_TAKEN),
    (401, "No ticket", Fault.BAD_CREDENTIALS),
    (401, "Permission denied - invalid csrf token", Fault.BAD_CREDENTIALS),
    (403, "Permission check failed (/vms/7001, VM.Audit)", Fault.GONE_OR_FORBIDDEN),
    (403, "Permission check failed (/vms/7060, VM.Config.Disk|VM.Config.CDROM)", Fault.GONE_OR_FORBIDDEN),
    (403, "Permission check failed (/, Sys.Audit)", Fault.FORBIDDEN),
    (403, "Permission check failed (/storage/nostore, Datastore.AllocateSpace)", Fault.FORBIDDEN),
    (403, "Permission check failed", Fault.FORBIDDEN),
    (500, "cluster not ready - no quorum?", Fault.NO_QUORUM),
    (500, "update pools failed: cfs-lock 'file-user_cfg' error: no quorum!", Fault.NO_QUORUM),
    (
        500,
        "unable to open file '/etc/pve/nodes/pve1/qemu-server/7011.conf.tmp.26841' - Permission denied",
        Fault.NO_QUORUM,
    ),
    (500, "VM is locked (backup)", Fault.VM_LOCKED),
    (595, "No route to host", Fault.NODE_AWAY),
    (595, "Connection timed out", Fault.NODE_AWAY),
    (596, "Broken pipe", Fault.BROKEN),
    (500, "no such cluster node 'pve9'", Fault.NODE_UNKNOWN),
    (
        500,
        "hostname lookup 'pve9' failed - failed to get address info for: pve9: Temporary failure in name resolution",
        Fault.NODE_UNKNOWN,
    ),
    (500, "Configuration file 'nodes/pve1/qemu-server/7001.conf' does not exist", Fault.MOVED),
    (500, "unable to find configuration file for VM 9100 on node 'pve2'", Fault.MOVED),
    (500, "QEMU guest agent is not running", Fault.NO_AGENT),
    (500, "No QEMU guest agent configured", Fault.AGENT_OFF),
    (500, "Agent error: Invalid parameter 'pid'", Fault.AGENT_PID),
    (500, "Agent error: failed to open file '/nowhere/x' (mode: 'wb'): No such file or directory", Fault.AGENT_ERROR),
    (500, "Agent error: Command guest-exec has been disabled", Fault.AGENT_BLOCKED),  # QEMU's words, not seen
    (500, "VM 7001 is not running", Fault.NOT_RUNNING),
    (500, "VM 7082 not running", Fault.NOT_RUNNING),
    (500, "VM 7001 is running - destroy failed", Fault.STILL_RUNNING),
    (500, "you can't convert a VM to template if VM is running", Fault.STILL_RUNNING),
    (500, "can't clone VM to node 'pve2' (VM uses local storage)", Fault.LOCAL_STORAGE),
    (500, "parameter 'storage' not allowed for linked clones", Fault.NO_LINK),
    (500, "storage 'nostore' does not exist", Fault.STORAGE_MISSING),
    (500, "only root can set 'args' config", Fault.ROOT_ONLY),
    (500, "can't remove VM 7068 - protection mode enabled", Fault.PROTECTED),
    (500, "checksum mismatch (file change by other user?)", Fault.CHANGED),
    (501, "Method 'GET /nodes/pve1/nothing' not implemented", Fault.NOT_IMPLEMENTED),
    (400, "Parameter verification failed.", Fault.BAD_PARAMETER),
    (500, "something new", Fault.OTHER),
]
ENDS = [
    ("can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout", Fault.LOCK_TIMEOUT),
    (
        "clone failed: can't lock file '/var/lock/pve-manager/pve-storage-ssd_storage' - got timeout",
        Fault.STORAGE_LOCK,
    ),
    ("clone failed: cfs-lock 'storage-ceph' error: got lock request timeout", Fault.STORAGE_LOCK),
    ("unable to create VM 7050: config file already exists", Fault.ID_TAKEN),
    ("you can't start a vm if it's a template", Fault.IS_TEMPLATE),
    ("VM 7001 already running", Fault.ALREADY_RUNNING),
    ("VM is locked (suspended)", Fault.VM_LOCKED),
    ("VM quit/powerdown failed - got timeout", Fault.SHUTDOWN_TIMEOUT),
    ("start failed: command '/usr/bin/kvm -id 7001' failed: got timeout", Fault.START_TIMEOUT),
    ("start failed: QEMU exited with code 1", Fault.QEMU_FAILED),
    ("shrinking disks is not supported", Fault.SHRINKS),
    ("disk 'scsi5' does not exist", Fault.DISK_MISSING),
    ("snapshot 'nosnap' does not exist", Fault.SNAPSHOT_MISSING),
    ("snapshot name 'ready' already used", Fault.SNAPSHOT_TAKEN),
    ("volume 'local:snippets/missing.yaml' does not exist", Fault.VOLUME_MISSING),
    (
        "base volume 'ssd_storage:7062/base-7062-disk-0.qcow2' is still in use by linked cloned",
        Fault.TEMPLATE_IN_USE,
    ),
    (
        "clone failed: copy failed: command '/usr/bin/qemu-img convert' failed: interrupted by signal",
        Fault.INTERRUPTED,
    ),
    (
        "unable to open file '/etc/pve/nodes/pve1/qemu-server/7010.conf.tmp.2971' - Permission denied",
        Fault.NO_QUORUM,
    ),
    ("Configuration file 'nodes/pve1/qemu-server/7001.conf' does not exist", Fault.MOVED),
    ("clone failed: unable to write: No space left on device", Fault.STORAGE_FULL),  # the system's words, not seen
    ("connection timed out", Fault.CONSOLE_TIMEOUT),
    ("Failed to run vncproxy.", Fault.CONSOLE_TIMEOUT),
    ("unexpected status", Fault.LOST),
    ("something new", Fault.OTHER),
]


@pytest.mark.parametrize(("status", "text", "fault"), ANSWERS)
def test_an_answer_is_told_by_its_status_and_text(status, text, fault):
    assert classify(status, text) is fault


@pytest.mark.parametrize(("text", "fault"), ENDS)
def test_the_end_of_a_task_is_told_by_its_text(text, fault):
    end = TaskEnd.of(UPID, text)

    assert (end.ok, end.fault) == (False, fault)


@pytest.mark.parametrize(
    ("errors", "fault"),
    [
        ({"vmid": "VM 101 already exists"}, Fault.ID_TAKEN),
        ({"upid": "no such task"}, Fault.NO_SUCH_TASK),
        ({"skiplock": "Only root may use this option."}, Fault.ROOT_ONLY),
        ({"newid": "invalid format - value does not look like a valid VM ID\n"}, Fault.BAD_PARAMETER),
    ],
)
def test_a_parameter_says_more_than_the_message(errors, fault):
    assert classify(400, "Parameter verification failed.", errors) is fault


def test_ok_and_warnings_are_success():
    assert TaskEnd.of(UPID, "OK") == TaskEnd(UPID, "OK", True)
    warned = TaskEnd.of(UPID, "WARNINGS: 3")
    assert (warned.ok, warned.warnings, warned.fault) == (True, 3, None)


def test_what_holds_a_lock_is_told():
    assert lock_of("VM is locked (suspending)") == "suspending"
    assert lock_of("no quorum") is None
    assert lock_vmid_of("can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout") == 102
    assert lock_vmid_of("cfs-lock 'storage-ceph' error: got lock request timeout") is None
    assert TaskEnd.of(UPID, "VM is locked (backup)").lock == "backup"
    assert PveRefused(500, "can't lock file '/var/lock/qemu-server/lock-7.conf' - got timeout").lock_vmid == 7


def test_a_missing_right_is_named():
    refused = PveRefused(403, "Permission check failed (/mapping/pci/gpu, Mapping.Use)\n")

    assert refused.right == Right("/mapping/pci/gpu", "Mapping.Use")
    assert PveRefused(403, "Permission check failed").right is None


def test_a_upid_names_its_node_and_anything_else_is_refused():
    assert node_of(UPID) == "pve1"
    for wrong in ("", "UPID", "UPID:pve1", "OK", UPID.replace("pve1", "")):
        with pytest.raises(ValueError, match="no UPID"):
            node_of(wrong)


def test_silence_says_whether_something_may_have_been_done():
    assert "may have been done" in str(PveSilent("POST /x", True, "cut off"))
    assert "may have been done" not in str(PveSilent("POST /x", False, "refused"))
    assert not PveUntrusted("POST /x", "changed").sent
