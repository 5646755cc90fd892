"""What goes out, what comes back, and what an answer means."""

from __future__ import annotations

import pytest
from unit.proxmox.client.scripted import TOKEN, Reply, refusal

from labspawner.providers.proxmox.answers import Fault, PveRefused, PveSilent


async def test_a_get_answers_the_data_and_carries_the_token(pve, a_client):
    assert await a_client(pve).get("/version") == {"version": "8.4.21"}

    assert pve.asked[0].headers["authorization"] == f"PVEAPIToken={TOKEN}"


async def test_booleans_go_out_as_numbers_lists_repeat_their_key_and_none_is_left_out(pve, a_client):
    pve.on("POST", "/nodes/pve1/qemu/100/clone", "UPID")

    await a_client(pve).post("/nodes/pve1/qemu/100/clone", full=True, purge=False, list=["a b", "c"], name=None, n=3)

    assert pve.asked[0].form == {"full": ["1"], "purge": ["0"], "list": ["a b", "c"], "n": ["3"]}


async def test_a_removal_carries_its_parameters_in_the_query(pve, a_client):
    pve.on("DELETE", "/nodes/pve1/qemu/100", "UPID")

    await a_client(pve).delete("/nodes/pve1/qemu/100", purge=True)

    assert pve.asked[0].query == {"purge": ["1"]}


async def test_a_command_of_an_agent_keeps_its_words_apart_and_its_stdin_whole(pve, a_client):
    pve.on("POST", "/nodes/pve1/qemu/100/agent/exec", {"pid": 7})

    await a_client(pve).post(
        "/nodes/pve1/qemu/100/agent/exec", command=["/bin/x", "a b"], **{"input-data": "k=1\nü&=+"}
    )

    assert pve.asked[0].form == {"command": ["/bin/x", "a b"], "input-data": ["k=1\nü&=+"]}


async def test_a_percent_encoded_part_of_a_path_arrives_as_it_was_given(pve, a_client):
    path = "/nodes/pve1/tasks/UPID%3Apve1%3A0001%3A%40pve%21hub%3A/status"
    pve.on("GET", path, {"status": "running"})

    assert await a_client(pve).get(path) == {"status": "running"}


async def test_a_refusal_carries_message_parameters_and_fault(pve, a_client):
    pve.on("GET", "/cluster/nextid", refusal(400, "Parameter verification failed.", vmid="VM 100 already exists"))

    with pytest.raises(PveRefused) as caught:
        await a_client(pve).get("/cluster/nextid", vmid=100)

    assert caught.value.status == 400
    assert caught.value.text == "Parameter verification failed."
    assert caught.value.errors == {"vmid": "VM 100 already exists"}
    assert caught.value.fault is Fault.ID_TAKEN
    assert "GET /cluster/nextid" in str(caught.value)


async def test_an_old_cluster_says_why_only_in_the_reason(pve, a_client):
    pve.on("GET", "/nodes", Reply(status=500, reason="VM is locked (backup)", raw=b'{"data":null}'))

    with pytest.raises(PveRefused) as caught:
        await a_client(pve).get("/nodes")

    assert (caught.value.fault, caught.value.lock) == (Fault.VM_LOCKED, "backup")


async def test_an_empty_body_of_an_error_is_no_trouble(pve, a_client):
    pve.on("POST", "/nodes/pve3/qemu/1/status/start", Reply(status=595, reason="No route to host", raw=b""))

    with pytest.raises(PveRefused) as caught:
        await a_client(pve).post("/nodes/pve3/qemu/1/status/start")

    assert caught.value.fault is Fault.NODE_AWAY
    assert pve.count("/nodes/pve3/qemu/1/status/start") == 1


@pytest.mark.parametrize("raw", [b"<html>", b"", b"[]", b'{"x": 1}', b"\xff\xfe"])
async def test_success_that_cannot_be_read_is_no_answer(pve, a_client, raw):
    pve.on("POST", "/nodes/pve1/qemu", Reply(raw=raw))

    with pytest.raises(PveSilent) as caught:
        await a_client(pve).post("/nodes/pve1/qemu")

    assert caught.value.sent


async def test_a_post_with_a_broken_answer_may_have_been_done_and_is_not_sent_again(pve, a_client):
    pve.on("POST", "/nodes/pve1/qemu/1/agent/exec", Reply(status=596, reason="Broken pipe", raw=b""))

    with pytest.raises(PveSilent) as caught:
        await a_client(pve).post("/nodes/pve1/qemu/1/agent/exec")

    assert (caught.value.sent, caught.value.status) == (True, 596)
    assert len(pve.asked) == 1


async def test_a_get_with_a_broken_answer_is_asked_again(pve, a_client):
    pve.on("GET", "/nodes", Reply(status=596, reason="Connection timed out", raw=b""), [])

    assert await a_client(pve).get("/nodes") == []


async def test_a_get_that_stays_broken_is_given_up(pve, a_client):
    pve.on("GET", "/nodes", Reply(status=599, reason="Too many redirections", raw=b""))

    with pytest.raises(PveSilent) as caught:
        await a_client(pve).get("/nodes")

    assert caught.value.status == 599
    assert len(pve.asked) == 2


@pytest.mark.parametrize("location", ["", "/api2/json/version", "http://127.0.0.1:1/"])
async def test_a_redirect_is_not_followed(pve, a_client, location):
    pve.on("POST", "/nodes", Reply(status=302, reason="Found", raw=b"", location=location))

    with pytest.raises(PveSilent):
        await a_client(pve).post("/nodes")

    assert len(pve.asked) == 1


async def test_requests_are_counted_by_route(pve, a_client):
    client = a_client(pve)
    for vmid in (100, 101):
        pve.on("GET", f"/nodes/pve1/qemu/{vmid}/config", {})
        await client.get(f"/nodes/pve1/qemu/{vmid}/config")

    assert client.counts() == {("GET", "/nodes/{node}/qemu/{vmid}/config"): 2}


async def test_how_far_the_clocks_are_apart_is_told_from_the_answers(pve, a_client):
    client = a_client(pve)
    assert client.clock_skew_s() == {}

    await client.get("/version")

    assert abs(client.clock_skew_s()[pve.url]) < 60


async def test_a_closed_client_asks_nothing(pve, a_client):
    client = a_client(pve)
    await client.get("/version")
    await client.close()

    with pytest.raises(PveSilent, match="closed"):
        await client.get("/version")

    assert len(pve.asked) == 1
