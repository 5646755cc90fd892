"""Which of a cluster's endpoints is asked next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from labspawner.providers.proxmox.answers import node_of

STICK_S = 60.0


class Endpoint:
    """One address of the API, and how it went lately."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.why = ""
        self.untrusted = False
        self.failed_at: float | None = None
        self.answered_at: float | None = None
        self.skew_s: float | None = None
        self.node: str | None = None

    def heard(self, path: str, data: object) -> None:
        """Learn which node this is. An address does not say so; a console's task does: it runs where it was asked for."""
        if path.endswith("/vncproxy") and isinstance(data, Mapping):
            with suppress(ValueError):
                self.node = node_of(str(data.get("upid", "")))

    def farness(self, node: str) -> int:
        """0: this is the endpoint of that node itself; 1: nobody knows; 2: it is another's."""
        if self.node is None:
            return 0 if self.has_name(node) else 1
        return 0 if self.node == node else 2

    def has_name(self, node: str) -> bool:
        """Whether this is, by its host name, the endpoint of that node itself."""
        host = urlsplit(self.url).hostname or ""
        return host == node.lower() or host.startswith(f"{node.lower()}.")


class Endpoints:
    """The one that failed is left alone for 60 s, then one request tries it again; meanwhile the next one serves. Times are
    seconds that only grow, given by the caller."""

    def __init__(self, urls: Sequence[str], *, stick_s: float = STICK_S) -> None:
        self.all = tuple(Endpoint(url) for url in urls)
        self._stick_s = stick_s

    def order(self, now: float, *, node: str | None = None) -> list[Endpoint]:
        """Whom to ask, one after the other: those that are well, in the order of the configuration, then those that failed,
        the longest ago first. node: whose own endpoint comes first, if it is well."""
        well = [each for each in self.all if not self._shunned(each, now)]
        shunned = sorted((each for each in self.all if each not in well), key=lambda each: each.failed_at or 0.0)
        if node:
            well.sort(key=lambda each: each.farness(node))
        if well and well[0].failed_at is not None:
            well[0].failed_at = now  # this request tries it; the others need not wait for how that goes
        return well + shunned

    def best(self, now: float, *, node: str | None = None) -> Endpoint:
        """The one that is believed good, without trying it; that of `node`, where it is well."""
        return min(
            self.all,
            key=lambda each: (
                self._shunned(each, now),
                each.failed_at is not None,
                each.farness(node) if node else 0,
            ),
        )

    def worked(self, endpoint: Endpoint, now: float) -> None:
        """It answered."""
        endpoint.answered_at, endpoint.failed_at, endpoint.why, endpoint.untrusted = now, None, "", False

    def failed(self, endpoint: Endpoint, now: float, why: str, *, untrusted: bool = False) -> None:
        """It did not answer, or not as itself."""
        endpoint.failed_at, endpoint.why, endpoint.untrusted = now, why, untrusted

    def _shunned(self, endpoint: Endpoint, now: float) -> bool:
        return endpoint.failed_at is not None and now - endpoint.failed_at < self._stick_s
