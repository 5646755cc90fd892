"""Where a student finds the desktop: on the server's card, and while it starts."""

from __future__ import annotations

import pytest
from unit.pages.rendering import FullDesk, a_running_user, a_spawner, a_user, home, rendered
from unit.pages.test_home import a_ready_lease, no_stages
from unit.service.test_wiring import Screens

from labspawner.model import Handle, Phase
from labspawner.pages.hub import DESKTOPS


class VmDesk(FullDesk):
    """A hub whose default provider has screens."""

    providers = {"sim": Screens()}


def a_vm_lease(**changes):
    lease = a_ready_lease(**changes)
    return lease.with_(handle=Handle(lease_id=lease.id, provider="sim"))


def with_desktops(user, there: bool = True):
    user.settings[DESKTOPS] = there
    return user


def test_the_card_of_a_running_machine_leads_to_its_desktop():
    page = home(with_desktops(a_running_user(VmDesk(a_vm_lease()))))

    assert page.select_one("#lab-desktop")["href"] == "/services/desktop/student1/"
    assert "Open the desktop" in page.select_one("#lab-desktop").text


def test_it_is_said_in_chinese_too():
    page = home(with_desktops(a_running_user(VmDesk(a_vm_lease()))), "zh-CN")

    assert "打开桌面" in page.select_one("#lab-desktop").text


@pytest.mark.parametrize(("desk", "there"), [(FullDesk, True), (VmDesk, False)])
def test_a_server_without_a_screen_or_a_hub_without_the_service_shows_no_link(desk, there):
    page = home(with_desktops(a_running_user(desk(a_vm_lease())), there))

    assert page.select_one("#lab-desktop") is None
    assert page.select_one("#start") is not None


@pytest.mark.parametrize(("handle", "shown"), [(True, True), (False, False)])
def test_a_machine_that_starts_can_be_watched_from_when_it_is_there(handle, shown):
    lease = a_vm_lease(phase=Phase.LAUNCHING)
    user = with_desktops(a_user(engine=VmDesk(lease if handle else lease.with_(handle=None))))
    spawner = a_spawner(user, pending="spawn", active=True, _generate_progress=no_stages)

    page = rendered("spawn_pending.html", user=user, spawner=spawner, progress_url="/p")

    assert (page.select_one("#lab-desktop") is not None) is shown
