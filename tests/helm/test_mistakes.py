"""What is typed wrong is refused, and the refusal says what to type instead."""

from __future__ import annotations

from typing import Any

import pytest
from helm.rendering import REFUSED, Chart, at, values_of


def refusal(chart: Chart, *values: dict[str, Any], base: str = "minimal") -> str:
    with pytest.raises(REFUSED) as caught:
        chart.render(values_of(base), *values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("gpus", "'gpu'"),
        ("gpu.stratgy", "'strategy'"),
        ("gpu.agent.images", "'image'"),
        ("culler.interval", "'intervalSeconds'"),
        ("networkpolicy", "'networkPolicy'"),
        ("rbac.enabled", "'create'"),
        ("console.creators", "'createUsers'"),
        ("courses.file", "'files'"),
        ("monitoring.serviceMonitor", "'enabled'"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_with_those_that_do(chart: Chart, path: str, instead: str) -> None:
    message = refusal(chart, at(path, {}))

    assert f"'{path.rpartition('.')[2]}' not allowed" in message
    assert instead in message


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("HAMI", "gpu: {strategy: hami}"),
        ("device_plugin", "gpu: {strategy: device-plugin}"),
        ("DevicePlugin", "gpu: {strategy: device-plugin}"),
        ("cpu", "gpu: {strategy: none}"),
        ("mig", "none, hami and device-plugin"),
    ],
)
def test_an_unknown_strategy_names_the_likely_one(chart: Chart, written: str, instead: str) -> None:
    assert instead in refusal(chart, at("gpu.strategy", written))


def a_class(**keys: Any) -> dict[str, Any]:
    return {"gpu": {"strategy": "device-plugin", "pools": {"lab": {"classes": {"small": {"per_card": 4, **keys}}}}}}


@pytest.mark.parametrize(
    ("memory", "instead"),
    [(6, "6GiB"), ("6", "6GiB"), ("6G", "6GiB"), ("6GB", "6GiB"), ("512M", "512MiB"), ("big", "6GiB"), (1.5, "1.5GiB")],
)
def test_memory_without_a_unit_names_the_size_with_one(chart: Chart, memory: object, instead: str) -> None:
    message = refusal(chart, a_class(memory=memory))

    assert message.rstrip().endswith(f"Write the number with its unit: {instead}")
    assert "gpu.pools.lab.classes.small.memory" in message


@pytest.mark.parametrize("memory", ["6GiB", "6Gi", "6141MiB", "1.5 GiB"])
def test_a_size_that_labspawner_reads_is_taken(chart: Chart, memory: str) -> None:
    chart.render(values_of("minimal"), a_class(memory=memory))


@pytest.mark.parametrize("cores", [0.25, 250, "half", 101])
def test_cores_that_are_no_percent_say_what_they_are(chart: Chart, cores: object) -> None:
    assert "Write whole percent, 1 to 100: 25" in refusal(chart, a_class(memory="6GiB", cores=cores))


@pytest.mark.parametrize("count", [0.5, "many"])
def test_a_share_of_a_slice_is_no_number_of_slices(chart: Chart, count: object) -> None:
    assert "Write a whole number, 1 or more: 4" in refusal(chart, a_class(memory="6GiB", per_card=count))


def test_a_class_without_a_number_of_slices_is_refused(chart: Chart) -> None:
    broken = a_class(memory="6GiB")
    del broken["gpu"]["pools"]["lab"]["classes"]["small"]["per_card"]

    assert "per_card" in refusal(chart, broken)


def test_a_class_has_one_size_in_all_pools(chart: Chart) -> None:
    other = {"gpu": {"pools": {"other": {"classes": {"small": {"memory": "9GiB", "per_card": 2}}}}}}

    assert "give this one another name" in refusal(chart, a_class(memory="6GiB"), other)


def test_two_classes_of_one_size_are_one(chart: Chart) -> None:
    other = {"gpu": {"pools": {"other": {"classes": {"little": {"memory": "6GiB", "per_card": 2}}}}}}

    assert "Give them one name" in refusal(chart, a_class(memory="6GiB"), other)


@pytest.mark.parametrize(("key", "instead"), [("watchdog", "gpu: {agent: {watchdog"), ("classes", "{classes: ...}")])
def test_an_option_of_a_pool_that_has_a_place_of_its_own_says_which(chart: Chart, key: str, instead: str) -> None:
    option = {"gpu": {"pools": {"lab": {"options": {key: "report"}}}}}

    assert instead in refusal(chart, a_class(memory="6GiB"), option)


def test_device_plugin_without_pools_shows_one(chart: Chart) -> None:
    assert "gpu: {pools: {default:" in refusal(chart, at("gpu.strategy", "device-plugin"))


def test_pools_that_nobody_reads_are_refused(chart: Chart) -> None:
    assert "gpu: {strategy: device-plugin}" in refusal(chart, a_class(memory="6GiB"), at("gpu.strategy", "hami"))


def test_courses_as_a_list_show_courses_by_name(chart: Chart) -> None:
    assert "courses: {files: {dl101: {course: dl101" in refusal(chart, at("courses.files", [{"course": "dl101"}]))


def test_a_course_without_its_name_is_refused(chart: Chart) -> None:
    assert "has no key `course`" in refusal(chart, at("courses.files.dl101", {"title": "Deep Learning"}))


def test_courses_from_two_places_are_refused(chart: Chart) -> None:
    assert "Keep one of them" in refusal(chart, at("courses.existingClaim", "courses"))


def test_more_courses_than_a_configmap_holds_belong_on_a_volume(chart: Chart) -> None:
    assert "courses: {existingClaim: ...}" in refusal(chart, at("courses.files.big", "x" * 1_000_000))


@pytest.mark.parametrize("hub_id", ["Campus", "my_hub", "a" * 33, "-hub"])
def test_a_hub_id_that_is_none_shows_one(chart: Chart, hub_id: str) -> None:
    assert "Write for example: hubId: " in refusal(chart, at("hubId", hub_id))


def test_a_long_release_name_asks_for_a_hub_id(chart: Chart) -> None:
    with pytest.raises(REFUSED, match="hubId"):
        chart.render(values_of("minimal"), name="physics-department-teaching-lab", namespace="jupyterhub")


def test_a_hub_that_lets_anybody_in_is_refused(chart: Chart) -> None:
    anybody = at("jupyterhub.hub.config.JupyterHub.authenticator_class", "dummy")

    assert "anybody logs in as anybody" in refusal(chart, anybody)
    chart.render(values_of("minimal"), anybody, at("jupyterhub.hub.config.DummyAuthenticator.password", "for a look"))


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("jupyterhub.cull.enabled", "jupyterhub: {cull: {enabled: false}}"),
        ("jupyterhub.singleuser.networkPolicy.enabled", "{networkPolicy: {enabled: false}}"),
        ("jupyterhub.hub.serviceAccount.create", "{serviceAccount: {create: false}}"),
        ("jupyterhub.scheduling.userScheduler.enabled", "jupyterhub: {rbac: {create: true}}"),
        ("jupyterhub.prePuller.hook.enabled", "jupyterhub: {rbac: {create: true}}"),
        ("jupyterhub.proxy.https.enabled", "jupyterhub: {rbac: {create: true}}"),
    ],
)
def test_a_part_of_the_official_chart_that_would_undo_ours_is_refused(chart: Chart, path: str, instead: str) -> None:
    assert instead in refusal(chart, at(path, True))


def test_the_user_scheduler_would_hide_pods_from_hami(chart: Chart) -> None:
    both = [at("jupyterhub.scheduling.userScheduler.enabled", True), at("jupyterhub.rbac.create", True)]

    assert "HAMi leaves alone pods that name a scheduler" in refusal(chart, *both, base="hami")


def test_leases_without_a_place_to_live_are_refused(chart: Chart) -> None:
    assert "database: {external: true}" in refusal(chart, at("jupyterhub.hub.db.type", "postgres"))


def test_volumes_of_ones_own_must_repeat_the_charts(chart: Chart) -> None:
    mine = at("jupyterhub.hub.extraVolumes", [{"name": "mine", "emptyDir": {}}])

    message = refusal(chart, mine)

    assert "jupyterhub.hub.extraVolumes" in message
    assert '"secretName":"labspawner-hub"' in message


def test_mounts_of_ones_own_must_repeat_the_charts(chart: Chart) -> None:
    mine = at("jupyterhub.hub.extraVolumeMounts", [{"name": "mine", "mountPath": "/mine"}])

    assert "jupyterhub.hub.extraVolumeMounts has nothing at" in refusal(chart, mine)


def test_another_secret_must_be_mounted_too(chart: Chart) -> None:
    assert '"secretName":"mine"' in refusal(chart, at("existingSecret", "mine"))


def test_a_course_volume_must_be_mounted_too(chart: Chart) -> None:
    message = refusal(chart, at("courses.existingClaim", "courses"), base="proxmox-only")

    assert '"claimName":"courses"' in message


def test_a_rule_that_opens_the_clouds_credentials_is_refused(chart: Chart) -> None:
    everything = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]

    assert "networkPolicy: {internet: true}" in refusal(chart, at("networkPolicy.egress", everything))


def test_a_hub_without_anything_that_hosts_servers_is_refused(chart: Chart) -> None:
    assert "nothing hosts servers" in refusal(chart, at("kubernetes.enabled", False))


def test_the_console_does_not_take_the_hubs_port(chart: Chart) -> None:
    assert "console: {port: 8082}" in refusal(chart, at("console.port", 8081))


def test_the_charts_own_provider_is_not_written_twice(chart: Chart) -> None:
    assert "kubernetes: {options:" in refusal(chart, at("providers.kubernetes", {"namespace": "students"}))


def test_servers_elsewhere_than_their_rights_are_refused(chart: Chart) -> None:
    assert "install into another namespace" in refusal(chart, at("kubernetes.options.namespace", "students"))
