"""One start on this machine: what is made for it, in which order, and how all of it is found and freed again."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from labspawner.errors import ProviderUnavailable
from labspawner.extension import enabling
from labspawner.extension.enabling import link_package
from labspawner.model import Handle, HeldSlice, Json, LaunchRequest, LeaseId
from labspawner.providers.local import explain, sandbox
from labspawner.providers.local.confinement import Confinement, Network
from labspawner.providers.local.homes import Home
from labspawner.providers.local.layout import PROGRAM, layout, visible
from labspawner.providers.local.limits import GroupMaker
from labspawner.providers.local.limits.groups import Group
from labspawner.providers.local.logs import LogBook
from labspawner.providers.local.machine import PACKAGES_INSIDE, Found, Machine
from labspawner.providers.local.network.address import Address, hub_inside
from labspawner.providers.local.network.plan import network_plan
from labspawner.providers.local.network.rundir import RunDirs
from labspawner.providers.local.options import LocalSettings, LocalVariant
from labspawner.providers.local.slices.inside import GpuInside
from labspawner.providers.local.slices.slices import Slices
from labspawner.providers.local.software import Software
from labspawner.providers.local.warm import StartOrder
from labspawner.providers.processes import Identity
from labspawner.sentences import Sentence

log = getLogger(__name__)

_SERVICE_URL = "JUPYTERHUB_SERVICE_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One launch, worked out before anything is touched. held: its GPU slice, once one was promised."""

    request: LaunchRequest
    variant: LocalVariant
    argv: tuple[str, ...]
    home: Path
    log: Path
    deadline: float
    held: HeldSlice | None = None

    def left_s(self) -> float:
        """Seconds until it must be ready."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one server will be: everything that it leaves on this machine derives from this and the lease.

    group: the name of its control group. run_dir: its folder on the host.
    """

    found: Found
    home: Home
    software: Software
    network: Network
    address: Address
    run_dir: Path | None
    group: Group | None


def handle_of(job: Job, provider: str, *, place: Place | None = None, keeper: Identity | None = None) -> Handle:
    """All that a later hub process needs to free what this launch makes."""
    data: dict[str, Json] = {"home": str(job.home), "log": str(job.log)}
    if job.held is not None:
        data[HeldSlice.KEY] = job.held.to_json()
    if place is not None:
        data["uid"] = place.home.account.uid
        data["rung"] = place.found.rung.value
        data["url"] = place.address.url
        if place.address.port is not None:
            data["port"] = place.address.port
        if place.run_dir is not None:
            data["run_dir"] = str(place.run_dir)
        if place.group is not None:
            data["group"] = str(place.group.name)
    if keeper is not None:
        data["pid"], data["created"] = keeper
    return Handle(lease_id=job.request.lease_id, provider=provider, data=data)


class Preparer:
    """Makes what one server needs before its process, and frees it after. Every method blocks."""

    def __init__(
        self,
        machine: Machine,
        settings: LocalSettings,
        logs: LogBook,
        run_dirs: RunDirs,
        slices: Slices,
        *,
        packages: Path,
    ) -> None:
        """packages: a folder for the link by which other interpreters find our extension."""
        self._machine, self._settings, self._logs = machine, settings, logs
        self._run_dirs, self._slices, self._packages = run_dirs, slices, packages

    def order(self, job: Job, place: Place, marks: Mapping[str, str]) -> StartOrder:
        """Everything about the start, with the log opened for it; run folder, files and control group are there then.

        Raises LabError, in words for the student.
        """
        request, found = job.request, place.found
        environment = self._environment(job, place, marks)
        marks = {**marks, _SERVICE_URL: environment[_SERVICE_URL]}
        rlimits, nice = self._machine.process_limits(found, request.resources)
        try:
            if place.run_dir is not None:
                self._run_dirs.prepare(request.lease_id)
            gpu = self._slice(job, place, environment)
            environment |= gpu.environment if gpu is not None else self._slices.none_of_it
            if not found.sandboxed:
                plain = self._plain(job, place, environment)
                invocation, words, plan = plain, None, None
            else:
                invocation, words, plan = self._sandboxed(job, place, environment, marks, gpu)
                if found.groups is not None:
                    group = found.groups.create(request.lease_id, self._machine.limits(request.resources))
                    if job.held is not None:
                        self._slices.wall(request.lease_id, job.held, group.device_memory)
            return StartOrder(
                argv=invocation.argv,
                environment=invocation.environment,
                marks=marks,
                title=place.home.account.name,
                cwd=invocation.cwd,
                output_fd=self._open_log(request.lease_id, full=place.home.full),
                account=place.home.account if found.sandboxed else None,
                user_namespace=found.sandboxed and os.geteuid() != 0,
                sandbox=words,
                outside_files=place.group.outside_files if place.group is not None else (),
                inside_files=place.group.inside_files if place.group is not None else (),
                rlimits=rlimits,
                nice=nice,
                network=plan,
                log_bytes=self._settings.log_limit,
                warm=self._settings.preload is None,
                loader=gpu.loader if gpu is not None else {},
            )
        except (OSError, ValueError) as exc:
            raise explain.refused(exc, job.argv[0]) from exc

    def free(self, lease_id: LeaseId, groups: GroupMaker | None) -> None:
        """Remove what is left of a lease that has no process any more; what still runs in its control group is killed.

        Raises ProviderUnavailable where something does not go away.
        """
        group = self._machine.group_of(groups, lease_id)
        problem = None
        if group is not None and group.exists() and not (group.kill() and group.remove()):
            problem = f"control group {group.name} is not empty"
        try:
            self._run_dirs.remove(lease_id)
        except OSError as exc:
            problem = f"run folder: {exc}"
        if problem is None:
            self._slices.forget(lease_id)
            self._slices.tidy_up()
        else:
            raise ProviderUnavailable(
                Sentence("Your server does not end. Your administrator can find out why; try again later."),
                detail=f"not freed lease={lease_id}: {problem}",
            )

    def _environment(self, job: Job, place: Place, marks: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in self._settings.env_keep if name in os.environ}
        environment = sandbox.environment_for(
            job.request, job.variant, url=place.address.url_inside, kept=kept, marks=marks
        )
        if job.variant.interpreter is not None:
            environment["PATH"] = os.pathsep.join((place.software.folder, environment.get("PATH", os.defpath)))
        environment |= enabling.environment(environment, self._package_parent(job, place))
        environment["PATH"] = with_folder(environment.get("PATH", os.defpath), place.software.folder)
        return environment

    def _slice(self, job: Job, place: Place, environment: Mapping[str, str]) -> GpuInside | None:
        """The files of the slice that was promised, made; None where there is none."""
        if job.held is None:
            return None
        lease_id, sandboxed = job.request.lease_id, place.found.sandboxed
        return self._slices.make(lease_id, job.held, job.variant.gpu, sandboxed=sandboxed, base=environment)

    def _package_parent(self, job: Job, place: Place) -> str | None:
        """Where an interpreter other than the hub's finds our extension; None where it has it."""
        if job.variant.interpreter is None:
            return None
        return PACKAGES_INSIDE if place.found.sandboxed else link_package(self._packages)

    def _plain(self, job: Job, place: Place, environment: Mapping[str, str]) -> sandbox.Invocation:
        self._find_command(job.argv[0], environment["PATH"], ())
        invocation = sandbox.plain(job.argv, home=str(job.home), environment=environment, as_root=os.geteuid() == 0)
        if not place.home.full:
            return invocation
        return sandbox.rescue(invocation, folder=str(self._run_dirs.inside(job.request.lease_id)))

    def _sandboxed(
        self, job: Job, place: Place, environment: dict[str, str], marks: Mapping[str, str], gpu: GpuInside | None
    ) -> tuple[sandbox.Invocation, tuple[str, ...], Json]:
        account = place.home.account
        confinement = self._machine.confine(
            place.home,
            network=place.network,
            software=place.software,
            run_dir=self._run_dirs.inside(job.request.lease_id),
            gpu=gpu,
        )
        trees = self._seen(confinement)
        environment, hub_port = hub_inside(environment, avoid=place.address.port_inside)
        invocation = sandbox.confined(
            job.argv,
            home=confinement.home_inside,
            name=account.name,
            environment=environment,
            folder=place.software.folder,
            trees=trees,
        )
        self._find_command(job.argv[0], invocation.environment["PATH"], trees)
        if place.home.full:
            invocation = sandbox.rescue(invocation, folder="/tmp/.labspawner")  # noqa: S108 - the sandbox's own
        words = layout(
            confinement,
            host=place.found.host,
            etc=str(self._machine.etc_for(confinement)),
            hidden=self._machine.hidden(),
            program=shutil.which(PROGRAM) or PROGRAM,
        )
        plan = network_plan(
            place.network,
            place.address,
            hub_port=hub_port,
            hub_socket=self._run_dirs.hub_socket,
            egress=place.found.egress.command,
            deny=place.found.deny,
            marks=marks,
        )
        return invocation, words, plan

    def _seen(self, confinement: Confinement) -> tuple[str, ...]:
        return tuple(bind.target for bind in confinement.binds if bind.source == bind.target)

    def _find_command(self, command: str, path: str, trees: tuple[str, ...]) -> None:
        """Raises LabError where the command is not installed, or is not seen inside; OSError where it is no program."""
        found = shutil.which(command, path=path)
        if found is None:
            if Path(command).exists():
                raise PermissionError(errno.EACCES, "not executable", command)
            raise explain.not_found(command)
        if trees and not visible(found or command, trees):
            raise explain.not_seen(command)

    def _open_log(self, lease_id: LeaseId, *, full: bool) -> int:
        """A descriptor for the log; on a full disk that has no room for one, what the server prints is lost."""
        try:
            return self._logs.open(lease_id)
        except OSError as exc:
            if not full or exc.errno not in explain.FULL:
                raise
            log.warning("no room for the log of lease=%s", lease_id)
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def with_folder(path: str, folder: str) -> str:
    """PATH with `folder` at its end, where it is not in it: the folder of the hub's Python is where
    `jupyterhub-singleuser` is when the hub was started by its full path, without activating its environment."""
    return path if folder in path.split(os.pathsep) else os.pathsep.join(filter(None, (path, folder)))
