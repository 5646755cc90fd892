"""The way to the world: slirp4netns, tried out once, and what it must not reach."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging import getLogger

import psutil

from labspawner.sentences import Sentence, plain

log = getLogger(__name__)

PROGRAM = "slirp4netns"
RESOLVER = "10.0.2.3"
"""Where slirp4netns answers DNS, by asking the resolver of the host."""

ALWAYS = ("--configure", "--mtu=65520", "--disable-host-loopback")
# The best first: it locks itself up, so that a bug in it is not a way to the host.
_GUARDS = (("--enable-sandbox", "--enable-seccomp"), ("--enable-sandbox",), ("--enable-seccomp",), ())
_TRIAL_S = 60.0

# Metadata and management of clouds that are not link-local: Alibaba, Azure, Oracle's old one.
_CLOUDS = ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
_NEVER = ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", *_CLOUDS, "fe80::/10", "fd00:ec2::254/128")


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What was found. command: for `network_plan`, empty where there is no way. missing: then says why, and what to do."""

    command: tuple[str, ...] = ()
    missing: Sentence | None = None

    @property
    def available(self) -> bool:
        return bool(self.command)


def find_egress() -> Egress:
    """Try slirp4netns in a network namespace made for this, with as many of its guards as work here. Blocks for 0.1 s."""
    program = shutil.which(PROGRAM)
    if program is None:
        return Egress(missing=Sentence("{program} is missing: apt-get install {program}", program=PROGRAM))
    said = ""
    for guards in _GUARDS:
        command = (program, *ALWAYS, *guards)
        try:
            _try(command)
        except (OSError, subprocess.SubprocessError) as exc:
            said = said or str(exc)
            continue
        if guards != _GUARDS[0]:
            log.warning("slirp4netns runs without some of its guards: %s", said)
        return Egress(command=command)
    return Egress(missing=Sentence("{program} does not work here: {why}", program=PROGRAM, why=plain(said)))


def _try(command: Sequence[str]) -> None:
    """Raises OSError or SubprocessError where it does not get ready."""
    with _a_namespace() as pid, contextlib.ExitStack() as held:
        life, life_end = os.pipe()
        ready, told = os.pipe()
        for fd in (life, ready):
            held.callback(os.close, fd)
        argv = [*command, f"--exit-fd={life}", f"--ready-fd={told}"]
        if os.geteuid() != 0:
            argv.append(f"--userns-path=/proc/{pid}/ns/user")
        try:
            slirp = held.enter_context(
                subprocess.Popen(  # noqa: S603 - found on the hub's own PATH
                    [*argv, str(pid), "tap0"],
                    pass_fds=(life, told),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            )
        finally:
            os.close(told)
        try:
            if not select.select([ready], [], [], _TRIAL_S)[0]:
                raise OSError(f"not ready within {_TRIAL_S:g} s")
            if not os.read(ready, 1):  # it ended
                raise OSError(_last_line(slirp.communicate(timeout=_TRIAL_S)[1]))
        finally:
            os.close(life_end)
            try:
                slirp.communicate(timeout=_TRIAL_S)
            except subprocess.TimeoutExpired:
                slirp.kill()


def _last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1][:300]


@contextlib.contextmanager
def _a_namespace() -> Iterator[int]:
    """A process in a network namespace of its own, ended on the way out."""
    own_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    with subprocess.Popen(  # noqa: S603
        ["unshare", *own_user, "--net", "sh", "-c", "echo; exec >&-; read _"],  # noqa: S607 - util-linux, on every PATH
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise OSError(_last_line(process.communicate(timeout=_TRIAL_S)[1]))
            yield process.pid
        finally:
            with contextlib.suppress(OSError):
                process.kill()


def denied(extra: Iterable[str] = (), *, host: Callable[[], Iterable[str]] | None = None) -> tuple[str, ...]:
    """What nobody in a sandbox may reach: every address of this machine, link-local, multicast, the metadata services of
    clouds, and `extra`; as networks, sorted. Raises ValueError for what is no network.

    host: the machine's addresses now; one that it gets later is not covered.
    """
    networks = {ipaddress.ip_network(text, strict=False) for text in (*_NEVER, *extra)}
    networks |= {ipaddress.ip_network(text) for text in (host or host_addresses)()}
    return tuple(sorted(map(str, networks)))


def host_addresses() -> Iterable[str]:
    """Every address of this machine's interfaces but loopback's, which each sandbox has of its own."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family in {socket.AF_INET, socket.AF_INET6}:
                address = ipaddress.ip_address(found.address.partition("%")[0])
                if not address.is_loopback:
                    yield str(address)


def resolv_conf(host_text: str) -> str:
    """/etc/resolv.conf for a sandbox with egress: slirp4netns asks the host's resolver, wherever that is.

    The domains that are searched, and the options, stay as they are on the host.
    """
    kept = [line for line in host_text.splitlines() if line.split()[:1] in (["search"], ["domain"], ["options"])]
    return "\n".join([*kept, f"nameserver {RESOLVER}", ""])
