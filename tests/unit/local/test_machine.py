"""What a machine can do for servers, and what follows from it for one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labspawner.errors import SetupError
from labspawner.model import Resources
from labspawner.providers.contract import ProviderContext
from labspawner.providers.local import LocalSettings, LocalVariant, machine
from labspawner.providers.local.confinement import Account, Network, Rung
from labspawner.providers.local.homes import Home
from labspawner.providers.local.layout import HostView
from labspawner.providers.local.limits.quota import Disk, ProbedQuota
from labspawner.providers.local.machine import Found, Machine
from labspawner.providers.local.network.egress import Egress
from labspawner.providers.local.software import own_software
from labspawner.sentences import Sentence, plain

MiB = 2**20
MakeMachine = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> MakeMachine:
    def make(folder: Path = tmp_path, **settings: Any) -> Machine:
        context = ProviderContext(name="local", hub_id="hub", data_dir=folder)
        return Machine(context, LocalSettings(**settings), homes=folder / "homes", in_thread=asyncio.to_thread)

    return make


def found(**changes: Any) -> Found:
    values = {"rung": Rung.RLIMIT, "findings": (), "host": HostView(), "software": own_software()}
    return Found(**{**values, **changes})


class QuotasLike:
    """A file system's quotas, in memory."""

    def __init__(self, used_bytes: int, problem: str = "") -> None:
        self.used_bytes, self.problem = used_bytes, problem
        self.limits: dict[int, int | None] = {}

    def limit(self, home: Path, owner: int, limit_bytes: int | None) -> Sentence | None:
        self.limits[owner] = limit_bytes
        return plain(self.problem) if self.problem else None

    def usage(self) -> dict[int, Disk]:
        return {owner: Disk(used_bytes=self.used_bytes, limit_bytes=limit) for owner, limit in self.limits.items()}


def a_home(tmp_path: Path) -> Home:
    return Home(path=tmp_path / "ann", account=Account(uid=200001, gid=200001, name="ann"), full=False)


@pytest.mark.parametrize(("used_bytes", "full"), [(10 * MiB, False), (99 * MiB, True), (100 * MiB, True)])
def test_a_home_is_held_to_its_quota_and_full_when_it_is_reached(
    make: MakeMachine, tmp_path: Path, used_bytes: int, full: bool
) -> None:
    quotas: Any = QuotasLike(used_bytes)

    home = make(home_quota="100MiB").limit_disk(found(quotas=quotas), a_home(tmp_path))

    assert quotas.limits == {200001: 100 * MiB}
    assert home.full is full


def test_a_quota_that_cannot_be_set_stops_nobody(make: MakeMachine, tmp_path: Path) -> None:
    quotas: Any = QuotasLike(200 * MiB, problem="broken")

    assert not make(home_quota="100MiB").limit_disk(found(quotas=quotas), a_home(tmp_path)).full
    assert not make().limit_disk(found(), a_home(tmp_path)).full


async def test_without_control_groups_processes_limit_themselves_and_the_log_says_once_what_that_leaves_open(
    make: MakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    resources = Resources(memory_bytes=2**30, cpu=1.0)

    limits, nice = one.process_limits(found(), resources)
    one.process_limits(found(), resources)

    assert limits["RLIMIT_CORE"] == (0, 0)
    assert limits["RLIMIT_AS"][0] > 2**30
    assert nice > 0
    assert len([record for record in caplog.records if "CPU is not limited" in record.message]) == 1


def test_a_plain_process_is_not_limited_and_one_in_a_group_only_a_little(make: MakeMachine) -> None:
    groups: Any = object()

    assert make().process_limits(found(rung=Rung.PLAIN), Resources(memory_bytes=1)) == ({}, 0)
    assert "RLIMIT_AS" not in make().process_limits(found(groups=groups), Resources(memory_bytes=1))[0]


@pytest.mark.parametrize(
    ("setting", "wanted", "egress", "network"),
    [
        (None, None, True, Network.EGRESS),
        (None, None, False, Network.NONE),
        (None, "none", True, Network.NONE),
        ("none", None, True, Network.NONE),
        ("egress", "none", True, Network.NONE),
    ],
)
def test_a_server_gets_the_network_of_its_profile_else_of_the_settings_else_what_there_is(
    make: MakeMachine, setting: str | None, wanted: str | None, egress: bool, network: Network
) -> None:
    there = found(egress=Egress(command=("slirp4netns",)) if egress else Egress())

    assert make(network=setting).network_of(there, LocalVariant(network=wanted)) is network


def test_egress_that_is_missing_says_what_to_install(make: MakeMachine) -> None:
    there = found(egress=Egress(missing=plain("apt-get install slirp4netns")))

    with pytest.raises(SetupError, match="apt-get install slirp4netns"):
        make().network_of(there, LocalVariant(network="egress"))


def test_the_hubs_data_and_all_homes_are_hidden_wherever_they_are(make: MakeMachine, tmp_path: Path) -> None:
    data = tmp_path / "hub"

    assert make(data / "providers" / "local", hidden_paths=["/opt/x"]).hidden() == (
        str(data),
        str(data / "providers" / "local"),
        str(data / "providers" / "local" / "homes"),
        "/opt/x",
    )


async def test_a_machine_is_asked_once_and_again_after_a_failure(
    make: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answers = [plain("it is broken"), None]

    def find() -> Sentence | None:
        asked.append(1)
        return answers[len(asked) - 1]

    monkeypatch.setattr(machine, "find_sandbox", find)
    one = make(sandbox="rlimit", network="none")

    with pytest.raises(SetupError, match="broken"):
        await one.found()
    first, second = await asyncio.gather(one.found(), one.found())

    assert first is second
    assert len(asked) == 2
    await one.close()


@pytest.mark.parametrize("there", [True, False])
async def test_what_is_lacking_is_logged(
    make: MakeMachine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    caplog.set_level("INFO")
    quotas: Any = QuotasLike(0) if there else None
    monkeypatch.setattr(machine, "find_sandbox", lambda: None)
    monkeypatch.setattr(machine, "probe_quota", lambda *_, **__: ProbedQuota(quotas, "so it is with quotas"))
    monkeypatch.setattr(machine, "find_egress", lambda: Egress(missing=plain("no slirp4netns")))
    one = make(sandbox="rlimit", home_quota="1GiB")

    what = await one.found()

    assert what.quotas is quotas
    assert "no slirp4netns" in caplog.text
    (record,) = [record for record in caplog.records if "so it is with quotas" in record.message]
    assert record.levelname == ("INFO" if there else "WARNING")
    assert any("only the hub" in sentence for sentence in what.describe())
