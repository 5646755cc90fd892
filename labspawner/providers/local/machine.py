"""What this machine can do for the servers of one provider: found out by trying, once, when it is first needed."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import Any

from labspawner.errors import LabError, SetupError
from labspawner.model import LeaseId, Resources
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local.confinement import Bind, Confinement, Limits, Network, Rung
from labspawner.providers.local.etc import files_for, write_etc
from labspawner.providers.local.homes import Home
from labspawner.providers.local.ladder import Finding, choose, describe, find_sandbox, judge, report
from labspawner.providers.local.layout import HostView, look_at_host
from labspawner.providers.local.limits import GroupMaker, probe, probe_scopes, rlimits
from labspawner.providers.local.limits.groups import Group
from labspawner.providers.local.limits.quota import Quotas, probe_quota
from labspawner.providers.local.network.egress import Egress, denied, find_egress, resolv_conf
from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.slices.inside import GpuInside, without_cards
from labspawner.providers.local.software import Software, ask, own_software
from labspawner.sentences import Sentence, plain

log = getLogger(__name__)

PACKAGES_INSIDE = "/run/labspawner-packages"
_QUOTA_RESERVE_BYTES = 4 * 2**20  # what Jupyter writes by itself when it starts
_LIMIT_NAMES = {getattr(resource, name): name for name in dir(resource) if name.startswith("RLIMIT_")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the probes came to. groups: None on the rungs without. deny: networks that no server reaches. quotas: None
    where homes are not limited."""

    rung: Rung
    findings: tuple[Finding, ...]
    host: HostView
    software: Software
    groups: GroupMaker | None = None
    egress: Egress = Egress()
    deny: tuple[str, ...] = ()
    quotas: Quotas | None = None

    @property
    def sandboxed(self) -> bool:
        return self.rung is not Rung.PLAIN

    def describe(self) -> tuple[Sentence, ...]:
        """For people: what servers are protected against here, and what not."""
        limited = {
            name
            for name, yes in (
                ("memory", self.groups is not None and self.groups.limits_memory),
                ("cpu", self.groups is not None and self.groups.limits_cpu),
                ("processes", self.groups is not None and self.groups.limits_processes),
            )
            if yes
        }
        network = None if not self.sandboxed else Network.EGRESS if self.egress.available else Network.NONE
        return describe(self.rung, own_uids=os.geteuid() == 0, limited=limited, network=network)


class Machine:
    """Asks the machine once, in a thread, and remembers; a failure is asked for again."""

    def __init__(
        self,
        context: ProviderContext,
        settings: LocalSettings,
        *,
        homes: Path,
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self._context, self._settings, self._homes = context, settings, homes
        self._in_thread = in_thread
        self._asking: asyncio.Task[Found] | None = None
        self._asked: dict[str, Software] = {}
        self._warned = False

    async def found(self) -> Found:
        """What there is. Raises SetupError where the sandbox that is set does not work."""
        if self._asking is None or (self._asking.done() and (self._asking.cancelled() or self._asking.exception())):
            self._asking = asyncio.ensure_future(self._in_thread(self._look))
        return await asyncio.shield(self._asking)

    async def found_or_none(self) -> Found | None:
        """The same, and None where the sandbox that is set does not work: for what must go on without."""
        with suppress(LabError):
            return await self.found()
        return None

    @property
    def known(self) -> Found | None:
        """What was found; None as long as nothing is."""
        asked = self._asking
        return None if asked is None or not asked.done() or asked.cancelled() or asked.exception() else asked.result()

    async def close(self) -> None:
        """Wait for what is being asked."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def software_of(self, found: Found, variant: LocalVariant) -> Software:
        """The environment of a variant. Blocks. Raises SetupError for an interpreter that may not be used."""
        if variant.interpreter is None:
            return found.software
        if variant.interpreter not in self._asked:
            self._asked[variant.interpreter] = ask(variant.interpreter, never=[self._homes])
        return self._asked[variant.interpreter]

    def network_of(self, found: Found, variant: LocalVariant) -> Network:
        """What a server of this variant reaches. Raises SetupError where that cannot be promised."""
        wanted = variant.network or self._settings.network
        if not found.sandboxed:
            if wanted == "none":
                raise SetupError(
                    Sentence(
                        "This profile needs a server without the internet, and servers here run without a sandbox. "
                        "Tell your administrator."
                    )
                )
            return Network.HOST
        if wanted == "egress" and not found.egress.available:
            raise SetupError(
                Sentence(
                    "This profile needs the internet, and servers here cannot have it. Administrator: {why}",
                    why=found.egress.missing or plain("no way out was found"),
                )
            )
        return Network.NONE if wanted == "none" or not found.egress.available else Network.EGRESS

    def limit_disk(self, found: Found, home: Home) -> Home:
        """Hold a home to its quota; the home as it is then: full, where it has reached it. Blocks."""
        limit_bytes, uid = self._settings.home_quota, home.account.uid
        if found.quotas is None or limit_bytes is None or found.quotas.limit(home.path, uid, limit_bytes) is not None:
            return home
        disk = found.quotas.usage().get(uid)
        left = None if disk is None or disk.limit_bytes is None else disk.limit_bytes - disk.used_bytes
        return replace(home, full=home.full or (left is not None and left < _QUOTA_RESERVE_BYTES))

    def confine(
        self,
        home: Home,
        *,
        network: Network,
        software: Software,
        run_dir: Path,
        package_parent: str | None = None,
        gpu: GpuInside | None = None,
    ) -> Confinement:
        """The sandbox of one server, as a value. package_parent: see `extension.enabling`; for another interpreter.
        gpu: what it sees of its slice; None: it has none, and sees no card."""
        settings, name = self._settings, home.account.name
        binds = [Bind(source=tree, target=tree) for tree in software.trees]
        if package_parent is not None:
            binds.append(Bind(source=str(package_parent), target=PACKAGES_INSIDE))
        binds += [Bind(source=path, target=path, optional=True) for path in settings.read_only_paths]
        devices = without_cards(settings.devices) if settings.gpu.cards != () else settings.devices
        if gpu is not None:
            binds += gpu.binds
            devices = (*devices, *gpu.devices)
        return Confinement(
            account=home.account,
            user_namespace=os.geteuid() != 0,
            home=str(home.path),
            home_inside=f"/home/{name}",
            run_dir=str(run_dir),
            hostname=f"lab-{name}"[:63],
            network=network,
            binds=tuple(binds),
            devices=devices,
            preload=settings.preload if gpu is None else gpu.preload,
            tmp_bytes=settings.tmp_size,
        )

    def etc_for(self, confinement: Confinement) -> Path:
        """The folder with the files of /etc for an account, made now. Blocks. Raises OSError."""
        egress = confinement.network is Network.EGRESS
        text = ""
        with suppress(OSError):
            text = resolv_conf(Path("/etc/resolv.conf").read_text(errors="replace")) if egress else ""
        folder = self._context.data_dir / "etc" / confinement.network.value / self._key(confinement)
        write_etc(
            folder,
            files_for(
                confinement.account, home=confinement.home_inside, hostname=confinement.hostname, resolv_conf=text
            ),
        )
        return folder

    def hidden(self) -> tuple[str, ...]:
        """What no server may see, wherever it is: the hub's data, all homes, and what the administrator says."""
        data = self._context.data_dir.absolute()
        hub = data.parent.parent if data.parent.name == "providers" else data  # see `config.open_providers`
        return tuple(dict.fromkeys((str(hub), str(data), str(self._homes.absolute()), *self._settings.hidden_paths)))

    def limits(self, resources: Resources) -> Limits:
        """What a control group must hold a server to."""
        return Limits(cpu=resources.cpu, memory_bytes=resources.memory_bytes, processes=self._settings.max_processes)

    def process_limits(self, found: Found, resources: Resources) -> tuple[dict[str, tuple[int, int]], int]:
        """What the server's process is held to: resource limits by name, and niceness."""
        files_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if not found.sandboxed:
            return {}, 0
        if found.groups is not None:
            wanted = rlimits.in_group(files_hard=files_hard)
        else:
            wanted = rlimits.alone(
                self.limits(resources),
                has_gpu=resources.gpu is not None or bool(self._settings.devices),
                user_namespace=os.geteuid() != 0,
                own_uid=os.geteuid() == 0,
                kernel=os.uname().release,
                files_hard=files_hard,
            )
            if wanted.not_limited and not self._warned:
                self._warned = True
                log.warning("provider=%s: %s", self._context.name, " ".join(map(str, wanted.not_limited)))
        return {_LIMIT_NAMES[number]: pair for number, pair in wanted.rlimits.items()}, wanted.nice

    def group_of(self, groups: GroupMaker | None, lease_id: LeaseId) -> Group | None:
        return None if groups is None else groups.group(lease_id)

    def _key(self, confinement: Confinement) -> str:
        return Path(confinement.home).name

    def _look(self) -> Found:
        """Ask everything. Blocks for some tenths of a second."""
        settings, name, hub_id = self._settings, self._context.name, self._context.hub_id
        sandbox = plain("The setting `sandbox` is `plain`.") if settings.sandbox == "plain" else find_sandbox()
        control = systemd = sandbox
        makers: dict[Rung, GroupMaker | None] = {}
        if sandbox is None:
            scopes = probe_scopes(hub_id=hub_id, provider=name)
            groups = probe(hub_id=hub_id, provider=name) if settings.sandbox in {"auto", "cgroup"} else None
            makers[Rung.SYSTEMD] = scopes.groups
            systemd = None if scopes.groups is not None else plain(scopes.words)
            if groups is not None:
                makers[Rung.CGROUP] = groups.groups
                control = None if groups.groups is not None else plain(groups.words)
        findings = judge(sandbox, control, systemd)
        rung = choose(findings, wanted=settings.sandbox, allow_unsandboxed=settings.allow_unsandboxed)
        report(rung, findings, provider=name)
        found = Found(
            rung=rung, findings=findings, host=look_at_host(), software=own_software(), groups=makers.get(rung)
        )
        if rung is Rung.PLAIN:
            return found
        egress = find_egress() if settings.network != "none" else Egress()
        if not egress.available and egress.missing is not None:
            log.warning("servers of provider=%s reach no internet: %s", name, egress.missing)
        quotas = None
        if settings.home_quota is not None:
            probed = probe_quota(self._homes, own_uids=os.geteuid() == 0)
            quotas = probed.quotas
            log.log(INFO if quotas else WARNING, "provider=%s: %s", name, probed.words)
        deny = denied(settings.egress_deny) if egress.available else ()
        return replace(found, egress=egress, deny=deny, quotas=quotas)
