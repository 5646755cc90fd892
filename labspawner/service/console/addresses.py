"""From where a request came, for the audit log: an address that whoever sent it cannot choose. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

FORWARDED = "X-Forwarded-For"


def sender(headers: Mapping[str, str], peer: str) -> str:
    """The address of whoever sent a request that `peer` handed over.

    Each proxy adds whom it heard from at the end of `X-Forwarded-For`; what stands before that was sent along by somebody
    and is believed of nobody, as is `X-Real-IP`. So it is the last address that is not of this machine. Behind a TLS proxy
    on another machine that is the proxy's own.
    """
    heard = [peer, *(part.strip() for part in reversed(headers.get(FORWARDED, "").split(",")))]
    for address in heard:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            break  # nobody of ours wrote that: what stands before it is not to be believed either
        if not found.is_loopback:
            return str(found)
    return peer
