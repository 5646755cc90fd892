"""`labspawner vm`: templates are listed, checked and tried out; a node is emptied while the hub runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from click.testing import CliRunner
from pve.atthehub import HUB_ID, Hub, Said
from pve.providers import Started, a_request, follow

from labspawner.cli import main
from labspawner.guest import helper_source
from labspawner.model import ReleaseMode
from labspawner.providers.proxmox.provider import ProxmoxProvider
from labspawner.testing.pve import PveDouble
from labspawner.testing.pve.guest import Guests

TEMPLATES = {9000, 9100}


@pytest.fixture
def hub(pve: PveDouble, tmp_path) -> Hub:
    return Hub(pve, tmp_path)


@pytest.fixture
async def provider(hub: Hub) -> AsyncIterator[ProxmoxProvider]:
    opened = hub.provider()
    yield opened
    await opened.close()


async def beside(hub: Hub, *words: str) -> Said:
    """Run a command while the hub's own loop goes on."""
    return await asyncio.to_thread(hub.run, *words)


def may_migrate(pve: PveDouble) -> None:
    pve.call(lambda inside: inside.access.allow(pve.user, f"/pool/{pve.pool}", ("VM.Migrate",)))


async def started_on(provider: ProxmoxProvider, pve: PveDouble, node: str, user: str, **settings) -> Started:
    request = a_request(
        pve, hub_id=HUB_ID, user=user, base_url=f"/user/{user}/", settings={"nodes": [node], **settings}
    )
    return await follow(provider, request)


# -- templates


def test_the_helper_is_printed_as_it_is_installed():
    assert CliRunner().invoke(main, ["vm", "guest-helper"]).stdout == helper_source()


def test_templates_are_listed_with_their_profiles_and_disks(hub):
    said = hub.run("vm", "template", "list")

    assert said.status == 0
    assert "shared (shared) dl101/vm" in said.line("9100")
    assert "local (of the node) -" in said.line("9000")


def test_a_good_template_is_called_good(hub):
    said = hub.run("vm", "template", "check", "lab-template")

    assert said.status == 0
    assert "A good template" in said.text


def test_a_template_is_found_by_its_id_too(hub):
    assert hub.run("vm", "template", "check", "9100").status == 0


def test_what_is_wrong_with_a_template_is_named_with_what_to_do(pve, hub):
    pve.set_config(pve.template, cicustom="user=local:snippets/x.yaml", lock="backup", agent="0")

    said = hub.run("vm", "template", "check", "lab-template")

    assert said.status == 1
    assert "qm set ID --delete cicustom" in said.flat
    assert "locked (backup)" in said.flat
    assert "it is off in its options" in said.flat


def test_a_template_that_is_not_there_is_an_error(hub):
    said = hub.run("vm", "template", "check", "nosuch")

    assert said.status == 1
    assert "nosuch is not there" in said.flat


def test_programs_get_json(hub):
    said = hub.run("vm", "template", "check", "lab-template", "--json")

    found = json.loads(said.text)
    assert found["ok"] is True
    assert "guest agent" in {each["what"] for each in found["findings"]}


def test_a_trial_boots_a_clone_looks_inside_and_leaves_nothing(pve, hub):
    said = hub.run("vm", "template", "check", "lab-template", "--boot")

    assert said.status == 0, said.text
    assert "a server answered after" in said.flat
    assert said.line("jupyterhub-singleuser is version").startswith("ok inside jupyterhub")
    assert {vm.vmid for vm in pve.vms()} == TEMPLATES
    assert pve.invariants() == []


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"helper": False}, "is not prepared for Jupyter"),
        ({"versions": {"jupyterhub": "1.5.0", "jupyterlab": "3.0"}}, "do not go together"),
        ({"versions": {"jupyterhub": None, "jupyterlab": None}}, "jupyterhub-singleuser is not in the template"),
        ({"agent": False}, "nothing in it answers"),
    ],
)
def test_a_trial_that_fails_says_why_and_leaves_nothing(new_pve, tmp_path, behaviour, words):
    pve = new_pve(guests=Guests.scripted(**behaviour))
    hub = Hub(pve, tmp_path, provider={"boot_timeout_s": 20} if behaviour == {"agent": False} else {})

    said = hub.run("vm", "template", "check", "lab-template", "--boot")

    assert said.status == 1
    assert words in said.flat, said.text
    assert {vm.vmid for vm in pve.vms()} == TEMPLATES
    assert pve.invariants() == []


def test_a_template_that_is_wrong_already_is_not_booted(pve, hub):
    pve.set_config(pve.template, lock="backup")

    hub.run("vm", "template", "check", "lab-template", "--boot")

    assert pve.requests.count("POST") == 0


# -- draining


async def test_no_new_server_goes_to_a_node_that_is_being_emptied(pve, hub, provider):
    said = await beside(hub, "vm", "drain", "pve1")

    servers = [await started_on_any(provider, pve, f"student{number}") for number in range(3)]

    assert said.status == 0, said.text
    assert {pve.vm(server.vmid).node for server in servers} <= {"pve2", "pve3"}


async def started_on_any(provider: ProxmoxProvider, pve: PveDouble, user: str) -> Started:
    return await follow(provider, a_request(pve, hub_id=HUB_ID, user=user, base_url=f"/user/{user}/"))


async def test_undoing_it_lets_servers_go_there_again(pve, hub, provider):
    await beside(hub, "vm", "drain", "pve1")
    said = await beside(hub, "vm", "drain", "pve1", "--undo")

    server = await started_on(provider, pve, "pve1", "ada")

    assert "New servers go to pve1 again" in said.text
    assert pve.vm(server.vmid).node == "pve1"


async def test_what_is_off_moves_and_what_runs_stays_and_is_named(pve, hub, provider):
    may_migrate(pve)
    runs = await started_on(provider, pve, "pve1", "ada")
    parked = await started_on(provider, pve, "pve1", "bob")
    await provider.release(parked.handle, ReleaseMode.STOP, grace_s=5)

    said = await beside(hub, "vm", "drain", "pve1")

    assert said.status == 1  # one is still there
    assert pve.vm(runs.vmid).node == "pve1"
    assert pve.vm(parked.vmid).node in {"pve2", "pve3"}
    assert "it runs, and --move was not asked for" in said.line(" ada ")
    assert "moves to pve" in said.line(" bob ")


async def test_a_server_that_was_moved_while_parked_is_resumed_where_it_is(pve, hub, provider):
    may_migrate(pve)
    first = await started_on(provider, pve, "pve1", "ada")
    await provider.release(first.handle, ReleaseMode.HIBERNATE, grace_s=5)
    await beside(hub, "vm", "drain", "pve1")

    again = await follow(provider, replace(first.request, parked=first.handle))

    assert again.vmid == first.vmid
    assert pve.vm(again.vmid).node in {"pve2", "pve3"}
    assert pve.vm(again.vmid).running


async def test_with_move_a_running_server_goes_on_elsewhere(pve, hub, provider):
    may_migrate(pve)
    server = await started_on(provider, pve, "pve1", "ada")

    said = await beside(hub, "vm", "drain", "pve1", "--move")

    assert said.status == 0, said.text
    assert pve.vm(server.vmid).node in {"pve2", "pve3"}
    assert pve.vm(server.vmid).running


async def test_without_the_privilege_nothing_moves_and_it_is_said(pve, hub, provider):
    parked = await started_on(provider, pve, "pve1", "ada")
    await provider.release(parked.handle, ReleaseMode.STOP, grace_s=5)

    said = await beside(hub, "vm", "drain", "pve1")

    assert said.status == 1
    assert "VM.Migrate" in said.flat
    assert pve.vm(parked.vmid).node == "pve1"


async def test_a_dry_run_changes_nothing(pve, hub, provider):
    may_migrate(pve)
    parked = await started_on(provider, pve, "pve1", "ada")
    await provider.release(parked.handle, ReleaseMode.STOP, grace_s=5)

    said = await beside(hub, "vm", "drain", "pve1", "--dry-run")

    assert "nothing was done" in said.text
    assert pve.vm(parked.vmid).node == "pve1"
    assert await provider.draining.nodes() == frozenset()


async def test_a_vm_of_somebody_else_is_never_moved(pve, hub, provider):
    may_migrate(pve)
    pve.add_vm(20005, "pve1", pool=pve.pool, name="web-server")

    said = await beside(hub, "vm", "drain", "pve1")

    assert said.status == 0
    assert pve.vm(20005).node == "pve1"


def test_a_node_that_is_not_there_is_refused(hub):
    said = hub.run("vm", "drain", "pve9")

    assert said.status == 1
    assert "there are: pve1, pve2, pve3" in said.errors


def test_without_a_provider_on_proxmox_the_command_says_so(tmp_path, pve):
    hub = Hub(pve, tmp_path)
    hub.config.write_text("c = get_config()\nc.Labspawner.providers = {'sim': {}}\n")

    said = hub.run("vm", "template", "list")

    assert said.status == 1
    assert "no provider of the configuration is on Proxmox VE" in said.errors
