"""No two hubs of tests are one: of one id they would end each other's servers as orphans, and take each other's socket."""

from __future__ import annotations

from pathlib import Path

from labspawner.testing.hub import free_ports, new_hub_id

TESTS = Path(__file__).parents[2]


def test_every_configuration_of_a_test_that_builds_on_the_products_own_knows_its_hub_to_end_what_it_left():
    texts = {path: path.read_text() for path in TESTS.rglob("*.py") if path != Path(__file__)}
    built = {path: text for path, text in texts.items() if "load_subconfig({" in text}

    assert built
    assert [path.name for path, text in built.items() if "kept_hub_id(" not in text] == []
    assert [path.name for path, text in texts.items() if '"--config", str(REPO / "jupyterhub_config.py")' in text] == []


def test_ids_are_never_the_same():
    assert len({new_hub_id() for _ in range(1000)}) == 1000


def test_ports_are_not_given_to_two_who_have_not_begun_to_listen():
    given = [port for _ in range(20) for port in free_ports(3)]

    assert len(set(given)) == 60
