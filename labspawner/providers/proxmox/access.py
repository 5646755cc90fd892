"""Where a cluster is, as whom we come to it, and how it goes with that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to open a connection of one's own, say a websocket. url: `https://host:port`."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    fingerprint: str = ""
    ca_file: Path | None = None


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
