"""What differs between the versions of Proxmox VE: their number and their privileges."""

from __future__ import annotations

from dataclasses import dataclass

_CONFIG = tuple(f"VM.Config.{name}" for name in "Disk CDROM CPU Memory Network HWType Options Cloudinit".split())  # noqa: SIM905
_COMMON = (
    *("VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.Console", "VM.Migrate", "VM.PowerMgmt"),
    *("VM.Snapshot", "VM.Snapshot.Rollback", *_CONFIG),
    *("Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"),
    *("Group.Allocate", "Mapping.Audit", "Mapping.Modify", "Mapping.Use", "Permissions.Modify"),
    *("Pool.Allocate", "Pool.Audit", "Realm.Allocate", "Realm.AllocateUser", "SDN.Allocate", "SDN.Audit", "SDN.Use"),
    *("Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog"),
    "User.Modify",
)
_LEAST = (
    *("VM.Allocate", "VM.Clone", "VM.Audit", "VM.PowerMgmt", "VM.Console", "VM.Snapshot"),
    *(name for name in _CONFIG if name != "VM.Config.HWType"),
    *("Datastore.AllocateSpace", "Datastore.Audit", "Pool.Audit"),
)
_AGENT_9 = tuple(
    f"VM.GuestAgent.{name}" for name in ("Audit", "FileRead", "FileWrite", "FileSystemMgmt", "Unrestricted")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """privileges: all there are. least: of the provider's role on its pool. config_rights: any of them opens a config."""

    release: str
    version: str
    repoid: str
    privileges: tuple[str, ...]
    least: tuple[str, ...]
    new_agent_rights: bool = False

    def agent_right(self, command: str) -> tuple[str, ...]:
        """Any of these lets one give that command to a guest's agent."""
        if not self.new_agent_rights:
            return ("VM.Monitor",)
        if command in ("exec", "exec-status", "set-user-password"):
            return ("VM.GuestAgent.Unrestricted",)
        if command in ("file-read", "file-write"):
            return (
                f"VM.GuestAgent.{'FileRead' if command == 'file-read' else 'FileWrite'}",
                "VM.GuestAgent.Unrestricted",
            )
        return ("VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted")


CONFIG_RIGHTS = tuple(
    f"VM.Config.{name}" for name in ("Disk", "CDROM", "CPU", "Memory", "Network", "HWType", "Options", "Cloudinit")
)
_EIGHT, _LEAST_8 = (*_COMMON, "VM.Monitor"), (*_LEAST, "VM.Monitor")
PROFILES = {
    "7.4": Profile(release="7.4", version="7.4-17", repoid="513c62be", privileges=_EIGHT, least=_LEAST_8),
    "8.4": Profile(release="8.4", version="8.4.21", repoid="2606ac85d2cd", privileges=_EIGHT, least=_LEAST_8),
    "9": Profile(
        release="9.1",
        version="9.1.4",
        repoid="5ac30304265fbd8e",
        privileges=(*_COMMON, *_AGENT_9, "VM.Replicate"),
        least=(*_LEAST, "VM.GuestAgent.Unrestricted", "VM.GuestAgent.Audit"),
        new_agent_rights=True,
    ),
}
