"""What profiles ask of a cluster, read from their variants."""

from __future__ import annotations

from collections.abc import Sequence

from labspawner.errors import BadConfig
from labspawner.providers.findings import Asked, Finding, error, warning
from labspawner.providers.options import read_options
from labspawner.providers.proxmox.diagnosis.cluster import Wanted
from labspawner.providers.proxmox.options import ProxmoxSettings, ProxmoxVariant


def wants_of(asked: Sequence[Asked]) -> tuple[tuple[Wanted, ...], tuple[Finding, ...]]:
    """What the profiles want, and what is wrong with those that cannot be read."""
    wants: list[Wanted] = []
    wrong: list[Finding] = []
    for each in asked:
        try:
            variant = read_options(ProxmoxVariant, each.settings, where=f"Profile {each.profile}")
        except BadConfig as exc:
            wrong.append(error("profiles", str(exc.message)))
            continue
        if variant.template is None:
            wrong.append(error("profiles", f"{each.profile} names no template", "write template: NAME beside provider"))
            continue
        if variant.handover == "call-home" and (variant.hibernate or each.hibernates):
            said = f"{each.profile} hibernates, and its VMs call home when they boot: they are stopped instead"
            wrong.append(warning("profiles", said, "write idle: {action: stop}, or handover: agent"))
        hibernates = (variant.hibernate or each.hibernates) and variant.pci is None
        wants.append(
            Wanted(
                template=variant.template,
                os=variant.os,
                desktop=variant.offers_desktop,
                bridge=variant.bridge or "",
                mapping=variant.pci.mapping if variant.pci else "",
                memory_bytes=(each.resources.memory_bytes or 0) if hibernates else 0,
            )
        )
    return tuple(wants), tuple(wrong)


def who_asks(settings: ProxmoxSettings) -> str:
    """The account that the hub comes as, `user@realm!name` for a token, without anything secret; empty where that cannot be
    read. Blocks."""
    if settings.username is not None:
        return settings.username
    text = settings.token.get_secret_value() if settings.token is not None else ""
    if settings.token_file is not None:
        try:
            text = settings.token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
    return text.strip().partition("=")[0]
