"""Guests without any process: labspawner-guest's verbs in Python, and servers that are an address that answers."""

from __future__ import annotations

import asyncio
import base64
import copy
import http.client
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from labspawner.guest.labspawner_guest import (
    HINT,
    MAX_LOG_LINES,
    UNIT,
    Refused,
    port_of,
    read_request,
    redacted,
    unit_text,
)
from labspawner.testing.pve.guest.behaviour import Behaviour
from labspawner.testing.pve.guest.life import Guest, Helper, LivingGuests
from labspawner.testing.pve.guest.still import POWER_OFF_AFTER_S, StillServer
from labspawner.testing.pve.seams import Exited, Host

Json = dict[str, Any]
_NOTHING = {"last_activity": None, "kernels": None, "busy": None, "terminals": None, "connections": None}


class ScriptedGuests(LivingGuests):
    """All that a guest does, in Python and in the double's time."""

    def helper_of(self, guest: Guest) -> Helper:
        return StillHelper(self, guest, self.host)


def at_home(environment: dict[str, str], address: str) -> dict[str, str]:
    """The environment with the guest's own address where the server is told to listen everywhere."""
    parts = urlsplit(environment.get("JUPYTERHUB_SERVICE_URL", ""))
    if parts.hostname not in ("0.0.0.0", "::", None) or not parts.port:  # noqa: S104 - what we replace
        return environment
    url = urlunsplit((parts.scheme, f"{address}:{parts.port}", parts.path, "", ""))
    return {**environment, "JUPYTERHUB_SERVICE_URL": url}


def refusal(reason: str, message: str, protocol: int = 1) -> Exited:
    """How labspawner-guest says no."""
    answer = {"protocol": protocol, "ok": False, "reason": reason, "message": message}
    return Exited(exitcode=2 if reason == "usage" else 1, out=json.dumps(answer) + "\n")


class StillHelper:
    """labspawner-guest in one guest, with what it keeps: the request and the server."""

    def __init__(self, guests: LivingGuests, guest: Guest, host: Host) -> None:
        self._guests, self._guest, self._host = guests, guest, host
        self._request: Json | None = None
        self._server: StillServer | None = None
        self._generation = 0

    @property
    def behaviour(self) -> Behaviour:
        return self._guest.behaviour

    async def run(self, verb: Sequence[str], stdin: bytes) -> Exited:
        """What `labspawner-guest VERB` prints."""
        try:
            if self.behaviour.protocol != 1 and list(verb) == ["configure"]:
                raise Refused(
                    "protocol", f"This helper speaks protocol {self.behaviour.protocol}, the hub another one."
                )
            if len(verb) == 2 and verb[0] == "logs" and verb[1].isdigit():
                return Exited(out=self._logs(int(verb[1])))
            if list(verb) == ["unit"]:
                return Exited(out=unit_text())
            if len(verb) != 1 or verb[0] not in ("configure", "status", "stop", "check"):
                raise Refused(
                    "usage", "Verbs: configure, status, logs N, stop, check, unit, run, call-home, call-home-unit."
                )
            said = await self._configure(stdin) if verb[0] == "configure" else getattr(self, "_" + verb[0])()
        except Refused as refused:
            return refusal(refused.reason, refused.message, self.behaviour.protocol)
        answer = {"protocol": self.behaviour.protocol, "ok": True, **said}
        return Exited(exitcode=0 if answer["ok"] else 1, out=json.dumps(answer) + "\n")

    # the verbs

    async def _configure(self, stdin: bytes) -> Json:
        request = read_request(stdin)
        if self._guests.cloud_init(self._guest) == "running":
            raise Refused(
                "no_user",
                f"There is no account {request['user']} in this VM. cloud-init makes it at the first boot: is it done?",
            )
        if self.behaviour.versions.get("jupyterhub") is None:
            raise Refused("no_command", f"This template has no program {request['command'][0]} (looked in /usr/bin).")
        runs = self._server is not None and self._server.state == "active"
        same = request == self._request
        if not (same and runs):
            if self._server is not None:
                self._server.stop()
            self._request, self._generation = request, self._generation + 1
            self._start(self._host.rng.uniform(*self.behaviour.server_s))
        assert self._server is not None
        return {
            "lease": request["lease"],
            "state": self._server.state,
            "started": not (same and runs),
            "replaced": runs and not same,
            "port": port_of(request["environment"]),
        }

    def _start(self, after_s: float) -> None:
        assert self._request is not None
        environment = at_home(self._request["environment"], self._guest.address)
        address = urlsplit(environment.get("JUPYTERHUB_SERVICE_URL", "")).hostname or self._guest.address
        version = self.behaviour.versions.get("jupyterhub") or ""
        clock = self._host.clock
        self._server = StillServer(self._request["command"], environment, address=address, version=version, clock=clock)
        self._server.start(after_s, self._over)

    def _over(self) -> None:
        """The server ended by itself."""
        if self._request is not None and self._request["when_ended"] == "poweroff":
            generation = self._generation

            async def go_down() -> None:
                await self._host.clock.sleep(POWER_OFF_AFTER_S)
                if generation == self._generation and self._guest.on:
                    self._host.powered_off(self._guest.vmid)

            self._guests.in_guest(self._guest, go_down())

    def _status(self) -> Json:
        server, request, now = self._server, self._request, self._host.clock.now()
        listening = server is not None and server.listening
        asked = {"last_activity": server.last_activity, "kernels": 0, "busy": 0, "terminals": 0, "connections": 0} if (
            server is not None
        ) else _NOTHING  # fmt: skip
        return {
            "at": _instant(now),
            "lease": request["lease"] if request else None,
            "user": request["user"] if request else None,
            "boot_id": f"{self._guest.vmid:08d}-{self._guest.boots:04d}",
            "uptime_s": max(0.0, now - self._guest.agent_at),
            "server": {
                "state": server.state if server else "inactive",
                "pid": 1000 + self._generation if server and server.state == "active" else None,
                "exit_code": server.exit_code if server and server.state != "active" else None,
                "port": port_of(request["environment"]) if request else None,
                "listening": listening,
            },
            "versions": dict(self.behaviour.versions),
            "cloud_init": self._guests.cloud_init(self._guest),
            "activity": dict(asked if listening else _NOTHING),
            "sessions": [],
            "last_input": None,
            "cpu": {"load_1m": 0.1, "cores": 2},
        }

    def _logs(self, lines: int) -> str:
        text = self._server.log if self._server is not None else ""
        kept = text.splitlines(keepends=True)[-min(max(lines, 1), MAX_LOG_LINES) :]
        return redacted("".join(kept), self._request["environment"] if self._request else {})

    def _stop(self) -> Json:
        server, self._request = self._server, None
        ran = server is not None and server.state == "active"
        if server is not None:
            server.stop()
        self._generation += 1
        return {"stopped": ran}

    def _check(self) -> Json:
        """A template as it should be, but for what `behaviour` takes away."""
        hub, lab = self.behaviour.versions.get("jupyterhub"), self.behaviour.versions.get("jupyterlab")
        found = [
            _row("root", True, "Runs as root."),
            _row("helper", True, "The helper is where it belongs."),
            _row("systemd", True, f"systemd runs {UNIT}."),
            _row("guest-agent", True, "The guest agent is installed."),
            _row("guest-exec", True, "The guest agent may run the helper."),
            _row("cloud-init", self.behaviour.cloud_init != "absent", "There is cloud-init, or there should be."),
            _row("jupyterhub", hub is not None, f"jupyterhub-singleuser is version {hub}."),
            _row("jupyterlab", lab is not None, f"JupyterLab {lab}.", "warning"),
        ]
        return {"ok": all(row["level"] != "error" for row in found), "findings": found}

    async def call_home(self, user_data: str) -> Exited:
        """The same calls as the real one makes, from the guest's address; until it goes off, since the double's ten minutes
        may be a moment of the hub's."""
        found = HINT.search(user_data)
        if found is None:
            return refusal("no_nonce", "This VM has nothing to call home with.")
        url = base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)).decode()
        versions = {name: version for name, version in self.behaviour.versions.items() if version}
        body = {"protocol": 1, "nonce": found[1], "uuid": "", "versions": versions}
        while True:
            status, wait, answer = await asyncio.to_thread(_posted, f"{url}/call-home", self._guest.address, body)
            if status == 200:
                return await self.run(["configure"], answer)
            if status not in (0, 202, 503):
                return refusal("hub_refused", f"The hub refused (HTTP {status}).")
            await self._host.clock.sleep(wait)

    # with the VM

    async def pause(self) -> None:
        if self._server is not None:
            self._server.freeze()

    async def resume(self) -> None:
        if self._server is not None:
            await self._server.thaw()

    async def shutdown(self) -> None:
        await self.kill()

    async def kill(self) -> None:
        self._generation += 1
        if self._server is not None:
            self._server.stop()

    def saved(self) -> Any:
        runs = self._server is not None and self._server.state == "active"
        return copy.deepcopy(self._request), runs

    async def restored(self, memory: Any) -> None:
        self._request, runs = copy.deepcopy(memory)
        if self._request is not None and runs:
            self._start(0.0)


def _posted(url: str, source: str, body: Json) -> tuple[int, float, bytes]:
    """Status (0: nobody answered), seconds until the next try, and the answer."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120, source_address=(source, 0))
    try:
        line.request("POST", parts.path, json.dumps(body), {"Content-Type": "application/json"})
        with line.getresponse() as got:
            return got.status, float(got.headers.get("Retry-After") or 1), got.read()
    except (OSError, http.client.HTTPException):
        return 0, 1.0, b""
    finally:
        line.close()


def _row(code: str, good: bool, message: str, level: str = "error") -> Json:
    return {"level": "ok" if good else level, "code": code, "message": message, "hint": "" if good else "Install it."}


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
