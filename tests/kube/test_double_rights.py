"""Who may what: Roles that are applied decide, as do tokens, and HTTPS is verified."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from kube.asking import Watching, a_pod, ask, connected

from labspawner.testing.kube import KubeDouble

READ = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.fixture
def double(new_double: Callable[..., KubeDouble]) -> KubeDouble:
    return new_double(runs="still")


def _may(double: KubeDouble, token: str, verb: str, resource: str, **more: str) -> bool:
    asked = {"namespace": double.namespace, "verb": verb, "resource": resource, **more}
    status, body = ask(double, "POST", REVIEWS, {"spec": {"resourceAttributes": asked}}, token=token)
    assert status == 201
    return bool(body["status"]["allowed"])


def test_an_account_may_what_its_role_says_and_no_more(double: KubeDouble) -> None:
    token = double.account("reader", [READ])

    assert ask(double, "GET", "pods", token=token)[0] == 200
    status, body = ask(double, "POST", "pods", a_pod(), token=token)
    assert status == 403
    assert f'User "system:serviceaccount:{double.namespace}:reader" cannot create resource "pods"' in body["message"]


def test_a_role_holds_in_its_namespace_only(double: KubeDouble) -> None:
    token = double.account("reader", [READ])

    assert ask(double, "GET", "/api/v1/namespaces/default/pods", token=token)[0] == 403
    assert ask(double, "GET", "/api/v1/pods", token=token)[0] == 403


def test_a_cluster_role_holds_everywhere(double: KubeDouble) -> None:
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "all"}}
    subject = {"kind": "ServiceAccount", "name": "watcher", "namespace": double.namespace}
    double.apply({**rbac, "kind": "ClusterRole", "rules": [READ]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all"}
    double.apply({**rbac, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]})

    assert ask(double, "GET", "/api/v1/pods", token=double.token_of("watcher"))[0] == 200


def test_watch_is_a_right_of_its_own(double: KubeDouble) -> None:
    token = double.account("lister", [READ | {"verbs": ["list"]}])

    with Watching(double, "pods?watch=1", token=token) as watching:
        assert watching.status == 403


def test_a_review_says_what_the_api_would(double: KubeDouble) -> None:
    token = double.account("reader", [READ, {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}])

    assert _may(double, token, "list", "pods")
    assert _may(double, token, "get", "pods", subresource="log")
    assert not _may(double, token, "delete", "pods")
    assert not _may(double, token, "list", "secrets")


def test_a_fault_that_forbids_is_seen_by_a_review(double: KubeDouble) -> None:
    double.faults.forbid("create", "pods")

    assert not _may(double, double.token, "create", "pods")


def test_a_resource_name_limits_a_rule(double: KubeDouble) -> None:
    for name in ("mine", "other"):
        double.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["mine"]}
    token = double.account("narrow", [rule])

    assert ask(double, "GET", "configmaps/mine", token=token)[0] == 200
    assert ask(double, "GET", "configmaps/other", token=token)[0] == 403


def test_https_is_verified_against_the_doubles_own_authority(new_double: Callable[..., KubeDouble]) -> None:
    double = new_double(runs="still", tls=True)

    status, _ = ask(double, "GET", "pods")
    stranger = connected(double)
    stranger._context = ssl.create_default_context()  # type: ignore[attr-defined]

    assert status == 200
    assert double.url.startswith("https://")
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.request("GET", "/version")
