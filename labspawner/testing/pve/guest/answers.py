"""What a guest's agent says besides running programs, in the shapes that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_NO_TRAFFIC = {f"{way}-{what}": 0 for way in ("rx", "tx") for what in ("bytes", "packets", "errs", "dropped")}
_COMMANDS = (
    "guest-get-osinfo", "guest-get-timezone", "guest-get-users", "guest-get-host-name", "guest-exec", "guest-exec-status",
    "guest-set-user-password", "guest-get-fsinfo", "guest-get-vcpus", "guest-network-get-interfaces", "guest-fstrim",
    "guest-fsfreeze-thaw", "guest-fsfreeze-freeze", "guest-fsfreeze-status", "guest-file-write", "guest-file-read",
    "guest-file-open", "guest-file-close", "guest-shutdown", "guest-info", "guest-set-time", "guest-get-time", "guest-ping",
)  # fmt: skip
_SILENT = frozenset({"guest-shutdown"})


def _row(name: str, mac: str, addresses: list[tuple[str, int]]) -> Json:
    row: Json = {"name": name, "hardware-address": mac.lower(), "statistics": dict(_NO_TRAFFIC)}
    if addresses:  # the key is absent where there are none
        row["ip-addresses"] = [
            {"ip-address": address, "prefix": prefix, "ip-address-type": "ipv6" if ":" in address else "ipv4"}
            for address, prefix in addresses
        ]
    return row


def _link_local(mac: str) -> str:
    parts = [int(part, 16) for part in mac.split(":")] if mac.count(":") == 5 else [0] * 6
    parts[0] ^= 2
    first, *rest = (
        f"{parts[0]:02x}{parts[1]:02x}",
        f"{parts[2]:02x}ff",
        f"fe{parts[3]:02x}",
        f"{parts[4]:02x}{parts[5]:02x}",
    )
    return "fe80::" + ":".join([first.lstrip("0") or "0", *rest])


def interfaces(kind: str, mac: str, address: str, prefix: int, *, windows: bool = False) -> list[Json]:
    """guest-network-get-interfaces. kind: see `Behaviour.network`; address: "" while there is none."""
    own = "Ethernet" if windows else "eth0"
    loopback = _row("lo", "00:00:00:00:00:00", [("127.0.0.1", 8), ("::1", 128)])
    if kind == "none":
        return [loopback, _row(own, mac, [])]
    local, real = [(_link_local(mac), 64)], [(address, prefix)] if address else []
    if kind == "link-local":
        return [loopback, _row(own, mac, [*local, *real])]
    if kind == "apipa":
        return [_row(own, mac, [("169.254.17.4", 16), *real, *local]), loopback]
    if kind == "docker":
        return [loopback, _row("docker0", "02:42:a1:b2:c3:d4", [("172.17.0.1", 16)]), _row(own, mac, [*real, *local])]
    return [loopback, _row(own, mac, [*real, *local])]


def os_info(ostype: str) -> Json:
    """guest-get-osinfo, by the VM's ostype."""
    if ostype.startswith("win"):
        return {
            "id": "mswindows", "name": "Microsoft Windows", "pretty-name": "Windows 11 Pro", "version": "11",
            "version-id": "11", "kernel-release": "26100", "kernel-version": "10.0", "machine": "x86_64",
            "variant": "client", "variant-id": "client",
        }  # fmt: skip
    return {
        "id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 12 (bookworm)",
        "version": "12 (bookworm)", "version-id": "12", "kernel-release": "6.1.0-50-cloud-amd64",
        "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)", "machine": "x86_64",
    }  # fmt: skip


def info(*, exec_blocked: bool) -> Json:
    """guest-info: its version, and what it may do."""
    return {
        "version": "7.2.22",
        "supported_commands": [
            {
                "name": name,
                "enabled": not (exec_blocked and name.startswith("guest-exec")),
                "success-response": name not in _SILENT,
            }
            for name in _COMMANDS
        ],
    }


def file_system(total_bytes: int, used_bytes: int) -> list[Json]:
    """guest-get-fsinfo: one disk."""
    return [{"name": "sda1", "mountpoint": "/", "type": "ext4", "total-bytes": total_bytes, "used-bytes": used_bytes,
             "disk": []}]  # fmt: skip


def plain(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
