"""Certificates: a CA file, a pin, and nothing else."""

from __future__ import annotations

import socket
import ssl

import pytest
from unit.proxmox.client.scripted import TOKEN, a_certificate, scripted

from labspawner.errors import BadConfig
from labspawner.providers.proxmox.answers import PveUntrusted
from labspawner.providers.proxmox.trust import context_for, normal, spelled


async def test_a_ca_file_is_trusted(pve, a_client):
    client = a_client(pve, fingerprint="", ca_file=pve.ca_file)

    assert await client.get("/version") == {"version": "8.4.21"}
    assert client.health().endpoints[0].trust == "CA file"


async def test_a_name_that_the_certificate_does_not_have_is_refused_with_a_ca_file(pve, a_client):
    elsewhere = pve.url.replace("127.0.0.1", "localhost")

    with pytest.raises(PveUntrusted):
        await a_client(pve, endpoints=(elsewhere,), fingerprint="", ca_file=pve.ca_file).get("/version")


async def test_a_pin_needs_no_name(pve, a_client):
    elsewhere = pve.url.replace("127.0.0.1", "localhost")

    client = a_client(pve, endpoints=(elsewhere,), fingerprint=spelled(pve.fingerprint))

    assert await client.get("/version") == {"version": "8.4.21"}
    assert client.health().endpoints[0].trust == "pinned"


async def test_nothing_is_sent_to_a_certificate_that_nobody_vouches_for(pve, a_client):
    with pytest.raises(PveUntrusted) as caught:
        await a_client(pve, fingerprint="").post("/access/ticket", password="p")

    assert not caught.value.sent
    assert pve.asked == []


async def test_a_changed_certificate_is_a_hard_stop_that_names_both(pve, a_client):
    pinned = "ab" * 32
    client = a_client(pve, fingerprint=pinned)

    with pytest.raises(PveUntrusted) as caught:
        await client.post("/x", password="p")

    assert pve.asked == []
    assert caught.value.expected == spelled(pinned)
    assert caught.value.shown == spelled(pve.fingerprint)
    assert spelled(pinned) in str(caught.value)
    assert spelled(pve.fingerprint) in str(caught.value)
    health = client.health().endpoints[0]
    assert health.state == "untrusted"
    assert spelled(pve.fingerprint) in health.why


async def test_another_authority_of_the_same_name_is_refused(pve, tmp_path, a_client):
    other, _ = a_certificate(tmp_path, "other")

    with pytest.raises(PveUntrusted):
        await a_client(pve, fingerprint="", ca_file=other).get("/version")


async def test_an_endpoint_with_a_changed_certificate_is_left_for_one_that_is_trusted(pve, tmp_path, a_client):
    (tmp_path / "second").mkdir()
    with scripted(tmp_path / "second") as second:
        second.on("POST", "/x", "done")
        client = a_client(pve, second, fingerprint={pve.url: "ab" * 32, second.url: second.fingerprint})

        assert await client.post("/x") == "done"

        assert [each.state for each in client.health().endpoints] == ["untrusted", "in use"]


async def test_an_untrusted_endpoint_is_what_is_told_where_the_others_are_silent(pve, nobody, a_client):
    with pytest.raises(PveUntrusted):
        await a_client(pve, endpoints=(pve.url, nobody), fingerprint="ab" * 32).get("/version")


async def test_a_file_of_authorities_that_is_none_is_told_as_what_it_is(pve, tmp_path, a_client):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")

    with pytest.raises(BadConfig, match=r"broken\.pem"):
        await a_client(pve, fingerprint="", ca_file=broken).get("/version")


async def test_a_way_for_connections_of_ones_own_has_credentials_and_the_same_trust(pve, a_client):
    way = await a_client(pve).way()

    assert way.headers == {"Authorization": f"PVEAPIToken={TOKEN}"}
    assert (way.url, way.fingerprint, way.ca_file) == (pve.url, pve.fingerprint, None)
    assert "the-secret" not in repr(way)


def test_a_context_looks_at_the_pin_by_itself(pve):
    port = int(pve.url.rpartition(":")[2])

    for pin, trusted in ((pve.fingerprint, True), ("ab" * 32, False)):
        with socket.create_connection(("127.0.0.1", port)) as plain:
            try:
                with context_for(fingerprint=pin).wrap_socket(plain, server_hostname="any"):
                    assert trusted
            except ssl.SSLError:
                assert not trusted


@pytest.mark.parametrize(
    "text",
    ["AB" * 32, ":".join(["ab"] * 32), f"sha256:{'ab' * 32}", f"SHA256={':'.join(['AB'] * 32)}", f" {'ab' * 32}\n"],
)
def test_fingerprints_are_read_in_any_usual_spelling(text):
    assert normal(text) == "ab" * 32


@pytest.mark.parametrize("text", ["", "ab" * 20, "ab" * 33, "zz" * 32, "sha1:" + "ab" * 20])
def test_what_is_no_sha256_is_refused(text):
    with pytest.raises(ValueError, match="fingerprint"):
        normal(text)
