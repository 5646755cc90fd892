"""Each switch of `KubeDouble.faults` breaks what it says, and healing mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kube.asking import Watching, a_pod, ask, condition, is_gone, is_ready, phase

from labspawner.testing.kube import KubeDouble, a_node
from labspawner.testing.waiting import eventually_sync


@pytest.fixture
def double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    return new_double([a_node(), a_node("second")], runs="still")


@pytest.fixture
def watch(double: KubeDouble) -> Iterator[Callable[[str], Watching]]:
    open_now: list[Watching] = []

    def start(path: str) -> Watching:
        open_now.append(Watching(double, path))
        return open_now[-1]

    yield start
    for watching in open_now:
        watching.close()


def test_refusals_are_used_up_and_are_status_bodies(double: KubeDouble) -> None:
    double.faults.refuse("create", "pods", 503, times=2)

    answers = [ask(double, "POST", "pods", a_pod()) for _ in range(3)]

    assert [status for status, _ in answers] == [503, 503, 201]
    assert answers[0][1]["reason"] == "ServiceUnavailable"
    assert double.requests.count("create", "pods", status=503) == 2


def test_a_refusal_without_an_end_lasts_until_it_is_healed(double: KubeDouble) -> None:
    double.faults.refuse("*", "*", 500, times=None)
    before = [ask(double, "GET", "pods")[0], ask(double, "GET", "events")[0]]

    double.faults.heal()

    assert before == [500, 500]
    assert ask(double, "GET", "pods")[0] == 200


def test_a_forbidden_verb_is_refused_to_the_administrator_too(double: KubeDouble) -> None:
    double.faults.forbid("create", "pods")
    status, body = ask(double, "POST", "pods", a_pod())
    double.faults.allow("create", "pods")

    assert (status, body["reason"]) == (403, "Forbidden")
    assert 'cannot create resource "pods"' in body["message"]
    assert ask(double, "POST", "pods", a_pod())[0] == 201


def test_slow_verbs_are_slow_and_others_are_not(double: KubeDouble) -> None:
    double.faults.slow(3600, "create")

    assert ask(double, "GET", "pods")[0] == 200  # at once, or this test would end by its timeout


def test_an_expired_token_is_401_and_the_new_one_is_good(double: KubeDouble) -> None:
    old = double.token

    new = double.faults.expire_token()

    assert ask(double, "GET", "pods", token=old)[1]["message"] == "Unauthorized"
    assert ask(double, "GET", "pods", token=new)[0] == 200


def test_while_it_is_down_connections_are_refused_and_pods_run_on(double: KubeDouble) -> None:
    double.apply(a_pod())
    eventually_sync(lambda: is_ready(double))
    url = double.url

    double.faults.down()
    with pytest.raises(ConnectionRefusedError):
        ask(double, "GET", "pods")
    double.faults.up()

    assert double.url == url
    assert [pod["metadata"]["name"] for pod in ask(double, "GET", "pods")[1]["items"]] == ["p"]


def test_going_down_resets_open_watches(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    watching = watch("pods?watch=1")

    double.faults.down()

    eventually_sync(lambda: watching.ended)
    assert watching.error


def test_a_silent_watch_says_nothing_and_a_new_one_does(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    silent = watch("pods?watch=1")
    double.faults.silence_watches()
    double.apply(a_pod())
    new = watch("pods?watch=1")

    eventually_sync(lambda: new.lines)

    assert silent.lines == []
    assert not silent.ended


def test_new_watches_can_be_silent_too_until_healed(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    double.faults.silence_watches(new=True)
    silent = watch("pods?watch=1")
    double.faults.heal()
    double.apply(a_pod())

    speaking = watch("pods?watch=1")
    eventually_sync(lambda: speaking.lines)

    assert silent.lines == []


def test_dropped_watches_are_reset(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    pods, events = watch("pods?watch=1"), watch("events?watch=1")

    dropped = double.faults.drop_watches("pods")

    eventually_sync(lambda: pods.ended)
    assert (dropped, bool(pods.error), events.ended) == (1, True, False)


def test_ended_watches_end_properly(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    watching = watch("pods?watch=1")

    double.faults.end_watches()

    eventually_sync(lambda: watching.ended)
    assert watching.error == ""


def test_an_expired_history_is_a_410_line_in_the_stream(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    version = ask(double, "GET", "pods")[1]["metadata"]["resourceVersion"]
    open_before = watch(f"pods?watch=1&resourceVersion={version}")

    double.faults.expire()
    came_back = watch(f"pods?watch=1&resourceVersion={version}")

    for watching in (open_before, came_back):
        eventually_sync(lambda watching=watching: watching.ended)
        assert [(line["type"], line["object"]["code"]) for line in watching.lines] == [("ERROR", 410)]
        assert watching.status == 200
    now = ask(double, "GET", "pods")[1]["metadata"]["resourceVersion"]
    assert watch(f"pods?watch=1&resourceVersion={now}").lines == []


def test_duplicate_events_come_twice(double: KubeDouble, watch: Callable[[str], Watching]) -> None:
    watching = watch("configmaps?watch=1")
    double.faults.duplicate_events()

    double.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})

    eventually_sync(lambda: len(watching.lines) == 2)
    assert watching.lines[0] == watching.lines[1]


def test_a_quota_refuses_what_exceeds_it_and_an_empty_one_lifts_it(double: KubeDouble) -> None:
    double.faults.quota({"pods": 1})
    double.apply(a_pod("one"))

    status, body = ask(double, "POST", "pods", a_pod("two"))
    double.faults.quota({})

    assert status == 403
    assert "exceeded quota: quota, requested: pods=1, used: pods=1, limited: pods=1" in body["message"]
    assert ask(double, "POST", "pods", a_pod("two"))[0] == 201


def test_unbindable_claims_keep_their_pods_waiting_until_they_bind(double: KubeDouble) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    double.faults.unbindable_claims()
    double.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": claim})
    double.apply(a_pod(volumes=volumes))

    eventually_sync(lambda: "unbound immediate" in condition(double, "PodScheduled").get("message", ""))
    eventually_sync(lambda: "FailedBinding" in [event["reason"] for event in double.events("c")])
    double.faults.unbindable_claims(False)

    eventually_sync(lambda: is_ready(double))


def test_a_paused_scheduler_says_nothing(double: KubeDouble) -> None:
    double.faults.pause_scheduler()
    double.apply(a_pod())

    assert "conditions" not in double.pod("p")["status"]
    double.faults.pause_scheduler(False)
    eventually_sync(lambda: is_ready(double))


# nodes


def _on_labnode(double: KubeDouble) -> None:
    double.apply(a_pod(nodeSelector={"kubernetes.io/hostname": "labnode"}))
    eventually_sync(lambda: is_ready(double))


def test_a_lost_node_is_unknown_and_its_pods_are_not_ready(double: KubeDouble) -> None:
    _on_labnode(double)

    double.faults.lose_node()

    ready = next(item for item in double.node()["status"]["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
    assert {taint["key"] for taint in double.node()["spec"]["taints"]} == {"node.kubernetes.io/unreachable"}
    assert (phase(double), condition(double, "Ready")["status"]) == ("Running", "False")


def test_the_controller_deletes_the_pods_of_a_lost_node_and_they_stay_terminating(double: KubeDouble) -> None:
    _on_labnode(double)

    double.faults.lose_node(delete_pods_after_s=0)

    eventually_sync(lambda: "deletionTimestamp" in double.pod("p")["metadata"])
    assert condition(double, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
    assert not is_gone(double)


def test_a_node_that_is_found_again_lets_its_deleted_pods_go(double: KubeDouble) -> None:
    _on_labnode(double)
    double.faults.lose_node(delete_pods_after_s=0)
    eventually_sync(lambda: "deletionTimestamp" in double.pod("p")["metadata"])

    double.faults.find_node()

    eventually_sync(lambda: is_gone(double))
    assert "taints" not in double.node()["spec"]


def test_a_node_that_is_found_again_tells_which_pods_died(double: KubeDouble) -> None:
    _on_labnode(double)
    double.faults.lose_node(kill=True)

    double.faults.find_node()

    eventually_sync(lambda: phase(double) == "Failed")


def test_a_node_that_was_only_unreachable_has_its_pods_ready_again(double: KubeDouble) -> None:
    _on_labnode(double)
    double.faults.lose_node(kill=False)

    double.faults.find_node()

    eventually_sync(lambda: is_ready(double))


def test_the_pods_of_a_removed_node_are_gone(double: KubeDouble) -> None:
    _on_labnode(double)

    double.faults.remove_node()

    assert is_gone(double)
    with pytest.raises(LookupError):
        double.node()


def test_new_pods_do_not_come_to_a_lost_or_a_cordoned_node(double: KubeDouble) -> None:
    double.faults.lose_node()
    double.faults.cordon("second")
    double.apply(a_pod())

    eventually_sync(lambda: condition(double, "PodScheduled"))
    said = condition(double, "PodScheduled")["message"]
    double.faults.cordon("second", False)

    assert "1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }" in said
    assert "1 node(s) were unschedulable" in said
    eventually_sync(lambda: double.pod("p")["spec"].get("nodeName") == "second")
