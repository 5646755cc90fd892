"""What the answers of a cluster mean for its servers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

from labspawner.providers.findings import Finding, error, note, ok, warning
from labspawner.providers.proxmox.marks import address_of_tags, hub_of_tags, lease_of_name, lease_of_tags
from labspawner.units import human_bytes

OLDEST, NEWEST = 8, 9
_SKEW_S = 5.0
_SHOWN = 5
STATE_EXTRA_BYTES = 500 * 2**20
"""What a hibernated VM takes beyond twice its memory; a 512 MB guest was seen to take 1.6 GB."""


def major_of(version: Mapping[str, Any]) -> int | None:
    """8 for Proxmox VE 8.4.21; None for what cannot be read."""
    text = str(version.get("version") or version.get("release") or "").split(".")[0]
    return int(text) if text.isdecimal() else None


def version(said: Mapping[str, Any]) -> Finding:
    """Whether labspawner knows this version."""
    text, major = str(said.get("version") or said.get("release") or "?"), major_of(said)
    if major is None:
        return warning("version", f"the cluster calls itself {text!r}; labspawner knows Proxmox VE 8 and 9")
    if major < OLDEST:
        return error("version", f"Proxmox VE {text} is too old", "upgrade the cluster to 8.4 or 9")
    if major > NEWEST:
        return warning("version", f"Proxmox VE {text} answers; labspawner was made for 8 and 9")
    return ok("version", f"Proxmox VE {text} answers")


def quorum(status: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """What /cluster/status says. One machine that is in no cluster has no `cluster` entry, and is its own quorum."""
    cluster = next((each for each in status if each.get("type") == "cluster"), None)
    if cluster is None:
        return (ok("quorum", "one machine, in no cluster"),)
    if str(cluster.get("quorate", 0)) != "1":
        return (
            error(
                "quorum",
                "the cluster has none, so no server starts or ends, and none may be deleted",
                "bring its other nodes back: pvecm status",
            ),
        )
    count = int(cluster.get("nodes") or 0)
    if count == 2:
        said = "two nodes: when one is away, the other has no quorum"
        return (note("quorum", said, "give the cluster a third vote: pvecm qdevice setup ADDRESS"),)
    return (ok("quorum", f"{count} nodes are quorate"),)


def nodes(listed: Sequence[Mapping[str, Any]], draining: Collection[str]) -> tuple[Finding, ...]:
    """Which nodes take servers."""
    names = sorted(str(each.get("node")) for each in listed)
    away = sorted(str(each.get("node")) for each in listed if each.get("status") != "online")
    found: list[Finding] = []
    if not names:
        return (error("nodes", "the cluster shows none", "look at its status: pvecm status"),)
    if away:
        level = error if len(away) == len(names) else warning
        found.append(level("nodes", f"{_some(away)} cannot be reached: no server goes there", "look at the node"))
    empty = sorted(set(draining) & set(names))
    if empty:
        undo = f"labspawner vm drain {empty[0]} --undo"
        found.append(note("nodes", f"{_some(empty)}: no new server, because it is being emptied", undo))
    unknown = sorted(set(draining) - set(names))
    if unknown:
        found.append(note("nodes", f"{_some(unknown)} is being emptied, and there is no such node"))
    good = [name for name in names if name not in away and name not in empty]
    if good:
        found.append(ok("nodes", f"{_some(good)} take{'s' if len(good) == 1 else ''} servers"))
    return tuple(found)


def storage(
    name: str, listed: Sequence[Mapping[str, Any]], online: Collection[str], *, reserve_bytes: int = 0
) -> tuple[Finding, ...]:
    """One storage that servers use. listed: its entries of /cluster/resources, one for each node that has it."""
    here = {str(each.get("node")): each for each in listed}
    if not here:
        return (
            error(
                "storage",
                f"{name} is not there, or the hub may not see it",
                "check its name, and its place in the pool",
            ),
        )
    one = next(iter(here.values()))
    found: list[Finding] = []
    contents = {part for each in here.values() for part in str(each.get("content") or "").split(",")}
    if contents - {""} and "images" not in contents:
        found.append(error("storage", f"{name} does not hold disks", f"pvesm set {name} --content images,..."))
    bad = sorted(
        node for node, each in here.items() if node in online and each.get("status") not in {"available", None}
    )
    if bad:
        found.append(warning("storage", f"{name} is not available on {_some(bad)}"))
    missing = sorted(set(online) - here.keys())
    shared = str(one.get("shared", 0)) == "1"
    if shared and missing:
        found.append(warning("storage", f"{name} is shared, and not on {_some(missing)}: no server there"))
    free = {node: _free(each) for node, each in here.items() if node in online}
    known = [each for each in free.values() if each is not None]
    least = min(known, default=None)
    if least is not None and least <= reserve_bytes:
        said = f"{name} has {human_bytes(least)} left, and {human_bytes(reserve_bytes)} are kept free: no new server"
        found.append(error("storage", said, "free space, or set storage_reserve lower"))
    if not found:
        room = f", {human_bytes(least)} free" if least is not None else ""
        found.append(ok("storage", f"{name}: {'shared' if shared else 'of its node alone'}{room}"))
    return tuple(found)


def _free(entry: Mapping[str, Any]) -> int | None:
    try:
        return int(entry["maxdisk"]) - int(entry["disk"])
    except (KeyError, TypeError, ValueError):
        return None


def hibernation(name: str, free_bytes: int | None, memory_bytes: int, servers: int) -> tuple[Finding, ...]:
    """Whether the memory of servers finds room. memory_bytes: of the largest that hibernates; servers: at once, or 0."""
    one = 2 * memory_bytes + STATE_EXTRA_BYTES
    if free_bytes is None:
        return (
            note("hibernation", f"how much room {name} has is not said; one server takes up to {human_bytes(one)}"),
        )
    if free_bytes < one:
        said = f"{name} has {human_bytes(free_bytes)} free, and one server takes up to {human_bytes(one)}"
        return (warning("hibernation", said, "servers are stopped instead, and their memory is lost: free space"),)
    count = free_bytes // one
    if servers and count < servers:
        said = f"{name} holds {count} hibernated server(s) of the largest profile, and {servers} may run"
        return (note("hibernation", said, "those beyond are stopped instead"),)
    return (ok("hibernation", f"{name} holds {count} hibernated server(s) of the largest profile"),)


def mount(name: str, config: Mapping[str, Any]) -> tuple[Finding, ...]:
    """How a storage in the network is mounted, where the hub may see it. What the server's own export says
    (no_root_squash, sync) is not seen from here."""
    if config.get("type") != "nfs":
        return ()
    options = {part.split("=", 1)[0]: part for part in str(config.get("options") or "").split(",") if part}
    found: list[Finding] = []
    if "soft" in options:
        said = f"{name} is mounted soft: a short silence of its server is an error inside students' disks"
        found.append(warning("NFS", said, f"pvesm set {name} --options vers=4.2 (hard is the default)"))
    if "nolock" in options:
        found.append(warning("NFS", f"{name} is mounted without locks", "two nodes may then open one disk"))
    if config.get("server") and not _is_address(str(config["server"])):
        said = f"{name} names its server {config['server']}: a slow name server stalls every node"
        found.append(note("NFS", said, "an address does not"))
    return tuple(found) or (
        note("NFS", f"{name}: check that the export says rw,sync,no_root_squash; that is not seen from here"),
    )


def ids(vms: Sequence[Mapping[str, Any]], *, first: int, last: int, hub_id: str) -> tuple[Finding, ...]:
    """Whether the hub's range of VM ids is its own. A clone has no tags before it is set up, but a name that tells."""
    inside = [each for each in vms if first <= int(each.get("vmid") or 0) <= last]
    strangers = sorted(
        int(each["vmid"]) for each in inside if each.get("status") != "unknown" and not _ours(each, hub_id)
    )
    left = last - first + 1 - len(inside)
    if strangers:
        said = f"{_some(strangers)} in {first}-{last} are not labspawner's"
        return (
            warning("VM ids", said, "give the hub a range of its own (vmids), or renumber those; they are left alone"),
        )
    if left < 1:
        return (error("VM ids", f"{first}-{last} is full", "give the hub a larger range (vmids)"),)
    return (ok("VM ids", f"{left} of {first}-{last} are free, of what can be seen"),)


def addresses(pool: str, count: int, held: int, answering: Collection[str]) -> tuple[Finding, ...]:
    """Whether a pool of addresses is the hub's own. held: given to servers; answering: that are nobody's, and answer."""
    if answering:
        said = (
            f"{_some(sorted(answering))} answer{'s' if len(answering) == 1 else ''}, and no server of this hub has it"
        )
        return (warning("addresses", f"pool {pool}: {said}", "take them out of the pool, and of any DHCP range"),)
    if held >= count:
        return (
            warning(
                "addresses", f"pool {pool}: all {count} are in use", "add addresses, or wait for servers to be deleted"
            ),
        )
    return (ok("addresses", f"pool {pool}: {count - held} of {count} are free"),)


def skew(seconds: Mapping[str, float]) -> tuple[Finding, ...]:
    """Whether clocks agree. seconds: how much later it is there than here, by node or endpoint."""
    wrong = {name: value for name, value in seconds.items() if abs(value) > _SKEW_S}
    if wrong:
        said = ", ".join(
            f"{name} is {abs(value):.0f} s {'ahead' if value > 0 else 'behind'}"
            for name, value in sorted(wrong.items())
        )
        return (warning("clock", f"{said} of this machine", "let all of them ask one time server (chrony)"),)
    return (ok("clock", "the clocks agree"),) if seconds else ()


def template_places(
    name: str, places: Mapping[str, Sequence[int]], online: Collection[str], *, shared: bool
) -> tuple[Finding, ...]:
    """Whether each node can clone a template. places: the node of each VM of that name, with their ids."""
    ids_ = sorted(vmid for each in places.values() for vmid in each)
    if not ids_:
        advice = "check its name in the course file, and that it is in the hub's pool: pveum pool modify POOL --vms ID"
        return (error("template", f"{name} is not there, or the hub may not see it", advice),)
    missing = sorted(set(online) - places.keys())
    if missing and not shared:
        said = (
            f"{name} is on {_some(sorted(places))} alone, with disks of that node: no server of it on {_some(missing)}"
        )
        return (
            warning("template", said, "move its disks to a shared storage, or make one of the same name on each node"),
        )
    where = "a shared storage: every node clones it" if shared else f"every node: {_some(sorted(places))}"
    return (ok("template", f"{name} ({_some(ids_)}) is on {where}"),)


def mapping(name: str, listed: Sequence[Mapping[str, Any]], online: Collection[str]) -> tuple[Finding, ...]:
    """Whether a device mapping that a profile names is there."""
    found = next((each for each in listed if each.get("id") == name), None)
    if found is None:
        advice = "make it (Datacenter, Resource Mappings), and give the hub Mapping.Use on it"
        return (error("device", f"the mapping {name} is not there, or the hub may not see it", advice),)
    places = [
        dict(part.split("=", 1) for part in str(text).split(",") if "=" in part) for text in found.get("map") or ()
    ]
    there: dict[str, int] = {}
    for place in places:
        there[place.get("node", "?")] = there.get(place.get("node", "?"), 0) + 1
    if not set(there) & set(online):
        return (error("device", f"the mapping {name} has no device on a node that is there"),)
    return (ok("device", f"{name}: " + ", ".join(f"{count} on {node}" for node, count in sorted(there.items()))),)


def shared_addresses(
    name: str, pool: Container[str], vms: Sequence[Mapping[str, Any]], hub_id: str
) -> tuple[Finding, ...]:
    """Whether VMs of another hub have addresses of this pool, as their tags say. Two hubs with databases of their own do
    not know what the other one gives out."""
    used = []
    for each in vms:
        tags = _tags(each)
        address, whose = address_of_tags(tags), sorted(hub_of_tags(tags) - {hub_id.lower()})
        if address and whose and address in pool:
            used.append(f"{address} (VM {each.get('vmid')} of hub {whose[0]})")
    if not used:
        return ()
    said = f"pool {name}: another hub gives out addresses of it: {_some(sorted(used))}"
    return (warning("addresses", said, "give each hub addresses of its own"),)


def _tags(vm: Mapping[str, Any]) -> list[str]:
    return str(vm.get("tags") or "").replace(",", ";").split(";")


def _ours(vm: Mapping[str, Any], hub_id: str) -> bool:
    return lease_of_tags(_tags(vm), hub_id) is not None or lease_of_name(str(vm.get("name") or "")) is not None


def _is_address(text: str) -> bool:
    return ":" in text or text.replace(".", "").isdecimal()


def _some(things: Sequence[object]) -> str:
    """A few of them, and how many more there are."""
    shown = ", ".join(str(each) for each in things[:_SHOWN])
    return shown if len(things) <= _SHOWN else f"{shown} and {len(things) - _SHOWN} more"
