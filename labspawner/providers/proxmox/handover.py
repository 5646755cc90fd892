"""What is handed to the helper in a VM, and what it answers. Pure; the secrets go through the agent's standard input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from labspawner.guest import PROTOCOL
from labspawner.model import Activity, LaunchRequest

_KEPT_OF_THE_HUB = frozenset(
    {
        *("PATH", "PYTHONPATH", "CONDA_ROOT", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "LANG", "LC_ALL"),
        "JUPYTERHUB_SINGLEUSER_APP",
    }
)
"""JupyterHub's default `env_keep`: of the hub's own machine, and wrong in any other."""

_READY_CLOUD_INIT = frozenset({"done", "degraded", "disabled", "absent", "unknown", "error"})
_DEAD = frozenset({"failed", "inactive"})


def environment_of(
    request: LaunchRequest, *, url: str, hub_connect_url: str | None, hub_environment: Mapping[str, str]
) -> dict[str, str]:
    """What the server's programs find. url: where it listens. hub_connect_url: the hub as VMs reach it. hub_environment: of
    the hub's own process; what a Spawner kept of that means nothing in a VM."""
    environment = {
        name: value
        for name, value in request.environment_at(url).items()
        if name not in _KEPT_OF_THE_HUB or hub_environment.get(name) != value
    }
    if hub_connect_url:
        for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL"):
            if name in environment:
                environment[name] = hub_connect_url.rstrip("/") + urlsplit(environment[name]).path
    return environment


def configuration(
    request: LaunchRequest,
    *,
    user: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    home: str | None = None,
    stays: bool = False,
) -> str:
    """Standard input of `configure`; secret. stays: the VM runs on when its server ends by itself, since it has a screen;
    otherwise it switches itself off, and so is seen to have ended."""
    said: dict[str, Any] = {
        "protocol": PROTOCOL,
        "user": user,
        "command": list(command),
        "environment": dict(environment),
        "lease": str(request.lease_id),
        "when_ended": "stay" if stays else "poweroff",
    }
    if home is not None:
        said["home"] = home
    return json.dumps(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestReport:
    """What `status` says. cloud_init: as cloud-init calls it. state: of the server, as systemd calls it."""

    lease: str | None = None
    cloud_init: str = "unknown"
    state: str = "inactive"
    exit_code: int | None = None
    listening: bool = False
    port: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    activity: Activity | None = None

    @property
    def set_up(self) -> bool:
        """Whether cloud-init is through with this boot, or is not in the template at all."""
        return self.cloud_init in _READY_CLOUD_INIT

    def died(self, lease: str) -> bool:
        """Whether the server of this lease was started and is not there any more."""
        return self.lease == lease and self.state in _DEAD


def answer_of(text: str) -> Mapping[str, Any] | None:
    """The one line of JSON that the helper prints; None for anything else."""
    for line in reversed(text.strip().splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "ok" in said:
            return said
    return None


def report_of(said: Mapping[str, Any]) -> GuestReport:
    """What `status` answered, read with patience: whatever is not as expected is not known."""
    server = _mapping(said.get("server"))
    versions = {str(name): str(value) for name, value in _mapping(said.get("versions")).items() if value}
    exit_code, port = server.get("exit_code"), server.get("port")
    return GuestReport(
        lease=said["lease"] if isinstance(said.get("lease"), str) else None,
        cloud_init=str(said.get("cloud_init") or "unknown"),
        state=str(server.get("state") or "inactive"),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        listening=server.get("listening") is True,
        port=port if isinstance(port, int) else None,
        versions=versions,
        activity=_activity(said),
    )


def _activity(said: Mapping[str, Any]) -> Activity | None:
    """Evidence from the server's own word and from people at screen and terminals; None where neither says anything."""
    told = _mapping(said.get("activity"))
    moments = [moment for moment in (_instant(told.get("last_activity")), _instant(said.get("last_input"))) if moment]
    busy = told.get("busy")
    sessions = said.get("sessions")
    if not moments and not isinstance(busy, int):
        return None
    people = len(sessions) if isinstance(sessions, list) else 0
    words = [f"kernels busy: {busy}"] if isinstance(busy, int) else []
    words += [f"sessions in the VM: {people}"] if people else []
    clients = told.get("connections")
    return Activity(
        last_activity=max(moments, default=None),
        busy=busy > 0 if isinstance(busy, int) else None,
        evidence=", ".join(words) or "the VM's own report",
        clients=clients if isinstance(clients, int) else None,
    )


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
