"""Settings that are wrong end the hub at its start, with a sentence; the log and the exit code say so."""

from __future__ import annotations


def test_a_wrong_setting_ends_the_hub_at_its_start_with_a_sentence(new_hub):
    hub = new_hub(providers={"local": {"colour": "blue"}})

    hub.start(wait=False)

    assert hub.wait_for_death() == 1
    (line,) = [line for line in hub.log().splitlines() if "The configuration is wrong" in line]
    assert "colour" in line
    assert "Traceback" not in hub.log()
