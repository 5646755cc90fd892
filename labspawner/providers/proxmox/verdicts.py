"""What is made of what a VM shows while it comes up: its address, its versions, and an error where it does not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from jupyterhub import __version__ as hub_version

from labspawner.errors import LabError, SetupError, StartFailed, Transient
from labspawner.guest import HELPER
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.agent import Interface, Ran
from labspawner.providers.proxmox.answers import PveRefused
from labspawner.providers.proxmox.doing import TaskFailed
from labspawner.providers.proxmox.handover import GuestReport
from labspawner.providers.proxmox.job import Job
from labspawner.providers.redaction import redact, secrets_in
from labspawner.sentences import Sentence


def url_of(job: Job, address: str) -> str:
    """Where the server in a VM with this address listens."""
    return f"http://{f'[{address}]' if ':' in address else address}:{job.variant.port}"


def address_of(interfaces: tuple[Interface, ...], *, mac: str, wanted: str) -> str | None:
    """The address by which a VM is reached: `wanted`, where its card has that; without a wish the first of its card that
    others can reach, IPv4 before IPv6. Cards that are not ours (docker0, loopback) do not count. Pure."""
    ours = [card for card in interfaces if card.mac.lower() == mac.lower()] if mac else []
    reachable = []
    for card in ours:
        for text in card.addresses:
            try:
                address = ip_address(text.partition("%")[0])
            except ValueError:
                continue
            if wanted:
                if address == ip_address(wanted):
                    return wanted
            elif not (address.is_link_local or address.is_unspecified or address.is_multicast):
                reachable.append(address)
    reachable.sort(key=lambda address: address.version)
    return str(reachable[0]) if reachable else None


def check_versions(report: GuestReport) -> None:
    """Raises SetupError for a server that this hub cannot talk to: the one or the other has another major version."""
    theirs = report.versions.get("jupyterhub")
    if theirs is not None and theirs.split(".")[0] != hub_version.split(".")[0]:
        raise SetupError(
            Sentence(
                "The software in this profile's virtual machine does not fit this hub: JupyterHub {theirs} there, {ours} "
                "here. Tell your instructor.",
                theirs=theirs,
                ours=hub_version,
            ),
            detail=f"template has jupyterhub=={theirs}, the hub {hub_version}: install the same major version there",
        )


def not_started(job: Job, exc: TaskFailed) -> LabError:
    """A hibernated VM whose memory does not fit this machine any more starts only once an administrator dropped that."""
    error = words.error_of_task(exc.end, doing=f"start {job}")
    if not job.was_hibernated or isinstance(error, Transient):
        return error
    detail = (
        f"{error}; to start it without its memory, as root: qm set {job.vmid} --delete vmstate; qm unlock {job.vmid}"
    )
    return StartFailed(words.KEPT_NO_MEMORY, detail=detail)


def went_off(job: Job) -> StartFailed:
    """A VM that is off before its server answered."""
    return StartFailed(
        Sentence("Your virtual machine went off while it was starting. Try again, or tell your instructor."),
        detail=f"the VM stopped while starting {job}",
    )


def no_agent(job: Job, why: str) -> StartFailed:
    """A VM whose guest agent is not there."""
    return StartFailed(words.NO_AGENT, detail=f"no guest agent ({why}) {job}")


def no_helper(job: Job, exc: PveRefused) -> SetupError:
    """A template without the helper, or whose agent may not run it."""
    return SetupError(
        Sentence("This profile's virtual machine is not prepared for Jupyter. Tell your instructor."),
        detail=f"{HELPER} cannot be run in the template: {exc.text} {job}",
    )


def no_address(job: Job, seen: tuple[Interface, ...]) -> StartFailed:
    """A VM whose card never had its address."""
    cards = ", ".join(f"{card.name} {card.mac} {'/'.join(card.addresses) or '-'}" for card in seen) or "none"
    return StartFailed(
        Sentence("Your virtual machine did not get its network address. Tell your instructor."),
        detail=f"net0 {job.record.mac} never had {job.record.address or 'an address'}: {cards} {job}",
    )


def bad_helper(job: Job, verb: str, ran: Ran, said: Mapping[str, Any] | None) -> LabError:
    """A helper that refused, or said what nobody understands."""
    reason = str(said.get("reason") or "") if said is not None else ""
    message = str(said.get("message") or "") if said is not None else ran.err.strip()[-500:]
    secrets = secrets_in(job.request.environment)
    detail = redact(f"labspawner-guest {verb}: {reason} {message} exitcode={ran.exitcode} {job}", secrets)
    if reason == "start_failed":
        return StartFailed(words.DIED, detail=detail, log_tail=redact(message, secrets))
    return SetupError(
        Sentence("This profile's virtual machine is not prepared for Jupyter. Tell your instructor."), detail=detail
    )


def no_call(job: Job, waited_s: float) -> StartFailed:
    """A VM that was to call the hub, and did not."""
    return StartFailed(words.NO_CALL, detail=f"no call home in {waited_s:.0f} s {job}")
