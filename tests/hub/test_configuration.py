"""Settings that are wrong end the hub at its start, with a sentence; the log and the exit code say so."""

from __future__ import annotations

import pytest

WRONG = {
    "a setting that a provider does not know": ({"providers": {"local": {"colour": "blue"}}}, "colour"),
    "a provider that is not installed": ({"providers": {"docker": {}}}, "no such provider is installed"),
    "a hub id that is no name": ({"settings": {"hub_id": "My Hub!"}}, "hub_id"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_ends_the_hub_at_its_start_with_a_sentence(new_hub, changes, said):
    hub = new_hub(**changes)

    hub.start(wait=False)

    assert hub.wait_for_death() == 1
    (line,) = [line for line in hub.log().splitlines() if "The configuration is wrong" in line]
    assert said in line
    assert "Traceback" not in hub.log()
