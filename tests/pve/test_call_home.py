"""VMs without a guest agent, which call the hub for their environment: whole starts on the double, and what may go wrong."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from tornado import httpserver, netutil, web

from labspawner.errors import SetupError, StartFailed
from labspawner.guest.labspawner_guest import HINT
from labspawner.model import ReleaseMode, ServerState
from labspawner.pages.callhome import CallHomeHandler, Rate
from labspawner.providers.contract import HomeCall, Welcoming
from labspawner.providers.proxmox import words
from labspawner.providers.proxmox.homecalls import digest
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.providers.proxmox.record import record_of
from labspawner.testing import tinyserver
from labspawner.testing.conformance.base import status_of
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.guest import Guests
from labspawner.testing.waiting import eventually

from .providers import Started, a_request, follow, outcome, provider_on

CALLS = {"handover": "call-home"}
AUTO = {"handover": "auto"}


class Site:
    """A hub's HTTP server with our handler, and its provider on a double."""

    def __init__(self, pve: PveDouble, folder: Path) -> None:
        self.pve, self.folder = pve, folder
        self.providers: dict[str, Any] = {}
        runtime = SimpleNamespace(providers=self.providers)
        place = (r"/hub/labspawner/guest/call-home", CallHomeHandler, {"rate": Rate(at_once=1000)})
        self.server = httpserver.HTTPServer(web.Application([place], labspawner=runtime))
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.server.add_sockets(sockets)
        self.provider = self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, **settings: Any) -> ProxmoxProvider:
        """A provider of this hub, as a process that starts afterwards has it."""
        made = provider_on(self.pve, self.folder, hub_connect_url=self.url, **settings)
        self.providers["proxmox"] = made
        return made

    async def call(self, nonce: str, source: str, **more: Any) -> tuple[int, bytes]:
        """What the hub answers to a call from an address."""
        return await asyncio.to_thread(self._call, {"protocol": 1, "nonce": nonce, **more}, source)

    def _call(self, body: dict[str, Any], source: str) -> tuple[int, bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120, source_address=(source, 0))
        try:
            line.request("POST", "/hub/labspawner/guest/call-home", json.dumps(body))
            with line.getresponse() as got:
                return got.status, got.read()
        finally:
            line.close()

    async def close(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()
        await self.provider.close()


@pytest_asyncio.fixture
async def new_site(tmp_path: Path) -> AsyncIterator[Callable[[PveDouble], Site]]:
    made: list[Site] = []

    def make(pve: PveDouble) -> Site:
        made.append(Site(pve, tmp_path / f"hub-{len(made)}"))
        return made[-1]

    yield make
    for site in made:
        await site.close()


@pytest.fixture
def silent(new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]) -> Site:
    """A hub on a cluster in whose guests no agent answers and nothing calls: a test calls in their names."""
    return new_site(new_pve(guests=Guests.scripted(agent=False)))


def nonce_of(pve: PveDouble, vmid: int) -> str:
    """What the VM finds in its user data; empty before it is there."""
    found = HINT.search(f"password: {pve.vm(vmid).config.get('cipassword', '')}")
    return found[1] if found else ""


async def calling(site: Site, started: Started) -> tuple[str, str]:
    """Nonce and address of a VM that is on, and whose call is answered."""

    def is_on() -> bool:
        handles = started.handles
        vmid = record_of(handles[-1]).vmid if handles else None
        there = vmid is not None and vmid in {vm.vmid for vm in site.pve.vms()}
        return there and site.pve.vm(vmid).status == "running" and words.WAITING_FOR_CALL in started.words

    await eventually(is_on, 120, "the VM is on, and waited for")
    record = record_of(started.handle)
    return nonce_of(site.pve, started.vmid), record.address


def begin(site: Site, **changes: Any) -> tuple[Started, asyncio.Task[Started]]:
    request = a_request(site.pve, **{"settings": CALLS, **changes})
    started = Started(request)
    return started, asyncio.ensure_future(follow(site.provider, request, started))


# -- it works


def test_the_hub_finds_it_by_its_protocol(silent: Site) -> None:
    assert isinstance(silent.provider, Welcoming)


async def test_a_vm_without_an_agent_calls_and_serves(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site], caplog: pytest.LogCaptureFixture
) -> None:
    pve = new_pve(guests=Guests.scripted(agent=False, calls_home=True))
    pve.set_config(pve.template, agent="0")
    site = new_site(pve)
    request = a_request(pve, settings=CALLS)

    with caplog.at_level(logging.DEBUG):
        started = await follow(site.provider, request)

    assert await status_of(started.api_url) == 200
    record, nonce = record_of(started.handle), nonce_of(pve, started.vmid)
    assert (record.called, record.nonce) == (True, digest(nonce))
    assert words.WAITING_FOR_CALL in started.words
    assert pve.vm(started.vmid).config["agent"] == "0"
    assert [request.path for request in pve.requests.matching() if "/agent/" in request.path] == []
    assert nonce not in caplog.text
    assert request.environment["JUPYTERHUB_API_TOKEN"] not in json.dumps(pve.vm(started.vmid).config, default=str)
    states = await site.provider.observe([started.handle])
    assert states[request.lease_id] is ServerState.RUNNING
    assert await site.provider.activity(started.handle) is None
    assert await site.provider.logs(started.handle, 5) == ""


async def test_auto_takes_the_agent_where_there_is_one_and_the_call_is_nothing_then(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    pve = new_pve()
    site = new_site(pve)

    started = await follow(site.provider, a_request(pve, settings=AUTO))

    record = record_of(started.handle)
    assert (record.called, words.WAITING_FOR_CALL in started.words) == (False, False)
    assert (await site.call(nonce_of(pve, started.vmid), record.address))[0] == 403


@pytest.mark.parametrize("agent", ["0", "enabled=1"])
async def test_auto_takes_the_call_where_no_agent_answers(
    agent: str, new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    pve = new_pve(guests=Guests.scripted(agent=False, calls_home=True))
    pve.set_config(pve.template, agent=agent)
    site = new_site(pve)

    started = await follow(site.provider, a_request(pve, settings=AUTO))

    assert record_of(started.handle).called
    assert await status_of(started.api_url) == 200


async def test_the_real_program_in_a_guest_calls_a_real_handler_and_starts_a_real_server(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    guests = Guests.real(agent=False, calls_home=True)
    site = new_site(new_pve(guests=guests))
    command = tuple(tinyserver.command(say="hello"))

    started = await follow(site.provider, a_request(site.pve, settings=CALLS, command=command))

    assert await status_of(started.api_url) == 200
    kept = json.loads((guests.disk(started.vmid) / "run/labspawner/server.json").read_text())
    assert (kept["lease"], kept["user"]) == (started.request.lease_id, "student")
    assert kept["environment"]["JUPYTERHUB_API_URL"].startswith(site.url)
    await site.provider.release(started.handle, ReleaseMode.DESTROY, grace_s=1)


async def test_a_stopped_vm_calls_again_with_a_nonce_of_its_next_start(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    pve = new_pve(guests=Guests.scripted(agent=False, calls_home=True))
    site = new_site(pve)
    first = await follow(site.provider, a_request(pve, settings=CALLS))
    old = nonce_of(pve, first.vmid)
    await site.provider.release(first.handle, ReleaseMode.STOP, grace_s=5)

    again = await follow(site.provider, a_request(pve, settings=CALLS, parked=first.handle))

    assert again.vmid == first.vmid
    assert nonce_of(pve, again.vmid) not in {"", old}
    assert await status_of(again.api_url) == 200


async def test_what_called_is_stopped_and_not_hibernated_since_nothing_brings_it_a_new_token(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site], caplog: pytest.LogCaptureFixture
) -> None:
    pve = new_pve(guests=Guests.scripted(agent=False, calls_home=True))
    site = new_site(pve)
    started = await follow(site.provider, a_request(pve, settings={**CALLS, "hibernate": True}))

    await site.provider.release(started.handle, ReleaseMode.HIBERNATE, grace_s=5)

    assert (pve.vm(started.vmid).status, pve.vm(started.vmid).lock) == ("stopped", "")
    assert "stopped instead of hibernated" in caplog.text


async def test_a_parked_vm_that_was_found_running_is_switched_off_first_so_that_it_calls(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    pve = new_pve(guests=Guests.scripted(agent=False, calls_home=True))
    site = new_site(pve)
    first = await follow(site.provider, a_request(pve, settings=CALLS))

    again = await follow(site.provider, a_request(pve, settings=CALLS, parked=first.handle))

    assert (again.vmid, await status_of(again.api_url)) == (first.vmid, 200)


# -- attacks


async def test_the_right_call_is_answered_once_and_all_others_alike(silent: Site) -> None:
    started, task = begin(silent)
    nonce, address = await calling(silent, started)
    elsewhere = "127.3.3.3"

    wrong = [await silent.call(nonce, elsewhere), await silent.call("x" * 43, address), await silent.call("", address)]
    wrong.append(await silent.call(nonce, address, uuid="11111111-4e35-4173-bd6c-21b71f07e3f8"))
    right = await silent.call(nonce, address)
    wrong += [await silent.call(nonce, address), await silent.call(nonce, elsewhere)]

    assert right[0] == 200
    assert json.loads(right[1])["lease"] == started.request.lease_id
    assert {status for status, _ in wrong} == {403}
    assert len({body for _, body in wrong}) == 1
    task.cancel()
    await asyncio.wait({task})


async def test_people_are_told_who_else_had_the_nonce(silent: Site, caplog: pytest.LogCaptureFixture) -> None:
    started, task = begin(silent)
    nonce, address = await calling(silent, started)

    await silent.call(nonce, "127.3.3.3")
    await silent.call(nonce, "127.3.3.3")
    found = [each for each in await silent.provider.diagnose_profiles([]) if each.what == "calls home"]
    task.cancel()
    await asyncio.wait({task})

    (finding,) = found
    assert f"{started.request.lease_id}: its nonce was shown from 127.3.3.3" in finding.detail
    assert address in finding.detail
    assert nonce not in finding.detail + finding.advice + caplog.text
    assert caplog.text.count("a call home was refused") == 1


async def test_a_nonce_of_one_vm_opens_nothing_from_anothers_address(silent: Site) -> None:
    one, first = begin(silent)
    other, second = begin(silent, user="student2")
    (nonce, address), (_, theirs) = await calling(silent, one), await calling(silent, other)

    assert (await silent.call(nonce, theirs))[0] == 403
    said = json.loads((await silent.call(nonce, address))[1])

    assert (said["lease"], said["environment"]["JUPYTERHUB_USER"]) == (one.request.lease_id, "student1")
    for task in (first, second):
        task.cancel()
    await asyncio.wait({first, second})


async def test_when_a_start_is_cancelled_its_nonce_is_dead_and_nothing_is_left(silent: Site) -> None:
    started, task = begin(silent)
    nonce, address = await calling(silent, started)

    task.cancel()
    await asyncio.wait({task})

    assert (await silent.call(nonce, address))[0] == 403
    assert await silent.provider.owned() == []


async def test_a_hub_that_starts_again_knows_the_nonce_of_no_start_and_undoes_it_by_its_handle(silent: Site) -> None:
    started, task = begin(silent)
    nonce, address = await calling(silent, started)
    assert started.handle.data["nonce"] == digest(nonce)
    next_hub = silent.open()  # beside the first one, which is as good as killed

    refused = await silent.call(nonce, address)
    await next_hub.release(started.handle, ReleaseMode.DESTROY, grace_s=0)
    task.cancel()
    await asyncio.wait({task})
    left = await next_hub.owned()
    await next_hub.close()

    assert (refused[0], left) == (403, [])


async def test_nothing_in_a_handle_or_a_listing_shows_a_nonce(silent: Site) -> None:
    started, task = begin(silent)
    nonce, _ = await calling(silent, started)

    seen = json.dumps([dict(handle.data) for handle in started.handles])
    read = await silent.provider.client.get(f"/nodes/{record_of(started.handle).node}/qemu/{started.vmid}/config")
    task.cancel()
    await asyncio.wait({task})

    assert nonce not in seen + json.dumps(read) + repr(HomeCall(nonce=nonce, address="x"))


# -- when it does not work


async def test_a_vm_that_never_calls_is_told_of_and_undone(silent: Site) -> None:
    error = await outcome(follow(silent.provider, a_request(silent.pve, settings={**CALLS, "agent_timeout_s": 20.0})))

    assert isinstance(error, StartFailed)
    assert error.message == words.NO_CALL
    assert await silent.provider.owned() == []


async def test_a_vm_that_goes_off_before_it_calls_is_not_waited_for(silent: Site) -> None:
    started, task = begin(silent)
    await calling(silent, started)

    silent.pve.faults.stop(started.vmid)
    error = await outcome(task)

    assert isinstance(error, StartFailed)
    assert "went off" in str(error.message)


async def test_a_server_of_another_major_version_is_refused_as_through_the_agent(silent: Site) -> None:
    started, task = begin(silent)
    nonce, address = await calling(silent, started)

    refused = await silent.call(nonce, address, versions={"jupyterhub": "1.5.0"})
    error = await outcome(task)

    assert refused[0] == 403
    assert isinstance(error, SetupError)
    assert "jupyterhub==1.5.0" in str(error)


async def test_a_server_that_ends_by_itself_ends_the_start(
    new_pve: Callable[..., PveDouble], new_site: Callable[[PveDouble], Site]
) -> None:
    site = new_site(new_pve(guests=Guests.scripted(agent=False, calls_home=True)))
    command = tuple(tinyserver.command(never_listen=True, die_after_s=1.0, exit_code=3))

    error = await outcome(follow(site.provider, a_request(site.pve, settings=CALLS, command=command)))

    assert isinstance(error, StartFailed)
    assert error.message == words.DIED


@pytest.mark.parametrize(
    ("changes", "settings"),
    [({"hub_connect_url": None}, {}), ({"addresses": {}}, {})],
    ids=["no address of the hub", "no addresses for VMs"],
)
async def test_what_calls_need_is_missed_before_anything_is_made(
    changes: dict[str, Any], settings: dict[str, Any], pve: PveDouble, tmp_path: Path
) -> None:
    given = {"hub_connect_url": "http://10.20.0.1:8081", **changes}
    provider = provider_on(pve, tmp_path, **{key: value for key, value in given.items() if value is not None})

    error = await outcome(follow(provider, a_request(pve, settings={**CALLS, **settings})))

    assert isinstance(error, SetupError)
    assert error.message == words.NO_CALLS
    assert [vm.vmid for vm in pve.vms() if vm.vmid not in {pve.template, pve.local_template}] == []
    await provider.close()
