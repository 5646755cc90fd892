"""Several endpoints, some of which do not answer."""

from __future__ import annotations

import asyncio
import threading

import pytest
from unit.proxmox.client.scripted import Reply, scripted

from labspawner.providers.proxmox.answers import PveSilent
from labspawner.testing.waiting import eventually


@pytest.fixture
def second(tmp_path):
    folder = tmp_path / "second"
    folder.mkdir()
    with scripted(folder) as lab:
        lab.on("GET", "/version", {"version": "second"})
        yield lab


async def test_the_first_endpoint_is_preferred(pve, second, a_client):
    client = a_client(pve, second)
    for _ in range(3):
        assert await client.get("/version") == {"version": "8.4.21"}

    assert [each.state for each in client.health().endpoints] == ["in use", "ready"]


async def test_an_endpoint_that_refuses_connections_costs_nothing_but_a_note(nobody, pve, a_client):
    client = a_client(pve, endpoints=(nobody, pve.url))

    assert await client.get("/version") == {"version": "8.4.21"}

    first, second = client.health().endpoints
    assert (first.state, second.state) == ("failed", "in use")
    assert "refused" in first.why.lower()


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
async def test_what_was_never_sent_goes_to_the_next_endpoint_whatever_it_is(nobody, pve, a_client, method):
    pve.on(method.upper(), "/x", "done")

    assert await getattr(a_client(pve, endpoints=(nobody, pve.url)), method)("/x") == "done"

    assert len(pve.asked) == 1


async def test_an_endpoint_that_hangs_in_the_handshake_is_left_for_the_next(mute, pve, a_client):
    pve.on("POST", "/x", "done")

    client = a_client(pve, endpoints=(mute, pve.url), client={"connect_s": 3.0})

    assert await client.post("/x") == "done"
    assert client.health().endpoints[0].state == "failed"


async def test_the_good_endpoint_is_kept_to_after_another_failed(nobody, pve, a_client):
    client = a_client(pve, endpoints=(nobody, pve.url))
    for _ in range(5):
        await client.get("/version")

    assert client.counts() == {("GET", "/version"): 6}


async def test_a_get_that_is_cut_off_is_asked_at_the_next_endpoint(pve, second, a_client):
    pve.on("GET", "/version", Reply(drop=True))

    assert await a_client(pve, second).get("/version") == {"version": "second"}


async def test_a_post_that_is_cut_off_may_have_been_done_and_goes_nowhere_else(pve, second, a_client):
    pve.on("POST", "/x", Reply(drop=True))
    second.on("POST", "/x", "done")

    with pytest.raises(PveSilent) as caught:
        await a_client(pve, second).post("/x")

    assert caught.value.sent
    assert (pve.count("/x"), second.count("/x")) == (1, 0)


async def test_nothing_was_sent_where_nobody_answers(nobody, a_client):
    with pytest.raises(PveSilent) as caught:
        await a_client(endpoints=(nobody,), fingerprint="").post("/x")

    assert not caught.value.sent


async def test_a_hung_get_ends_at_its_deadline_and_gives_its_thread_back(pve, a_client, held):
    pve.on("GET", "/slow", Reply(hold=held))
    client = a_client(pve, client={"threads": 1})

    with pytest.raises(PveSilent):
        await client.get("/slow", within_s=0.5)

    assert await client.get("/version") == {"version": "8.4.21"}  # with the only thread there is
    await eventually(lambda: client.health().hanging == 0)


async def test_a_hung_post_may_have_been_done(pve, a_client, held):
    pve.on("POST", "/slow", Reply(hold=held))
    client = a_client(pve)
    await client.get("/version")  # so that the machine's first import is not what takes the time

    with pytest.raises(PveSilent) as caught:
        await client.post("/slow", within_s=6.0)

    assert caught.value.sent
    assert pve.count("/slow") == 1


async def test_what_waited_in_vain_for_a_thread_is_never_sent(pve, a_client, held):
    pve.on("GET", "/slow", Reply("slow", hold=held))
    pve.on("POST", "/x", "done")
    client = a_client(pve, client={"threads": 1})
    slow = asyncio.ensure_future(client.get("/slow", within_s=100))
    await eventually(lambda: pve.count("/slow") == 1)

    with pytest.raises(PveSilent) as caught:
        await client.post("/x", within_s=0.2)
    held.set()

    assert not caught.value.sent
    assert await slow == "slow"
    assert await client.get("/version") == {"version": "8.4.21"}
    assert pve.count("/x") == 0


async def test_a_cancelled_post_that_was_sent_is_not_torn_off_and_one_that_was_not_is_never_sent(
    pve, mute, a_client, held
):
    pve.on("POST", "/x", Reply("done", hold=held))
    client = a_client(pve)
    sent = asyncio.ensure_future(client.post("/x"))
    await eventually(lambda: pve.count("/x") == 1)
    stuck = a_client(endpoints=(mute, pve.url), fingerprint=pve.fingerprint, client={"connect_s": 60.0})
    unsent = asyncio.ensure_future(stuck.post("/x"))
    await eventually(stuck.counts)

    for each in (sent, unsent):
        each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each

    assert client.health().hanging == 1
    held.set()
    await eventually(lambda: client.health().hanging == 0 and stuck.health().hanging == 0)
    assert pve.count("/x") == 1


async def test_closing_ends_what_hangs(pve, a_client, held):
    pve.on("GET", "/slow", Reply(hold=held))
    client = a_client(pve)
    slow = asyncio.ensure_future(client.get("/slow", within_s=600))
    await eventually(lambda: pve.count("/slow") == 1)

    await client.close()

    with pytest.raises(PveSilent):
        await slow


async def test_connections_are_kept(pve, a_client):
    client = a_client(pve, client={"threads": 1})
    for _ in range(5):
        await client.get("/version")

    assert pve.connections == 1


async def test_a_call_for_a_node_goes_to_the_endpoint_of_that_name(pve, second, a_client):
    port = second.url.rpartition(":")[2]
    client = a_client(
        pve,
        second,
        endpoints=(pve.url, f"https://localhost:{port}"),
        fingerprint={pve.url: pve.fingerprint, f"localhost:{port}": second.fingerprint},
    )

    assert await client.get("/version", node="localhost") == {"version": "second"}
    assert (await client.way(node="localhost")).url == f"https://localhost:{port}"
    assert (await client.way()).url == pve.url


async def test_an_endpoint_can_be_shunned_while_there_is_another(pve, second, a_client):
    client = a_client(pve, second)

    assert client.shun("it is alone")
    assert await client.get("/version") == {"version": "second"}
    assert not client.shun("it is alone too")


async def test_a_closed_client_leaves_no_thread_and_no_connection(pve, a_client):
    before = set(threading.enumerate())
    client = a_client(pve)
    await asyncio.gather(*(client.get("/version") for _ in range(20)))

    await client.close()

    left = set(threading.enumerate()) - before
    assert not [each.name for each in left if each.name.startswith("labspawner-pve")]


async def test_no_more_requests_go_at_once_than_there_are_threads(pve, a_client):
    busy, most, lock, full = 0, 0, threading.Lock(), threading.Event()

    def slow(_asked):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == 3:
                full.set()
        full.wait(60)
        with lock:
            busy -= 1
        return Reply("done")

    pve.routes["GET", "/x"] = slow
    client = a_client(pve, client={"threads": 3})

    assert await asyncio.gather(*(client.get("/x", within_s=120) for _ in range(12))) == ["done"] * 12

    assert most == 3
