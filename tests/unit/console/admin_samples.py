"""A laboratory as the hub tells of it: cards and machines, servers of all phases, lines, holds, findings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from labspawner.sentences import Sentence

GIB, MIB = 2**30, 2**20
CARD_BYTES = 24_564 * MIB
NOW = datetime.now(timezone.utc).replace(microsecond=0)
STUDENTS = ("zhang.wei", "li.na", "a-student-with-a-very-long-name@mail.university.example", "محمد", "zoë", "o'neil")


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def in_(**span: float) -> str:
    return (NOW + timedelta(**span)).isoformat()


def a_server(lease: str, user: str = "student1", **changes: Any) -> dict[str, Any]:
    """One live lease in the answer to `state`."""
    values: dict[str, Any] = {
        "lease": lease,
        "user": user,
        "server": "",
        "course": "dl101",
        "profile": "dl101/gpu",
        "profile_title": {"en": "PyTorch on a GPU slice", "zh-CN": "PyTorch（GPU 切片）"},
        "phase": "ready",
        "phase_at": ago(minutes=42),
        "provider": "gpu",
        "host": "node1",
        "card": "GPU-1f2e3d4c-0000-1111-2222-333344445555",
        "reserves": {"cpu": 4, "memory_bytes": 12 * GIB, "gpu": {"memory_bytes": 6 * GIB, "compute_pct": 25}},
        "slice": {"memory_bytes": 6 * GIB, "compute_pct": 25, "pretended": False},
        "created_at": ago(minutes=43),
        "ready_at": ago(minutes=42),
        "last_activity": ago(minutes=2),
        "verdict": "keep",
        "reason": {"en": "It is in use.", "zh-CN": "正在使用。"},
        "ends_at": in_(hours=3),
    }  # fmt: skip
    return {**values, **changes}


def servers() -> list[dict[str, Any]]:
    gpu = [a_server(f"l-gpu-{place}", name) for place, name in enumerate(STUDENTS[:3])]
    other = a_server("l-cv", STUDENTS[3], course="cv-lab", profile="cv-lab/gpu", card="GPU-9a8b7c6d-0000-1111-2222-33334444",
                     slice={"memory_bytes": 8 * GIB, "compute_pct": 100})  # fmt: skip
    plain: dict[str, Any] = {"card": None, "slice": None, "reserves": {"cpu": 1, "memory_bytes": 2 * GIB}}
    return [
        *gpu,
        other,
        a_server("l-cpu", STUDENTS[4], course="py101", profile="py101/base", **plain),
        a_server("l-vm", STUDENTS[5], course="os-lab", profile="os-lab/linux", provider="vms", host="pve1", **plain),
        a_server("l-parked", provider="vms", phase="parked", phase_at=ago(days=2), host="pve2", ends_at=None, **plain),
        a_server("l-stuck", "student2", phase="stopping", phase_at=ago(hours=2), server="second", ends_at=None),
        a_server("l-new", "student3", phase="launching", phase_at=ago(seconds=5), host=None, card=None, ends_at=None),
        a_server("l-waits", "student4", phase="queued", phase_at=ago(minutes=6), host=None, card=None, ends_at=None),
    ]  # fmt: skip


def capacity() -> dict[str, Any]:
    """The answer to `capacity`: two cards (one with memory that nobody can have), two machines for VMs, one silent."""
    full, lost = servers()[0]["card"], servers()[3]["card"]
    cards = [
        {"uuid": full, "memory_total_bytes": CARD_BYTES, "memory_free_bytes": CARD_BYTES - 18 * GIB, "compute_total_pct": 100,
         "compute_free_pct": 25, "slots_free": 7, "mig": False, "leases": ["l-gpu-0", "l-gpu-1", "l-gpu-2"]},
        {"uuid": lost, "memory_total_bytes": CARD_BYTES, "memory_free_bytes": CARD_BYTES - 8 * GIB, "compute_total_pct": 100,
         "compute_free_pct": 0, "slots_free": 9, "mig": False, "leases": ["l-cv"]},
        {"uuid": "MIG-77777777-aaaa-bbbb-cccc-ddddeeeeffff", "memory_total_bytes": 10 * GIB, "memory_free_bytes": 10 * GIB,
         "compute_total_pct": 42, "compute_free_pct": 42, "slots_free": 1, "mig": True, "leases": []},
    ]  # fmt: skip
    node = {"name": "node1", "servers_total": 40, "servers_free": 35, "cpu_total": 64.0, "cpu_free": 51.0,
            "memory_total_bytes": 256 * GIB, "memory_free_bytes": 206 * GIB, "cards": cards,
            "leases": ["l-gpu-0", "l-gpu-1", "l-gpu-2", "l-cv", "l-cpu", "l-stuck"]}  # fmt: skip
    vms = [
        {"name": name, "cpu_total": 32.0, "cpu_free": 30.0, "memory_total_bytes": 128 * GIB, "memory_free_bytes": 100 * GIB,
         "cards": [], "leases": held}
        for name, held in (("pve1", ["l-vm"]), ("pve2", ["l-parked"]))
    ]  # fmt: skip
    return {
        "v": 1,
        "taken_at": ago(seconds=3),
        "providers": [
            {"name": "gpu", "error": None, "pretended": True, "hosts": [node], "unplaced": ["l-new"]},
            {"name": "vms", "error": None, "taken_at": ago(seconds=3), "pretended": False, "hosts": vms, "unplaced": []},
            {"name": "cluster", "error": {"en": "The cluster does not answer.", "zh-CN": "集群没有响应。"}, "taken_at": None,
             "pretended": False, "hosts": [], "unplaced": []},
        ],
    }  # fmt: skip


def state() -> dict[str, Any]:
    waiting = [
        {"user": name, "server": "", "profile": "dl101/gpu", "place": place, "low_s": 1200, "high_s": 2100,
         "since": ago(minutes=6)}
        for place, name in enumerate(STUDENTS, 1)
    ]  # fmt: skip
    return {
        "v": 1,
        "version": "7",
        "taken_at": ago(seconds=1),
        "servers": servers(),
        "notices": [],
        "lines": [{"provider": "gpu", "kind": "gpu", "gpu": True, "waiting": waiting}],
        "holds": [
            {"id": "h1", "user": "student5", "profile": "py101/base", "provider": "local", "until": in_(seconds=50)}
        ],
    }


def reconciler() -> dict[str, Any]:
    reason = {
        "template": "Your server is no longer there: it stopped by itself, or an administrator removed it.",
        "params": {},
    }
    return {
        "v": 1,
        "reconciler": {
            "at": ago(seconds=2),
            "interval_s": 60.0,
            "actions": [
                {"kind": "gone", "provider": "gpu", "lease": "l-gpu-0", "user": STUDENTS[0], "mode": "stop", "reason": reason}
            ],
            "braked": [],
            "suspects": [{"kind": "orphan", "key": "gpu/l-old", "since": ago(minutes=3), "count": 3}],
        },
    }  # fmt: skip


def examination(*, running: bool = False) -> dict[str, Any]:
    def found(level: str, what: str, detail: str, advice: str = "") -> dict[str, Any]:
        said = {"what": what, "detail": detail, "advice": advice}
        return {
            "level": level,
            **{name: text.to_json() if isinstance(text, Sentence) else text for name, text in said.items()},
        }

    return {
        "v": 1,
        "examination": {
            "began_at": ago(seconds=9),
            "ended_at": None if running else ago(seconds=1),
            "places": ["hub", "gpu", "vms"],
            "found": {
                "hub": [
                    found("ok", "spawner", "labspawner starts the servers"),
                    found(
                        "warning",
                        Sentence("culler"),
                        Sentence("no idle server is ended, whatever profiles say"),
                        Sentence("call {call}", call="wiring.run_culler(c)"),
                    ),
                ],
                **(
                    {}
                    if running
                    else {"gpu": [found("error", "room", "it does not answer", "look at the cluster")], "vms": []}
                ),
            },
        },
    }


def everything() -> Mapping[str, Any]:
    """All that the administrators' pages ask the hub for."""
    return {"capacity": capacity(), "state": state(), "reconciler": reconciler(), "doctor": examination()}
