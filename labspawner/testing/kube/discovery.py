"""What a client may ask before it knows the API: version, health, groups and their resources."""

from __future__ import annotations

from labspawner.testing.kube.resources import RESOURCES, SUBRESOURCES, Json, Resource

VERSION: Json = {
    "major": "1",
    "minor": "34",
    "emulationMajor": "1",
    "emulationMinor": "34",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "33",
    "gitVersion": "v1.34.2",
    "gitCommit": "$Format:%H$",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "go1.24.4",
    "compiler": "gc",
    "platform": "linux/amd64",
}
HEALTH = ("/readyz", "/livez", "/healthz")
PUBLIC = (*HEALTH, "/version")
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_REVIEWS = (("authentication.k8s.io", "v1"), ("authorization.k8s.io", "v1"))


def document(path: str, address: str) -> Json | None:
    """The JSON at a discovery path, None where there is none."""
    if path == "/version":
        return VERSION
    if path == "/api":
        served = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": served}
    groups = sorted({(r.group, r.version) for r in RESOURCES if r.group} | set(_REVIEWS))
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*pair) for pair in groups]}
    parts = path.strip("/").split("/")
    if parts == ["api", "v1"]:
        return _resources("", "v1")
    if len(parts) == 3 and parts[0] == "apis" and (parts[1], parts[2]) in groups:
        return _resources(parts[1], parts[2])
    return None


def _group(group: str, version: str) -> Json:
    one = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [one], "preferredVersion": one}


def _resources(group: str, version: str) -> Json:
    rows: list[Json] = []
    for resource in sorted(RESOURCES, key=lambda row: row.plural):
        if (resource.group, resource.version) == (group, version):
            rows.append(_row(resource, resource.plural, _VERBS))
            rows += [
                _row(resource, f"{resource.plural}/{sub}", ["get"]) for sub in SUBRESOURCES.get(resource.plural, ())
            ]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "groupVersion": name, "resources": rows}


def _row(resource: Resource, name: str, verbs: list[str]) -> Json:
    singular = "" if "/" in name else resource.kind.lower()
    return {
        "name": name,
        "singularName": singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    }
