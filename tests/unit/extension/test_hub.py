"""The way to the hub."""

from __future__ import annotations

import pytest
from hubdouble import TOKEN, a_hub

from labspawner.extension.hub import AWAY, Address, Hub

ENVIRONMENT = {"JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api", "JUPYTERHUB_API_TOKEN": TOKEN}


def test_the_address_is_the_hubs_and_its_token_is_never_shown():
    address = Address.of(ENVIRONMENT)

    assert address.url("report") == "http://127.0.0.1:8081/hub/labspawner/report"
    assert address.tls() is None
    assert TOKEN not in repr(address)


@pytest.mark.parametrize("missing", ENVIRONMENT)
def test_outside_of_a_hub_there_is_no_address(missing):
    assert Address.of({**ENVIRONMENT, missing: ""}) is None


def test_an_address_without_api_is_taken_as_it_is():
    address = Address.of({**ENVIRONMENT, "JUPYTERHUB_API_URL": "https://hub.example.org/x/"})

    assert address.url("hold") == "https://hub.example.org/x/labspawner/hold"
    assert address.tls() is None


def test_with_internal_ssl_the_hubs_authority_is_the_only_one_that_is_trusted(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    address = Address.of(
        {
            "JUPYTERHUB_API_URL": "https://127.0.0.1:8081/hub/api",
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_SSL_CLIENT_CA": str(tmp_path / "ca.pem"),
        }
    )

    with pytest.raises(OSError, match=r"(?i)ssl|certificate|pem|x509"):
        address.tls()


async def test_a_hub_that_is_not_there_is_away():
    with a_hub() as double:
        address = Address.of({**ENVIRONMENT, "JUPYTERHUB_API_URL": double.url})
    hub = Hub(address, timeout_s=5)

    assert (await hub.post("report", {})).status == AWAY
    hub.close()


async def test_an_answer_that_is_no_json_object_is_an_empty_one():
    with a_hub() as double:
        double.status = 502
        hub = Hub(Address.of({**ENVIRONMENT, "JUPYTERHUB_API_URL": double.url}))

        reply = await hub.post("report", {"v": 1})
        hub.close()

    assert (reply.status, reply.body, reply.ok) == (502, {}, False)


async def test_an_answer_without_bounds_is_not_read():
    with a_hub() as double:
        double.reason = {"en": "x" * 100_000}
        double.end_in(10, (60,))
        hub = Hub(Address.of({**ENVIRONMENT, "JUPYTERHUB_API_URL": double.url}))

        reply = await hub.post("report", {"v": 1})
        hub.close()

    assert (reply.status, reply.body) == (AWAY, {})
