"""The kubelet's double does what was recorded of a kubelet 1.34.2 with a device plugin (samples: device-plugin.jsonl)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.wire import decode, encode
from labspawner.testing.kubelet import AdmissionError, Call, KubeletDouble, NotEnough
from labspawner.testing.waiting import eventually_sync

SMALL = "labspawner.io/gpu-small"
DEADLINE_S = 20.0


class PluginDouble:
    """A plugin as the recording's: four devices, prefers the last ones, answers with one variable."""

    def __init__(self, kubelet: KubeletDouble, endpoint: str = "lab-small.sock", prefix: str = "small") -> None:
        self.kubelet, self.endpoint, self.prefix = kubelet, endpoint, prefix
        self.health = dict.fromkeys((f"{prefix}-{number}" for number in range(4)), wire.HEALTHY)
        self.refuses: str = ""
        self.listening = 0
        self._news, self._ended = threading.Condition(), False
        self._threads = ThreadPoolExecutor(8)
        self._server = grpc.server(self._threads)
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "GetDevicePluginOptions": unary(
                lambda _r, _c: wire.Options(False, True), partial(decode, wire.Empty), encode
            ),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list, partial(decode, wire.Empty), encode),
            "GetPreferredAllocation": unary(self._prefer, partial(decode, wire.PreferenceRequest), encode),
            "Allocate": unary(self._allocate, partial(decode, wire.AllocateRequest), encode),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.DEVICE_PLUGIN, handlers),))
        self._server.add_insecure_port(f"unix:{kubelet.plugins / endpoint}")
        self._server.start()

    def register(
        self, *, version: str = "v1beta1", resource: str = SMALL, endpoint: str = "", timeout_s: float = 60
    ) -> None:
        request = wire.RegisterRequest(version, endpoint or self.endpoint, resource)
        with grpc.insecure_channel(f"unix:{self.kubelet.plugins}/kubelet.sock") as channel:
            method = channel.unary_unary("/v1beta1.Registration/Register", encode, partial(decode, wire.Empty))
            method(request, timeout=timeout_s)

    def set(self, **health: str) -> None:
        with self._news:
            self.health |= {key.replace("_", "-"): value for key, value in health.items()}
            self._news.notify_all()

    def stop(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()
        self._server.stop(None).wait()
        self._threads.shutdown()

    def _list(self, _request: Any, context: Any) -> Iterator[wire.DeviceList]:
        context.add_callback(self._wake)
        self.listening += 1
        sent = None
        while context.is_active() and not self._ended:
            with self._news:
                if self.health == sent:
                    self._news.wait(0.2)
                now = dict(self.health)
            if now != sent:
                sent = now
                yield wire.DeviceList(tuple(wire.Device(one, health) for one, health in now.items()))
        self.listening -= 1

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _prefer(self, request: wire.PreferenceRequest, _context: Any) -> wire.PreferenceResponse:
        wish = request.containers[0]
        return wire.PreferenceResponse((wire.DeviceIds(tuple(sorted(wish.available)[-wish.size :])),))

    def _allocate(self, request: wire.AllocateRequest, context: Any) -> wire.AllocateResponse:
        if self.refuses:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, self.refuses)
        ids = request.containers[0].ids
        return wire.AllocateResponse((wire.ContainerAnswer(envs={"LAB_DEVICES": ",".join(ids)}),))


@pytest.fixture
def kubelet() -> Iterator[KubeletDouble]:
    with KubeletDouble() as made:
        yield made


@pytest.fixture
def plugins(kubelet: KubeletDouble) -> Iterator[Any]:
    made: list[PluginDouble] = []

    def start(*words: str) -> PluginDouble:
        made.append(PluginDouble(kubelet, *words))
        return made[-1]

    yield start
    kubelet.stop()
    for plugin in made:
        plugin.stop()


@pytest.fixture
def plugin(plugins: Any, kubelet: KubeletDouble) -> PluginDouble:
    made = plugins()
    made.register()
    has(kubelet, 4)
    return made


def has(kubelet: KubeletDouble, count: int) -> None:
    eventually_sync(lambda: kubelet.allocatable(SMALL) == count, DEADLINE_S)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"version": "v1alpha"},
            'requested API version "v1alpha" is not supported by kubelet. Supported version is ["v1beta1"]',
        ),
        ({"resource": "gpu small"}, 'the ResourceName "gpu small" is invalid'),
        ({"resource": "gpu-small"}, 'the ResourceName "gpu-small" is invalid'),
    ],
)
def test_what_is_wrong_at_registration_is_said_in_the_recorded_words(plugins: Any, changes: dict[str, Any], words: str):
    with pytest.raises(grpc.RpcError) as caught:
        plugins().register(**changes)

    assert (caught.value.code().name, caught.value.details()) == ("UNKNOWN", words)


def test_a_missing_endpoint_hangs_until_the_callers_deadline(plugins: Any):
    with pytest.raises(grpc.RpcError) as caught:
        plugins().register(endpoint="nothing.sock", timeout_s=0.5)

    assert caught.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}


def test_the_kubelet_asks_for_options_before_it_answers(plugin: PluginDouble, kubelet: KubeletDouble):
    names = [call.name for call in kubelet.calls]

    assert names.index("GetDevicePluginOptions") < names.index("Register")


def test_a_pod_gets_what_the_plugin_prefers_and_pod_resources_names_each_device(
    plugin: PluginDouble, kubelet: KubeletDouble
):
    grant = kubelet.admit("dpdemo", "pair", {SMALL: 2}, container="c0")

    assert sorted(grant.devices[SMALL]) == ["small-2", "small-3"]
    assert sorted(grant.environment["LAB_DEVICES"].split(",")) == ["small-2", "small-3"]
    with grpc.insecure_channel(f"unix:{kubelet.pod_resources}") as channel:
        ask = channel.unary_unary("/v1.PodResourcesLister/List", encode, partial(decode, wire.PodResourcesList))
        (pod,) = ask(wire.Empty(), timeout=60).pods
    assert (pod.namespace, pod.name, pod.containers[0].name) == ("dpdemo", "pair", "c0")
    assert [entry.device_ids for entry in pod.containers[0].devices] == [(one,) for one in grant.devices[SMALL]]


def test_a_pod_that_is_gone_frees_its_devices(plugin: PluginDouble, kubelet: KubeletDouble):
    kubelet.admit("dpdemo", "one", {SMALL: 4})
    with pytest.raises(NotEnough):
        kubelet.admit("dpdemo", "two", {SMALL: 1})

    kubelet.remove("dpdemo", "one")

    assert kubelet.admit("dpdemo", "two", {SMALL: 1})


def test_an_error_of_allocate_rejects_the_pod_in_the_recorded_words(plugin: PluginDouble, kubelet: KubeletDouble):
    plugin.refuses = "lab: no memory left on device"

    with pytest.raises(AdmissionError) as caught:
        kubelet.admit("dpdemo", "denied", {SMALL: 1})

    assert str(caught.value) == (
        "Allocate failed due to rpc error: code = ResourceExhausted desc = lab: no memory left on device, which is unexpected"
    )
    plugin.refuses = ""
    assert kubelet.admit("dpdemo", "again", {SMALL: 4})


def test_a_plugin_that_is_gone_rejects_pods_in_the_recorded_words(plugin: PluginDouble, kubelet: KubeletDouble):
    plugin.stop()
    has(kubelet, 0)

    with pytest.raises(AdmissionError) as caught:
        kubelet.admit("dpdemo", "race", {SMALL: 1})

    assert str(caught.value) == (
        "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices labspawner.io/gpu-small, "
        "which is unexpected"
    )
    assert kubelet.capacity(SMALL) == 4


def test_devices_that_are_not_healthy_are_not_given_and_pods_keep_theirs(plugin: PluginDouble, kubelet: KubeletDouble):
    grant = kubelet.admit("dpdemo", "one", {SMALL: 1})

    plugin.set(**dict.fromkeys(("small_0", "small_1", "small_3"), wire.UNHEALTHY))
    has(kubelet, 1)

    assert grant.devices[SMALL] == ("small-3",)
    assert kubelet.admit("dpdemo", "two", {SMALL: 1}).devices[SMALL] == ("small-2",)


def test_the_newest_endpoint_wins_and_the_stream_of_the_old_one_stays_open(
    plugin: PluginDouble, plugins: Any, kubelet: KubeletDouble
):
    second = plugins("lab-small-2.sock", "new")
    second.register()
    eventually_sync(lambda: "new-0" in kubelet.health(SMALL), DEADLINE_S)

    assert plugin.listening == 1
    plugin.set(small_0=wire.UNHEALTHY)
    assert kubelet.admit("dpdemo", "one", {SMALL: 1}).devices[SMALL] == ("new-3",)


def test_a_kubelet_that_starts_anew_deletes_the_sockets_and_pods_keep_their_devices(
    plugin: PluginDouble, kubelet: KubeletDouble
):
    kubelet.admit("dpdemo", "holder", {SMALL: 2})
    kubelet.stop()
    assert sorted(path.name for path in kubelet.plugins.iterdir()) == ["kubelet.sock", "lab-small.sock"]

    kubelet.start()

    assert [path.name for path in kubelet.plugins.iterdir()] == ["kubelet.sock"]
    assert kubelet.allocatable(SMALL) == 0
    eventually_sync(lambda: plugin.listening == 0, DEADLINE_S)
    assert [call for call in kubelet.calls if call.name == "Allocate"] == [
        Call("Allocate", SMALL, "lab-small.sock", ("small-2", "small-3"))
    ]
