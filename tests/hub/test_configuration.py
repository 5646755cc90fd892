"""Settings that are wrong end the hub at its start, with a sentence; the log and the exit code say so."""

from __future__ import annotations


def test_a_wrong_setting_ends_the_hub_at_its_start_with_a_sentence(new_hub):
    hub = new_hub(providers={"local": {"colour": "blue"}})

    hub.start(wait=False)

    assert hub.wait_for_death() == 1
    (line,) = [line for line in hub.log().splitlines() if "The configuration is wrong" in line]
    assert "colour" in line
    assert "Traceback" not in hub.log()


def test_a_second_hub_with_the_same_id_does_not_start_and_the_first_keeps_its_servers(new_hub):
    first = new_hub()
    first.start()
    first.start_server("student1", "py101/mock")
    second = new_hub(settings={"hub_id": first.hub_id})

    second.start(wait=False)

    assert second.wait_for_death() == 1
    (line,) = [line for line in second.log().splitlines() if "Another hub with the id" in line]
    assert first.hub_id in line
    assert "Traceback" not in second.log()
    assert [lease.user for lease in first.ready_leases()] == ["student1"]
