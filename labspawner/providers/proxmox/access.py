"""Where a cluster is, as whom we come to it, and how it goes with that."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from labspawner.errors import BadConfig
from labspawner.providers.proxmox.trust import context_for, normal
from labspawner.sentences import Sentence

DEFAULT_PORT = 8006


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the cluster is, as whom we come, and what we trust. Raises BadConfig for what cannot be right.

    endpoints: `https://pve1.lab:8006`, any nodes of one cluster, the preferred first. token: `user@realm!name=secret`, or
    token_file with that in it, which is read again when the token is refused; or username (with realm) and password.
    ca_file: PEM. fingerprint: SHA-256 of the leaf certificate, one for all, or by endpoint; instead of a CA file.
    """

    endpoints: tuple[str, ...]
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    fingerprint: str | Mapping[str, str] = ""

    def __post_init__(self) -> None:
        endpoints = tuple(_endpoint(each) for each in self.endpoints)
        if not endpoints:
            raise wrong("endpoints", "", "https://pve1.example.org:8006")
        object.__setattr__(self, "endpoints", endpoints)
        if self.token:
            _check_token(self.token)
        elif not self.token_file and not (self.username and self.password):
            raise wrong("token", "", "hub@pve!labspawner=SECRET")
        pins = self.fingerprint if isinstance(self.fingerprint, Mapping) else {"": self.fingerprint}
        for pin in filter(None, pins.values()):
            try:
                normal(pin)
            except ValueError as exc:
                raise wrong("fingerprint", pin, "AA:BB:... (SHA-256)") from exc

    def secret(self) -> str:
        """The token as it is now; empty where there is a password. Reads the file each time. Raises BadConfig."""
        if self.token or self.token_file is None:
            return self.token
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise wrong("token_file", str(self.token_file), "hub@pve!labspawner=SECRET") from exc
        _check_token(token)
        return token

    def pin(self, endpoint: str) -> str:
        """What is pinned for an endpoint: 64 hexadecimal digits; empty: the CA file or this system decides."""
        pin = self.fingerprint
        if isinstance(pin, Mapping):
            parts = urlsplit(endpoint)
            known = {key.rstrip("/"): value for key, value in pin.items()}
            pin = next((known[key] for key in (endpoint, parts.netloc, parts.hostname or "") if key in known), "")
        return normal(pin) if pin else ""

    def trust(self, endpoint: str) -> str:
        """What decides whether an endpoint is who it says: "pinned", "CA file" or "system"."""
        return "pinned" if self.pin(endpoint) else "CA file" if self.ca_file else "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to open a connection of one's own, say a websocket. url: `https://host:port`. fingerprint: SHA-256 in hexadecimal
    digits, or empty."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    fingerprint: str = ""
    ca_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For a plain socket, or tornado's streams; it looks at the pin itself."""
        return context_for(fingerprint=self.fingerprint, ca_file=self.ca_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """url; state: "in use", "ready", "failed" or "untrusted"; why: of the last failure. trust: "pinned", "CA file", "system".

    clock_skew_s: its clock minus ours, to about a second; None before its first answer.
    """

    url: str
    state: str
    trust: str
    why: str = ""
    clock_skew_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """credentials: "ok", "untried" or "refused"; why: what the cluster said; again_in_s: when they are tried again.

    hanging: calls that nobody waits for any more and whose thread is still busy.
    """

    endpoints: tuple[EndpointHealth, ...]
    credentials: str
    why: str = ""
    again_in_s: float = 0.0
    hanging: int = 0


def _endpoint(text: str) -> str:
    """`https://host:port` of what an administrator typed. Raises BadConfig."""
    text = text.strip()
    parts = urlsplit(text if "//" in text else f"https://{text}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as exc:
        raise wrong("endpoints", text, "https://pve1.example.org:8006") from exc
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise wrong("endpoints", parts.hostname or text[:40], "https://pve1.example.org:8006")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port}{parts.path.rstrip('/')}"


def _check_token(token: str) -> None:
    who, _, secret = token.partition("=")
    user, _, name = who.partition("!")
    if not (secret and name and "@" in user) or not token.isascii() or any(each.isspace() for each in token):
        known = user[:60] if name and secret and "@" in user else ""  # anything else may be the secret itself
        raise wrong("token", known, "hub@pve!labspawner=SECRET")


def wrong(setting: str, value: str, example: str) -> BadConfig:
    """What to raise for a setting. value: never a secret."""
    return BadConfig(
        Sentence(
            "The access to the Proxmox VE cluster is not set up: {setting} does not fit. "
            "Administrator: write it like {example}.",
            setting=setting,
            example=example,
        ),
        detail=f"proxmox: {setting} does not fit: {value!r}; an example is {example}",
    )
