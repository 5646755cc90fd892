"""Names on hosts, derived from what people are called. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets

from labspawner.model import LeaseId

ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""What ids are made of: nothing that is read as something else."""
_SAFE = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", re.ASCII)


def new_lease_id() -> LeaseId:
    """A new random id, `l` and 15 characters: a valid DNS label, Kubernetes label, PVE tag and cgroup name."""
    number = secrets.randbelow(len(ALPHABET) ** 15)  # one question to the kernel, not fifteen
    letters = []
    for _ in range(15):
        number, letter = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[letter])
    return LeaseId("l" + "".join(letters))


def safe_name(text: str) -> str:
    """`text` as a name of 1 to 42 characters `[a-z0-9-]`, different for different texts.

    A short lower-case name stays as it is; any other gets a readable start and a hash, so `Ann` and `ann`, or
    `../etc` and `etc`, never share a home.
    """
    if _SAFE.fullmatch(text) and "--" not in text:
        return text
    stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{stem or 'x'}--{digest}"
