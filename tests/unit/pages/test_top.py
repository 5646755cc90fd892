"""What the hub tells the services beside it about the top of its pages."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from labspawner.pages import hub
from labspawner.pages.top import told_everywhere

HONEST = SimpleNamespace(sandboxed=True, pretends_gpus=False)
BARE = SimpleNamespace(sandboxed=False)
PRETENDED = SimpleNamespace(pretends_gpus=True)


@pytest.mark.parametrize("demo", [None, hub.DemoHint(()), hub.DemoHint(("student1",))])
def test_a_demo_is_told_whoever_its_accounts_are(demo):
    settings = {"template_vars": hub.template_vars(demo)}

    assert told_everywhere(settings, [])["demo"] is (demo is not None)


@pytest.mark.parametrize(
    ("providers", "bare", "pretended"),
    [
        ([], False, False),
        ([HONEST], False, False),
        ([SimpleNamespace()], False, False),
        ([HONEST, BARE], True, False),
        ([HONEST, PRETENDED], False, True),
        ([BARE, PRETENDED], True, True),
    ],
)
def test_one_provider_of_a_kind_is_enough_to_say_so(providers, bare, pretended):
    told = told_everywhere({}, iter(providers))

    assert told == {"demo": False, "bare": bare, "pretended": pretended}


def test_a_hub_with_templates_of_its_own_says_nothing_of_a_demo():
    assert told_everywhere({"template_vars": {"other": 1}}, [])["demo"] is False
