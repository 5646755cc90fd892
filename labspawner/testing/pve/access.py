"""Who may do what: users, privilege-separated tokens, tickets, access lists and pools."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from labspawner.testing.pve.call import NOBODY, Refused, Who
from labspawner.testing.pve.clock import Clock
from labspawner.testing.pve.profiles import Profile
from labspawner.testing.pve.world import World

TICKET_S = 7200.0
_ALL_PATHS = ("/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms", "/mapping")
Privileges = dict[str, int]  # privilege -> 1 where it holds below too


class Access:
    """Decides all rights. An entry of the access list counts for its path and, when it propagates, for all below."""

    def __init__(self, world: World, clock: Clock, profile: Profile) -> None:
        self._world, self._clock, self._profile = world, clock, profile
        self.password = secrets.token_urlsafe(12)
        self._users = {"root@pam"}
        self._secrets: dict[str, str] = {"root@pam!lab": str(uuid.uuid4())}
        self._separated: set[str] = set()
        self._tickets: dict[str, tuple[str, str, float]] = {}  # ticket -> user, CSRF token, when it was made
        self._entries: dict[str, dict[str, set[str]]] = {}  # path -> user or token -> privileges
        self._dropped: set[str] = set()

    # who it is

    def add_hub(self, user: str, name: str, pool: str, privileges: Iterable[str] | None = None) -> str:
        """A user and a separated token of it, both with these rights on the pool; `user!name=secret`."""
        token = f"{user}!{name}"
        self._users.add(user)
        self._secrets.setdefault(token, str(uuid.uuid4()))
        self._separated.add(token)
        self.allow(user, f"/pool/{pool}", privileges or self._profile.least)
        self.allow(user, "/sdn/zones/localnetwork", ("SDN.Use", "SDN.Audit"))
        return self.secret_of(token)

    def allow(self, user: str, path: str, privileges: Iterable[str]) -> None:
        """Give the user and each of its tokens these rights on the path and below."""
        entry = self._entries.setdefault(path, {})
        for subject in (user, *(token for token in self._secrets if token.startswith(f"{user}!"))):
            entry.setdefault(subject, set()).update(privileges)

    def secret_of(self, token: str) -> str:
        return f"{token}={self._secrets[token]}"

    def drop_privilege(self, privilege: str, *, on: bool = True) -> None:
        (self._dropped.add if on else self._dropped.discard)(privilege)

    def read(self, method: str, headers: Mapping[str, str], revoked: set[str]) -> Who:
        """Who asks. Raises Refused(401) for nobody, a wrong token, an old ticket, a write without its CSRF token."""
        given = headers.get("Authorization", "")
        if given.startswith("PVEAPIToken="):
            token, _, secret = given.removeprefix("PVEAPIToken=").partition("=")
            if token in revoked or not secret or self._secrets.get(token) != secret:
                raise Refused(401, "Authentication failed!", empty=True)
            user, _, name = token.partition("!")
            return Who(user, name)
        if given:
            raise Refused(401, "Authentication failed!", empty=True)
        ticket = _cookie(headers.get("Cookie", ""))
        if not ticket:
            raise Refused(401, "No ticket", empty=True)
        known = self._tickets.get(ticket)
        if known is None or self._clock.now() - known[2] > TICKET_S:
            raise Refused(401, "permission denied - invalid PVE ticket", empty=True)
        if method != "GET" and headers.get("Csrfpreventiontoken", headers.get("CSRFPreventionToken", "")) != known[1]:
            raise Refused(401, "Permission denied - invalid csrf token", empty=True)
        return Who(known[0])

    def login(self, user: str, password: str) -> tuple[str, str]:
        """A ticket and its CSRF token; an old ticket that is still good is as good as the password."""
        old = self._tickets.get(password)
        renewed = old is not None and old[0] == user and self._clock.now() - old[2] <= TICKET_S
        if not renewed and not (
            user == "root@pam" and secrets.compare_digest(password.encode(), self.password.encode())
        ):
            raise Refused(401, "authentication failure")
        stamp = f"{int(self._clock.now()):08X}"
        ticket, csrf = f"PVE:{user}:{stamp}::{secrets.token_urlsafe(32)}", f"{stamp}:{secrets.token_urlsafe(16)}"
        self._tickets[ticket] = (user, csrf, self._clock.now())
        return ticket, csrf

    def age_tickets(self, seconds: float) -> None:
        """All tickets are so much older."""
        self._tickets = {key: (user, csrf, at - seconds) for key, (user, csrf, at) in self._tickets.items()}

    # what it may

    def has_any(self, who: Who, path: str, privileges: Sequence[str]) -> bool:
        if who is NOBODY:
            return False
        if self._is_almighty(who):
            return True
        mine = self.privileges(who, path)
        return any(privilege in mine for privilege in privileges)

    def privileges(self, who: Who, path: str) -> Privileges:
        """What this user (of a separated token: the token too) may do on that path."""
        if self._is_almighty(who):
            return dict.fromkeys(self._profile.privileges, 1)
        mine = self._of(who.user, path)
        if who.token and who.name in self._separated:
            its = self._of(who.name, path)
            mine = {key: min(value, its[key]) for key, value in mine.items() if key in its}
        return {key: value for key, value in mine.items() if key not in self._dropped}

    def table(self, who: Who) -> dict[str, Privileges]:
        """Path -> privileges, for all paths where the caller has any."""
        if self._is_almighty(who):
            return {path: self.privileges(who, path) for path in _ALL_PATHS}
        paths = set(self._entries)
        paths |= {f"/vms/{vm.vmid}" for vm in self._world.vms.values() if vm.pool}
        paths |= {f"/storage/{name}" for pool in self._world.pools.values() for name in pool.storages}
        found = {path: self.privileges(who, path) for path in sorted(paths)}
        return {path: rights for path, rights in found.items() if rights}

    def users(self, who: Who) -> list[str]:
        return sorted(self._users) if self.has_any(who, "/access/groups", ("User.Modify", "Sys.Audit")) else []

    def _is_almighty(self, who: Who) -> bool:
        return who.user == "root@pam"

    def _of(self, subject: str, path: str) -> Privileges:
        found = self._on(subject, path)
        pool = self._pool_of(path)
        if pool:
            found = {**dict.fromkeys(self._on(subject, f"/pool/{pool}"), 0), **found}
        return found

    def _on(self, subject: str, path: str) -> Privileges:
        """Of the nearest entry at or above the path."""
        at = path
        while True:
            privileges = self._entries.get(at, {}).get(subject)
            if privileges is not None:
                return dict.fromkeys(privileges, 1)
            if at == "/":
                return {}
            at = at.rpartition("/")[0] or "/"

    def _pool_of(self, path: str) -> str:
        kind, _, name = path.strip("/").partition("/")
        if kind == "vms" and name.isdigit():
            vm = self._world.vms.get(int(name))
            return vm.pool if vm is not None else ""
        if kind == "storage":
            return next((pool.name for pool in self._world.pools.values() if name in pool.storages), "")
        return ""


def _cookie(header: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == "PVEAuthCookie":
            return unquote(value)
    return ""
