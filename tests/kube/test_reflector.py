"""A reflector's copy is true, or says that it is not; seen from close, on the double."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from labspawner.providers.kubernetes.answers import ApiRefused, ApiSilent
from labspawner.providers.kubernetes.api import Api
from labspawner.providers.kubernetes.reflector import Pace, Reflector
from labspawner.testing.kube import KubeDouble
from labspawner.testing.waiting import eventually

CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


@pytest.fixture
def still(new_double: Any) -> KubeDouble:
    return new_double(runs="still")


def put(cluster: KubeDouble, name: str) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": CLAIM}
    cluster.apply(claim)


@pytest.fixture
async def api(still: KubeDouble, tmp_path: Path) -> Any:
    made = Api(kubeconfig=still.kubeconfig(tmp_path), context=None, timeout_s=30.0, patience_s=0.0)
    yield made
    await made.close()


@pytest.fixture
async def claims(api: Api, still: KubeDouble) -> Any:
    """All claims of the namespace, by name."""
    made: list[Reflector[str]] = []

    def reflect(**pace: float) -> Reflector[str]:
        path = f"/api/v1/namespaces/{still.namespace}/persistentvolumeclaims"
        made.append(Reflector(api, path, query={}, read=lambda obj: str(obj["metadata"]["name"]), pace=Pace(**pace)))
        return made[-1]

    yield reflect
    for reflector in made:
        await reflector.close()


async def test_many_objects_come_page_by_page_and_none_is_missing(claims: Any, still: KubeDouble):
    names = [f"c{number:04}" for number in range(620)]
    for name in names:
        put(still, name)
    reflector = claims()

    await reflector.settle()

    assert sorted(reflector) == names
    assert still.requests.count("list", "persistentvolumeclaims") == 2


async def test_all_who_ask_at_once_share_one_list(claims: Any, still: KubeDouble):
    reflector = claims()
    await reflector.settle()
    before = reflector.lists

    await asyncio.gather(*(reflector.refresh() for _ in range(50)))

    assert reflector.lists == before + 1


async def test_a_list_that_is_asked_for_during_another_is_made_after_it(claims: Any, still: KubeDouble):
    reflector = claims()
    await reflector.settle()
    still.faults.slow(0.2, "list")
    first = asyncio.create_task(reflector.refresh())
    await eventually(lambda: still.requests.count("list", "persistentvolumeclaims") >= 1)

    await asyncio.sleep(0)
    second = asyncio.create_task(reflector.refresh())
    await asyncio.gather(first, second)

    assert reflector.current


async def test_a_list_that_fails_is_told_to_all_who_asked_and_the_copy_is_doubted(claims: Any, still: KubeDouble):
    reflector = claims()
    await reflector.settle()
    still.faults.refuse("list", "persistentvolumeclaims", 500, times=None)

    outcomes = await asyncio.gather(*(reflector.refresh() for _ in range(5)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ApiRefused] * 5
    assert not reflector.current
    still.faults.heal()
    await reflector.settle()
    assert reflector.current


async def test_who_asks_while_a_list_is_under_way_hears_of_the_next_one_and_not_of_its_failure(
    claims: Any, api: Api, monkeypatch: pytest.MonkeyPatch
):
    reflector = claims()
    await reflector.settle()
    under_way, end = asyncio.Event(), asyncio.Event()
    answers = api.call

    async def fails(*_words: Any, **_more: Any) -> Any:
        monkeypatch.setattr(api, "call", answers)
        under_way.set()
        await end.wait()
        raise ApiSilent("away")

    monkeypatch.setattr(api, "call", fails)
    before = asyncio.create_task(reflector.refresh())
    await under_way.wait()
    during = [asyncio.create_task(reflector.refresh()) for _ in range(3)]
    await asyncio.sleep(0)
    end.set()

    with pytest.raises(ApiSilent, match="away"):
        await before
    await asyncio.gather(*during)
    assert reflector.current


async def test_what_comes_changes_and_goes_is_known_without_a_list(claims: Any, still: KubeDouble):
    reflector = claims()
    await reflector.settle()
    before = reflector.lists

    put(still, "new")
    await eventually(lambda: reflector.get("new"))
    still.delete("persistentvolumeclaims", "new")
    await eventually(lambda: reflector.get("new") is None)

    assert reflector.lists == before


async def test_a_renewed_watch_begins_with_a_list_now_and_then(claims: Any, still: KubeDouble):
    reflector = claims(watch_s=1.0, anew_s=0.0)
    await reflector.settle()
    before = reflector.lists

    await eventually(lambda: reflector.lists > before and reflector.current)


async def test_after_close_it_says_so_and_a_later_question_begins_anew(claims: Any, still: KubeDouble):
    reflector = claims()
    await reflector.settle()
    await reflector.close()

    assert not reflector.current
    put(still, "later")
    await reflector.settle()
    assert reflector.get("later") == "later"


async def test_who_waits_for_a_list_when_it_is_closed_is_told(claims: Any, still: KubeDouble):
    reflector = claims()
    still.faults.slow(3600.0, "list")
    waiting = asyncio.create_task(reflector.settle())
    await asyncio.sleep(0)

    await reflector.close()

    with pytest.raises(ApiSilent):
        await waiting
    still.faults.heal()
