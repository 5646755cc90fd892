"""The questions to a cluster, one after the other; each one's trouble is its own finding. Changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from labspawner.providers.findings import Finding, Level, error, note, ok, warning
from labspawner.providers.proxmox import checking
from labspawner.providers.proxmox.access import Health
from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent, PveUntrusted
from labspawner.providers.proxmox.checking import StorageFacts
from labspawner.providers.proxmox.diagnosis import judging
from labspawner.providers.proxmox.diagnosis.probing import answering, spread
from labspawner.providers.proxmox.diagnosis.rights import judge, wanted
from labspawner.providers.proxmox.options import ProxmoxSettings

_PROBED = 256
_BRIDGE = "bridge="


class Get(Protocol):
    """One question to the cluster, as `client.Client.get`."""

    def __call__(self, path: str, /, **params: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a profile wants of the cluster. template: a name or an id, as its course file has it; memory_bytes: of a server
    that may be hibernated, else 0."""

    template: str
    os: checking.Os = "linux"
    desktop: bool = False
    bridge: str = ""
    mapping: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is looked at.

    who: `user@realm!name` of the token, without its secret; wants: of the profiles; held: addresses that servers have;
    draining: nodes that are being emptied.
    """

    get: Get
    settings: ProxmoxSettings
    hub_id: str
    who: str = ""
    wants: Sequence[Wanted] = ()
    held: Collection[str] = ()
    draining: Collection[str] = ()
    health: Callable[[], Health] | None = None
    skew_s: Callable[[], Mapping[str, float]] | None = None


@dataclass(slots=True)
class _Seen:
    """What was learnt so far, for later questions."""

    major: int = 8
    online: tuple[str, ...] = ()
    vms: list[Mapping[str, Any]] = field(default_factory=list)
    storages: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    bridges: set[str] = field(default_factory=set)

    def facts(self) -> dict[str, StorageFacts]:
        return {
            name: StorageFacts(name, str(each[0].get("shared", 0)) == "1", str(each[0].get("plugintype") or ""))
            for name, each in self.storages.items()
        }


async def diagnose(subject: Subject) -> tuple[Finding, ...]:
    """Everything that a start will need of this cluster. What cannot be looked at is a finding."""
    found: list[Finding] = []
    try:
        said = await subject.get("/version")
    except (PveRefused, PveSilent) as exc:
        return (_no_answer(exc, subject), *_endpoints(subject))
    seen = _Seen(major=judging.major_of(said) or judging.OLDEST)
    first = judging.version(said)
    if first.level is Level.ERROR:
        return (first,)
    found += [first, *await _quorum(subject), *await _resources(subject, seen)]
    for want in _templates(subject.wants):
        found += await _template(subject, seen, want)
    found += await _rights(subject, seen)
    found += await _storages(subject, seen)
    found += await _bridges(subject, seen)
    found += await _mappings(subject, seen)
    vmids = subject.settings.vmids
    found += judging.ids(seen.vms, first=vmids.first, last=vmids.last, hub_id=subject.hub_id)
    found += await _addresses(subject, seen)
    found += await _clock(subject, seen)
    found += _endpoints(subject)
    return tuple(found)


def _no_answer(exc: PveRefused | PveSilent, subject: Subject) -> Finding:
    if isinstance(exc, PveUntrusted):
        fix = "if the certificate was renewed on purpose, set fingerprint to the one shown; else somebody is in between"
        return error("cluster", exc.why, fix)
    if isinstance(exc, PveRefused) and exc.fault is Fault.BAD_CREDENTIALS:
        who = subject.who or "the token"
        return error(
            "cluster", f"{who} is refused: {exc.text}", "make it anew, and put it into token_file: docs/proxmox.md"
        )
    return error("cluster", str(exc), "check `endpoints`, and the way there")


async def _quorum(subject: Subject) -> tuple[Finding, ...]:
    try:
        return judging.quorum(await subject.get("/cluster/status"))
    except PveRefused as exc:
        if exc.status == 403:
            return (note("quorum", "the hub may not ask; it is told by the nodes that are online"),)
        return (warning("quorum", str(exc)),)
    except PveSilent as exc:
        return (warning("quorum", str(exc)),)


async def _resources(subject: Subject, seen: _Seen) -> list[Finding]:
    try:
        listed = await subject.get("/cluster/resources")
    except (PveRefused, PveSilent) as exc:
        return [error("nodes", f"they cannot be listed: {exc}")]
    nodes = [each for each in listed if each.get("type") == "node"]
    seen.online = tuple(sorted(str(each.get("node")) for each in nodes if each.get("status") == "online"))
    seen.vms = [each for each in listed if each.get("type") == "qemu"]
    for each in listed:
        if each.get("type") == "storage":
            seen.storages.setdefault(str(each.get("storage")), []).append(each)
    allowed = subject.settings.nodes
    found = list(
        judging.nodes([each for each in nodes if not allowed or each.get("node") in allowed], subject.draining)
    )
    missing = sorted(set(allowed) - {str(each.get("node")) for each in nodes})
    if missing:
        found.append(error("nodes", f"the settings name {', '.join(missing)}, and there is no such node"))
    if nodes and not any(each.get("maxmem") for each in nodes) and not any(each.memory for each in allowed.values()):
        said = "the hub may not read how much memory they have, so room is not counted"
        found.append(
            warning("nodes", said, "give it Sys.Audit on /nodes, or set nodes: {NAME: {memory: 48GiB, cores: 16}}")
        )
    return found


def _templates(wants: Sequence[Wanted]) -> list[Wanted]:
    """One of each template; the one with the desktop, where only some have one."""
    by_name: dict[str, Wanted] = {}
    for want in wants:
        if want.template not in by_name or want.desktop:
            by_name[want.template] = want
    return [by_name[name] for name in sorted(by_name)]


async def _template(subject: Subject, seen: _Seen, want: Wanted) -> list[Finding]:
    rows = find_template(seen.vms, want.template)
    places: dict[str, list[int]] = {}
    for row in rows:
        places.setdefault(str(row.get("node")), []).append(int(row["vmid"]))
    if not rows:
        return list(judging.template_places(want.template, places, seen.online, shared=False))
    found: list[Finding] = []
    shared = False
    for row in rows:
        try:
            config = await subject.get(f"/nodes/{row['node']}/qemu/{row['vmid']}/config")
        except (PveRefused, PveSilent) as exc:
            found.append(error("template", f"{want.template} ({row['vmid']}) cannot be read: {exc}"))
            continue
        seen.used |= {volume.storage for volume in checking.volumes(config)}
        bridge = next(
            (part[len(_BRIDGE) :] for part in str(config.get("net0", "")).split(",") if part.startswith(_BRIDGE)), ""
        )
        seen.bridges |= {bridge} - {""}
        shared = shared or not checking.local_storages(config, seen.facts())
        judged = checking.of_config(config, seen.facts(), os=want.os, desktop=want.desktop)
        found += [
            Finding(each.level, "template", f"{want.template} ({row['vmid']}), {each.what}: {each.detail}", each.advice)
            for each in judged
            if each.level in {Level.WARNING, Level.ERROR} and each.what != "storage"
        ]
    return [*judging.template_places(want.template, places, seen.online, shared=shared), *found]


def find_template(vms: Sequence[Mapping[str, Any]], wanted_: str) -> list[Mapping[str, Any]]:
    """The VMs that a course file means with `template: NAME`, or with an id: as `nodes.find_templates`, the newest of a name
    on each node, but one that is no template yet is found too."""
    if wanted_.isdecimal():
        return [each for each in vms if int(each.get("vmid") or 0) == int(wanted_)]
    named = [each for each in vms if each.get("name") == wanted_]
    found = [each for each in named if str(each.get("template", 0)) == "1"] or named
    newest = {str(each.get("node")): each for each in sorted(found, key=lambda each: int(each["vmid"]))}
    return [newest[node] for node in sorted(newest)]


async def _rights(subject: Subject, seen: _Seen) -> list[Finding]:
    settings = subject.settings
    bridges = {want.bridge for want in subject.wants if want.bridge} | ({settings.bridge} if settings.bridge else set())
    named = {settings.storage, settings.hibernate_storage} - {None}
    rights = wanted(
        major=seen.major,
        pool=settings.pool,
        bridges=bridges or seen.bridges,
        mappings={want.mapping for want in subject.wants if want.mapping},
        storages={name for name in (*named, *seen.used) if name is not None},
    )
    said: dict[str, Mapping[str, object]] = {}
    try:
        for path in dict.fromkeys(right.path for right in rights):
            answer = await subject.get("/access/permissions", path=path)
            said[path] = answer.get(path) or {}
    except (PveRefused, PveSilent) as exc:
        return [warning("rights", f"they cannot be asked for: {exc}")]
    return list(judge(rights, said, who=subject.who))


async def _storages(subject: Subject, seen: _Seen) -> list[Finding]:
    settings = subject.settings
    names = seen.used | {name for name in (settings.storage, settings.hibernate_storage) if name}
    found: list[Finding] = []
    for name in sorted(names):
        rows = seen.storages.get(name, [])
        found += judging.storage(name, rows, seen.online, reserve_bytes=settings.storage_reserve)
        try:
            found += judging.mount(name, await subject.get(f"/storage/{name}"))
        except (PveRefused, PveSilent):
            if any(str(each.get("plugintype")) == "nfs" for each in rows):
                found.append(
                    note("NFS", f"{name}: the hub may not see how it is mounted; hard, and its export no_root_squash")
                )
    memory = max((want.memory_bytes for want in subject.wants), default=0)
    if memory:
        state = settings.hibernate_storage or next(
            (n for n in sorted(names) if _is_shared(seen, n)), next(iter(sorted(names)), "")
        )
        if state:
            found += judging.hibernation(state, _free(seen, state), memory, settings.max_servers or 0)
    return found


def _is_shared(seen: _Seen, name: str) -> bool:
    return any(str(each.get("shared", 0)) == "1" for each in seen.storages.get(name, ()))


def _free(seen: _Seen, name: str) -> int | None:
    known = [
        int(each["maxdisk"]) - int(each["disk"])
        for each in seen.storages.get(name, ())
        if each.get("maxdisk") is not None and each.get("disk") is not None
    ]
    return min(known, default=None)


async def _bridges(subject: Subject, seen: _Seen) -> list[Finding]:
    named = {want.bridge for want in subject.wants if want.bridge} | ({subject.settings.bridge or ""} - {""})
    wanted_ = sorted(named or seen.bridges)
    lacking: dict[str, list[str]] = {}
    for node in seen.online:
        try:
            listed = await subject.get(f"/nodes/{node}/network", type="any_bridge")
        except (PveRefused, PveSilent) as exc:
            return [note("network", f"the bridges of {node} cannot be listed: {exc}")]
        there = {str(each.get("iface")) for each in listed}
        for name in wanted_:
            if name not in there:
                lacking.setdefault(name, []).append(node)
    found = [
        error(
            "network",
            f"the bridge {name} is not on {', '.join(nodes)}, or the hub may not use it",
            "docs/proxmox.md, Rights",
        )
        for name, nodes in sorted(lacking.items())
    ]
    good = [name for name in wanted_ if name not in lacking]
    return [*found, *([ok("network", f"{', '.join(good)} on every node")] if good and seen.online else [])]


async def _mappings(subject: Subject, seen: _Seen) -> list[Finding]:
    names = sorted({want.mapping for want in subject.wants if want.mapping})
    if not names:
        return []
    try:
        listed = await subject.get("/cluster/mapping/pci")
    except (PveRefused, PveSilent) as exc:
        return [warning("device", f"mappings cannot be listed: {exc}")]
    return [finding for name in names for finding in judging.mapping(name, listed, seen.online)]


async def _addresses(subject: Subject, seen: _Seen) -> list[Finding]:
    found: list[Finding] = []
    for name, pool in sorted(subject.settings.addresses.items()):
        every = list(pool.addresses())
        held = [address for address in every if address in subject.held]
        probed: frozenset[str] = frozenset()
        if subject.settings.probe_addresses:
            probed = await answering(spread(every, _PROBED, without=held))
        found += judging.addresses(name, len(every), len(held), probed)
        found += judging.shared_addresses(name, pool, seen.vms, subject.hub_id)
    if not subject.settings.addresses:
        found.append(note("addresses", "no pool: VMs ask a DHCP server, and their agents say what they got"))
    return found


async def _clock(subject: Subject, seen: _Seen) -> list[Finding]:
    """By the date of answers; a node's own time needs Sys.Audit."""
    skew = dict(subject.skew_s()) if subject.skew_s is not None else {}
    return list(judging.skew(skew))


def _endpoints(subject: Subject) -> list[Finding]:
    """Which endpoints answer, and why the others do not."""
    if subject.health is None:
        return []
    health = subject.health()
    found: list[Finding] = []
    if all(each.why for each in health.endpoints):
        return []  # said already: there was no answer
    for each in health.endpoints:
        if each.why:
            found.append(warning("endpoint", f"{each.url}: {each.why}", "the others are asked instead"))
    if len(health.endpoints) == 1:
        found.append(
            note(
                "endpoint", f"only {health.endpoints[0].url}: while that node is away, no server starts", "name another"
            )
        )
    elif not found:
        found.append(ok("endpoint", f"{len(health.endpoints)} are known"))
    return found
