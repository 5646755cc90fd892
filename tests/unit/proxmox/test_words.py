"""What a student reads of the cluster's troubles, and what an administrator finds in the log."""

from __future__ import annotations

import re

import pytest

from labspawner.errors import LabError, NoRoom, ProviderUnavailable, SetupError, StartFailed, Transient
from labspawner.pages.i18n import CHINESE, translate
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.answers import PveRefused, PveSilent, PveUntrusted, TaskEnd
from labspawner.providers.proxmox.faults import Fault
from labspawner.sentences import Sentence

UPID = "UPID:pve1:00006B94:000A22C2:6B020995:qmclone:9100:labs@pve!hub:"
NAMES = re.compile(r"pve\d|qemu|UPID|\b\d{3,}\b|ceph|/etc|\.conf|labs@")

MEASURED: list[tuple[str, type[LabError], str]] = [
    ("can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout", ProviderUnavailable, "busy"),
    ("clone failed: cfs-lock 'storage-ceph' error: got lock request timeout", ProviderUnavailable, "busy"),
    ("unable to create VM 102: config file already exists", ProviderUnavailable, "busy"),
    ("cluster not ready - no quorum?", ProviderUnavailable, "lost some of its machines"),
    ("VM is locked (backup)", ProviderUnavailable, "being backed up"),
    ("VM is locked (migrate)", ProviderUnavailable, "being moved"),
    ("VM is locked (suspending)", ProviderUnavailable, "Only an administrator can free it"),
    ("VM is locked (rollback)", ProviderUnavailable, "Only an administrator can free it"),
    ("VM is locked (fstrim)", ProviderUnavailable, "Somebody works on your virtual machine"),
    ("can't clone VM to node 'pve2' (VM uses local storage)", SetupError, "not on all machines"),
    ("Configuration file 'nodes/pve1/qemu-server/201.conf' does not exist", ProviderUnavailable, "somebody else"),
    ("QEMU guest agent is not running", StartFailed, "guest agent may be missing"),
    ("shrinking disks is not supported", SetupError, "smaller than its template's"),
    ("only root can set 'hostpci0' config for non-mapped devices", SetupError, "labspawner doctor"),
    ("volume 'ceph:20001/vm-20001-disk-0.qcow2' does not exist", StartFailed, "before you delete anything"),
    ("clone failed: copy failed: No space left on device", NoRoom, "too little disk space"),
    ("checksum mismatch (file change by other user?)", ProviderUnavailable, "somebody else"),
    ("start failed: command '/usr/bin/kvm -id 102' failed: got timeout", StartFailed, "did not start in time"),
    ("unexpected status", ProviderUnavailable, "does not say what came of"),
    ("something that nobody has seen yet on pve1", StartFailed, "could not do that"),
]


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_a_sentence_without_names_or_numbers_in_two_languages(fault: Fault):
    error = words.error_of(fault, detail="vm 20001 on node pve1")

    assert not NAMES.search(error.message)
    assert str(error) == "vm 20001 on node pve1"
    assert isinstance(error.message, Sentence)
    assert translate(error.message, CHINESE) != error.message


@pytest.mark.parametrize(("text", "kind", "says"), MEASURED)
def test_what_pve_says_becomes_what_a_student_may_do(text: str, kind: type[LabError], says: str):
    end = TaskEnd.of(UPID, text, ("first line", "last line"))

    of_task, of_answer = words.error_of_task(end, doing="clone"), words.refused(PveRefused(500, text), doing="clone")

    for error in (of_task, of_answer):
        assert isinstance(error, kind)
        assert says in error.message
        assert not NAMES.search(error.message)
        assert text in str(error)
        assert str(error).startswith(("clone: ", "stuck lock="))
    assert "[first line | last line]" in str(of_task)


def test_a_student_never_sees_the_clusters_log():
    assert words.error_of_task(TaskEnd.of(UPID, "unexpected status", ("pve1 went",))).log_tail == ""


@pytest.mark.parametrize(
    ("exc", "kind", "says"),
    [
        (PveRefused(401, "permission denied - invalid PVE ticket"), ProviderUnavailable, "its access has expired"),
        (PveRefused(403, "Permission check failed (/pool/labs, VM.Allocate)"), SetupError, "which right is missing"),
        (PveRefused(403, "Permission check failed (/vms/20001, VM.PowerMgmt)"), StartFailed, "was deleted, or a right"),
        (PveRefused(403, "Permission check failed (/vms/9100, VM.Clone)"), SetupError, "which right is missing"),
        (
            PveRefused(403, "Permission check failed (/vms/20001, VM.Config.HWType)"),
            SetupError,
            "which right is missing",
        ),
        (PveRefused(400, "Parameter verification failed.", {"cores": "too many"}), SetupError, "does not accept"),
        (PveRefused(595, "No route to host"), ProviderUnavailable, "does not answer"),
        (PveRefused(501, "Method 'GET /nodes/pve1/x' not implemented"), SetupError, "This version of Proxmox VE"),
    ],
)
def test_a_status_says_as_much_as_a_text(exc: PveRefused, kind: type[LabError], says: str):
    error = words.refused(exc)

    assert isinstance(error, kind)
    assert says in error.message


def test_a_missing_right_is_named_in_the_log():
    error = words.refused(PveRefused(403, "Permission check failed (/pool/labs, VM.Allocate)"), doing="clone")

    assert "/pool/labs, VM.Allocate" in str(error)


def test_no_answer_is_a_matter_of_waiting_and_a_changed_certificate_of_the_administrator():
    silent = words.silent(PveSilent("POST /nodes/pve1/qemu/1/clone", True, "timed out"), doing="clone")
    untrusted = words.silent(PveUntrusted("GET /version", "certificate changed", expected="AA", shown="BB"))

    assert isinstance(silent, Transient)
    assert "does not answer" in silent.message
    assert "may have been done" in str(silent)
    assert "certificate" in untrusted.message
    assert "Tell your administrator" in untrusted.message
    assert "certificate changed" in str(untrusted)


@pytest.mark.parametrize("lock", ["suspending", "rollback", "clone", "something new"])
def test_a_vm_that_only_an_administrator_can_free_says_to_both_what_to_do(lock: str):
    error = words.stuck(lock, detail="vm 20001 on node pve1")

    assert "dministrator" in error.message
    assert not NAMES.search(error.message)
    assert "qm unlock ID" in str(error)
    assert "vm 20001 on node pve1" in str(error)
    assert translate(error.message, CHINESE) != error.message


def test_a_hibernated_vm_is_not_stuck():
    assert "Start your server to go on" in words.refused(PveRefused(500, "VM is locked (suspended)")).message


def test_stages_are_told_in_two_languages():
    stages = [value for value in vars(words).values() if isinstance(value, Sentence)]
    stages += [words.cloning(None), words.cloning(40), words.WAITING_FOR_CLONE(0), words.WAITING_FOR_CLONE(3)]

    assert len(stages) > 20
    assert [stage for stage in stages if translate(stage, CHINESE) == stage] == []
    assert "40 %" in words.cloning(40)
    assert "3 other" in words.WAITING_FOR_CLONE(3)
