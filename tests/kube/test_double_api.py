"""Versions and watches, where the replay can only compare shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kube.asking import Watching, a_pod, ask

from labspawner.testing.kube import KubeDouble, Pace
from labspawner.testing.waiting import eventually_sync

MERGE = "application/merge-patch+json"


@pytest.fixture
def double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    double = new_double(runs="still", pace=Pace(bookmark_s=0.02))
    double.faults.pause_scheduler()  # nothing changes but what the test changes
    double.apply(a_pod(labels={"app": "lab"}))
    return double


def _patch(double: KubeDouble, **labels: str | None) -> dict[str, str]:
    status, body = ask(double, "PATCH", "pods/p", {"metadata": {"labels": labels}}, kind=MERGE)
    assert status == 200
    return dict(body["metadata"])


def _version(double: KubeDouble) -> str:
    return str(ask(double, "GET", "pods")[1]["metadata"]["resourceVersion"])


def test_a_patch_that_changes_nothing_keeps_the_version_and_says_nothing(double: KubeDouble) -> None:
    with Watching(double, f"pods?watch=1&resourceVersion={_version(double)}") as watching:
        same = _patch(double, app="lab")
        other = _patch(double, app="other")
        eventually_sync(lambda: watching.lines)

    assert int(other["resourceVersion"]) > int(same["resourceVersion"])
    assert [line["object"]["metadata"]["resourceVersion"] for line in watching.lines] == [other["resourceVersion"]]


def test_a_pod_that_leaves_the_selector_is_deleted_with_its_old_labels(double: KubeDouble) -> None:
    with Watching(double, f"pods?watch=1&labelSelector=app%3Dlab&resourceVersion={_version(double)}") as watching:
        left = _patch(double, app="other")
        back = _patch(double, app="lab")
        eventually_sync(lambda: len(watching.lines) == 2)

    seen = [(line["type"], line["object"]["metadata"]) for line in watching.lines]
    assert [(kind, metadata["labels"]["app"], metadata["resourceVersion"]) for kind, metadata in seen] == [
        ("DELETED", "lab", left["resourceVersion"]),
        ("ADDED", "lab", back["resourceVersion"]),
    ]


def test_a_watch_from_a_version_gets_all_that_came_after_it(double: KubeDouble) -> None:
    version = _version(double)
    changed = [_patch(double, number=str(number))["resourceVersion"] for number in range(3)]

    with Watching(double, f"pods?watch=1&resourceVersion={version}") as watching:
        eventually_sync(lambda: len(watching.lines) == 3)

    assert [line["object"]["metadata"]["resourceVersion"] for line in watching.lines] == changed


def test_bookmarks_come_only_when_they_are_asked_for(double: KubeDouble) -> None:
    version = _version(double)
    path = f"pods?watch=1&resourceVersion={version}"
    with Watching(double, path) as plain, Watching(double, f"{path}&allowWatchBookmarks=true") as marked:
        eventually_sync(lambda: marked.kinds.count("BOOKMARK") >= 3)

    assert plain.lines == []
    assert marked.lines[0]["object"]["metadata"]["resourceVersion"] == version


def test_a_watch_from_the_future_is_silent_until_its_time_is_over(double: KubeDouble) -> None:
    with Watching(double, "pods?watch=1&resourceVersion=999999999&timeoutSeconds=1") as watching:
        _patch(double, app="other")
        eventually_sync(lambda: watching.ended)

    assert (watching.lines, watching.error) == ([], "")


def test_a_stale_version_is_a_conflict(double: KubeDouble) -> None:
    old = _version(double)
    _patch(double, app="other")

    body = {"metadata": {"resourceVersion": old, "labels": {"app": "third"}}}
    status, refusal = ask(double, "PATCH", "pods/p", body, kind=MERGE)

    assert (status, refusal["reason"]) == (409, "Conflict")


def test_no_watch_is_left_open_by_a_client_that_went_away(double: KubeDouble) -> None:
    watching = Watching(double, "pods?watch=1")
    open_before = double.faults.open_watches()

    watching.close()

    eventually_sync(lambda: double.faults.open_watches() == 0)
    assert open_before == 1
