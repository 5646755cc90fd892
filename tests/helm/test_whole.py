"""What the chart makes, put together: a real JupyterHub with its settings, and with its rights on the API server double.

The hub's configuration file does what that of the official chart does with the values it is given, as far as they meet
ours; then it runs `hub.extraConfig`, with no change but the folder that a pod would have its ConfigMap at, and the address of
the console, since there is no Service here.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helm.rendering import NAMESPACE, RELEASE, Chart, Rendered, at, values_of

from labspawner.testing.hub import RealHub, free_ports
from labspawner.testing.kube import Image, KubeDouble
from labspawner.testing.waiting import eventually_sync
from labspawner.testing.web import Client

pytestmark = pytest.mark.hub

TOKEN = "0123456789abcdef" * 2
STUDENT, PROFILE, IMAGE = "ann", "py101/base", "lab/scipy:2026.2"
_CONFIG = """
import json, pathlib
from labspawner.testing.hubconfig import ADMIN_SCOPES, MemoryProxy
spec = json.loads(pathlib.Path({spec!r}).read_text())
official = spec["official"]

c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.JupyterHub.concurrent_spawn_limit = official["hub"]["concurrentSpawnLimit"]
c.Spawner.consecutive_failure_limit = official["hub"]["consecutiveFailureLimit"]
c.Spawner.cmd = "jupyterhub-singleuser"
c.KubeSpawner.namespace = spec["namespace"]
c.KubeSpawner.common_labels = {{"app": "jupyterhub", "heritage": "jupyterhub", "release": spec["release"]}}
c.KubeSpawner.extra_labels = {{"hub.jupyter.org/network-access-hub": "true"}}
c.KubeSpawner.allow_privilege_escalation = False
c.KubeSpawner.uid, c.KubeSpawner.fs_gid = 1000, 100
c.KubeSpawner.storage_pvc_ensure, c.KubeSpawner.storage_capacity = True, "10Gi"
c.KubeSpawner.volumes = [{{"name": "home", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}]
c.KubeSpawner.volume_mounts = [{{"mountPath": "/home/jovyan", "name": "home"}}]
c.JupyterHub.services = []
c.JupyterHub.load_roles = []
for name, given in official["hub"]["config"].items():
    c[name].update(given)

# The test's own: ports, a proxy in memory, a token.
c.JupyterHub.hub_port, c.JupyterHub.bind_url = spec["port"], spec["bind_url"]
c.JupyterHub.proxy_class = MemoryProxy
c.JupyterHub.db_url, c.JupyterHub.cookie_secret_file = spec["db_url"], spec["cookie_secret"]
c.JupyterHub.services.append({{"name": "tester", "api_token": spec["token"]}})
c.JupyterHub.load_roles.append({{"name": "tester", "services": ["tester"], "scopes": ADMIN_SCOPES}})

for _, code in sorted(official["hub"]["extraConfig"].items()):
    exec(code.replace("/etc/labspawner", spec["etc"]))
"""


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(namespace=NAMESPACE, runs="still", images={IMAGE: Image()}) as cluster:
        yield cluster


@pytest.fixture
def hub(double: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealHub]:
    account = tmp_path / "account"
    account.mkdir()
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(account, token=double.token_of("labspawner-hub"))))
    made = RealHub(tmp_path / "hub", courses={}, groups={}, providers={})
    yield made
    made.close()


@pytest.fixture
def rendered(chart: Chart, hub: RealHub, double: KubeDouble) -> Rendered:
    """As for this hub, and installed: roles in the double, files where its pod would have them."""
    folders = {"data_dir": str(hub.folder / "data"), "courses_dir": str(hub.folder / "courses")}
    found = chart.render(
        values_of("minimal"),
        at("hubId", hub.hub_id),
        at("settings", {**folders, "observe_interval_s": 0.1}),
        at("monitoring.enabled", True),
        at("jupyterhub.hub.config.JupyterHub", {"authenticator_class": "dummy", "load_groups": {"course-py101": {}}}),
        at("jupyterhub.hub.config.DummyAuthenticator.password", hub.password),
        at("jupyterhub.hub.config.Authenticator.allow_all", True),
    )
    for each in found:
        if each["kind"] in ("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            double.apply(each)
    etc = hub.folder / "etc"
    here = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = {**found.settings(), "console": {**found.settings()["console"], "url": here, "listen": here}}
    files = found.the("ConfigMap", "labspawner-settings")["data"]
    for folder, contents in {
        etc / "settings": {**files, "settings.json": json.dumps(settings)},
        etc / "secrets": {"metrics-token": TOKEN},
        hub.folder / "courses": found.the("ConfigMap", "labspawner-courses")["data"],
    }.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")
    spec = json.loads((hub.folder / "spec.json").read_text(encoding="utf-8"))
    more = {
        "official": found.official(),
        "namespace": NAMESPACE,
        "release": RELEASE,
        "etc": str(etc),
        "bind_url": f"http://127.0.0.1:{spec['proxy_port']}",
        "db_url": f"sqlite:///{hub.folder / 'jupyterhub.sqlite'}",
        "cookie_secret": str(hub.folder / "cookie_secret"),
    }
    target = hub.folder / "spec.json"
    target.write_text(json.dumps({**spec, **more}), encoding="utf-8")
    hub.config_file.write_text(_CONFIG.format(spec=str(target)), encoding="utf-8")
    return found


def _console_answers(hub: RealHub) -> bool:
    given = json.loads((hub.folder / "etc" / "settings" / "settings.json").read_text(encoding="utf-8"))["console"]
    try:
        return Client(given["url"]).call("GET", "/services/labspawner/api/v1/openapi.json").status == 200
    except OSError:  # the hub starts it after it began to answer itself
        return False


def test_a_student_gets_a_pod_by_the_charts_settings_and_rights_alone_and_keeps_it_when_they_change(
    chart: Chart, rendered: Rendered, hub: RealHub, double: KubeDouble
) -> None:
    hub.start()
    hub.add_user(STUDENT, "course-py101")

    hub.start_server(STUDENT, PROFILE)

    (pod,) = double.pods()
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    policy = rendered.the("NetworkPolicy", "labspawner-servers")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items(), "the policy for servers is for this one"
    assert labels["hub.jupyter.org/network-access-hub"] == "true", "the official chart's policy lets it reach the hub"
    assert spec["containers"][0]["image"] == IMAGE
    assert spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["ports"][0]["containerPort"] == policy["ingress"][0]["ports"][0]["port"]
    assert [each["metadata"]["labels"]["labspawner.io/hub"] for each in double.objects("persistentvolumeclaims")] == [
        hub.hub_id
    ]

    metrics = Client(hub.base, {"Authorization": f"Bearer {TOKEN}"})
    assert "labspawner_leases" in metrics.call("GET", "/hub/metrics").text
    assert metrics.call("GET", "/hub/api/users").status == 403

    eventually_sync(lambda: _console_answers(hub), 60.0, "the console answers")

    # As `helm upgrade` and the kubelet do it: the hub ends by itself, is started again, and the server went on.
    settings = hub.folder / "etc" / "settings" / "settings.json"
    new = chart.render(values_of("minimal"), at("culler.dryRun", True)).settings()["culler"]
    settings.write_text(json.dumps({**json.loads(settings.read_text(encoding="utf-8")), "culler": new}))
    assert hub.wait_for_death() in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    hub.start()
    eventually_sync(lambda: _console_answers(hub), 60.0, "the new hub's console answers, so that it ends with it")
    assert hub.wait_ready(STUDENT)["ready"]
    assert [each["metadata"]["uid"] for each in double.pods()] == [pod["metadata"]["uid"]]

    hub.stop_server(STUDENT)

    eventually_sync(lambda: double.pods() == [], what="the pod is gone")
    refused = [each for each in double.requests if each.status in (401, 403)]
    # The rights of the whole cluster are optional, and the chart's settings say that they are not there.
    assert refused == []
