"""What servers print, without what nobody else may read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$", re.IGNORECASE)
_TOKEN_IN_TEXT = re.compile(r"(token=|Authorization: *(?:token|Bearer) +)[^\s&\"']+", re.IGNORECASE)
_HIDDEN = "[hidden]"


def secrets_in(environment: Mapping[str, str]) -> frozenset[str]:
    """The values of `environment` that must not be shown: those of names that speak of tokens, keys or passwords."""
    return frozenset(value for name, value in environment.items() if len(value) >= 6 and _SECRET_NAME.search(name))


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with each secret, and each token in a URL or header, replaced by `[hidden]`."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _TOKEN_IN_TEXT.sub(rf"\g<1>{_HIDDEN}", text)
