"""Accounts for trying labspawner out on a laptop. Never for a hub that others can reach."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.auth import Authenticator
from traitlets import Unicode, default

from labspawner.errors import BadConfig
from labspawner.sentences import Sentence

ACCOUNTS = ("student1", "student2", "student3", "teacher", "admin")
PASSWORD_ENV = "LABSPAWNER_DEMO_PASSWORD"  # noqa: S105 - the name of a variable


class DemoAuthenticator(Authenticator):  # type: ignore[misc]
    """Five accounts with one password, on loopback only: `student1` to `student3`, `teacher` and `admin`.

    Refuses to start when the proxy or the hub listens on an address that another machine can reach.
    """

    password = Unicode(help="The password of all demo accounts. Default: the environment variable " + PASSWORD_ENV).tag(
        config=True
    )

    @default("password")
    def _default_password(self) -> str:
        return os.environ.get(PASSWORD_ENV, "")

    @default("allowed_users")
    def _default_allowed_users(self) -> set[str]:
        return set(ACCOUNTS)

    @default("admin_users")
    def _default_admin_users(self) -> set[str]:
        return {"admin"}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.password:
            raise _refuse(f"set {PASSWORD_ENV}, or start it with `labspawner up`, which makes one up")
        for what, url in bind_urls(self.parent).items():
            if not is_loopback(url):
                raise _refuse(f"{what} is {url}. Bind to 127.0.0.1, or configure a real authenticator")

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> str | None:
        """The user name when the password is right, in constant time."""
        right = hmac.compare_digest(data.get("password", "").encode(), self.password.encode())
        return data.get("username", "") if right else None


def bind_urls(app: Any) -> dict[str, str]:
    """Every address that a JupyterHub application listens on, by the name of its setting."""
    if app is None:
        return {}
    found = {"c.JupyterHub.bind_url": app.bind_url}
    if app.hub_bind_url:
        found["c.JupyterHub.hub_bind_url"] = app.hub_bind_url
    else:
        found["c.JupyterHub.hub_ip"] = f"http://[{app.hub_ip}]" if ":" in app.hub_ip else f"http://{app.hub_ip}"
    return found


def is_loopback(url: str) -> bool:
    """Whether only this machine can connect to `url`. A unix socket is; an empty host (all addresses) is not."""
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return True
    host = parts.hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse(why: str) -> BadConfig:
    return BadConfig(Sentence("The demo accounts are for this machine only: {why}.", why=why))
