"""What the hub's own configuration says: pure, of the values as they were loaded."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from labspawner.config import Settings
from labspawner.providers.findings import Finding, error, note, ok, warning
from labspawner.sentences import Sentence, plain

_SPAWNER, _HUB_ID, _RESTARTS = Sentence("spawner"), Sentence("hub id"), Sentence("restarts")
_LOG_IN, _ADDRESS, _PROXY = Sentence("log-in"), Sentence("address"), Sentence("proxy")
_CULLER, _CONSOLE = Sentence("culler"), Sentence("console")
_REMOTE = frozenset({"kubernetes", "proxmox"})
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_PROXY_CLASS = "jupyterhub.proxy.ConfigurableHTTPProxy"


def hub_findings(
    sections: Mapping[str, Mapping[str, Any]], settings: Settings, *, environment: Mapping[str, str] = os.environ
) -> tuple[Finding, ...]:
    """Everything that can be told from the configuration alone. sections: by class, as `Settings.sections`."""
    hub = sections.get("JupyterHub", {})
    kinds = {str(options.get("kind", name)) for name, options in settings.providers.items()}
    return (
        _plugged_in(hub),
        *_hub_id(sections, settings, kinds, environment),
        *_restarts(hub),
        *_log_in(hub, sections),
        *_reached(hub, kinds),
        _proxy(hub, sections),
        *_culler(hub),
        _console(hub),
    )


def _plugged_in(hub: Mapping[str, Any]) -> Finding:
    spawner = hub.get("spawner_class")
    if spawner == "lab" or getattr(spawner, "__name__", str(spawner)).endswith("LabSpawner"):
        return ok(_SPAWNER, Sentence("labspawner starts the servers"))
    return error(
        _SPAWNER,
        Sentence("c.JupyterHub.spawner_class is {spawner}, so labspawner starts nothing", spawner=repr(spawner)),
        Sentence("call wiring.wire(c) at the end of the configuration"),
    )


def _hub_id(
    sections: Mapping[str, Mapping[str, Any]], settings: Settings, kinds: set[str], environment: Mapping[str, str]
) -> tuple[Finding, ...]:
    if "hub_id" in sections.get("Labspawner", {}):
        return (ok(_HUB_ID, plain(settings.hub_id)),)
    hub_id = repr(settings.hub_id)
    said = Sentence("c.Labspawner.hub_id is not set: this hub is {hub_id}, as its data folder says", hub_id=hub_id)
    if _IN_CLUSTER in environment:
        nobodys = Sentence(
            "c.Labspawner.hub_id is not set: this hub is {hub_id}, as its data folder says, and a new pod may have a new "
            "folder: servers would be nobody's",
            hub_id=hub_id,
        )
        return (error(_HUB_ID, nobodys, Sentence("set it")),)
    if kinds & _REMOTE:
        advice = Sentence("set it: two hubs on one cluster need different ones, for their whole life")
        return (warning(_HUB_ID, said, advice),)
    return (note(_HUB_ID, said),)


def _restarts(hub: Mapping[str, Any]) -> tuple[Finding, ...]:
    if hub.get("cleanup_servers", True):
        return (
            warning(
                _RESTARTS,
                Sentence("when the hub stops, it ends all servers"),
                Sentence("c.JupyterHub.cleanup_servers = False, and servers outlive a restart"),
            ),
        )
    return (ok(_RESTARTS, Sentence("servers outlive a restart of the hub")),)


def _log_in(hub: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> tuple[Finding, ...]:
    chosen = hub.get("authenticator_class")
    name = str(getattr(chosen, "__name__", chosen or "pam"))
    if name.rsplit(".", 1)[-1] in {"dummy", "DummyAuthenticator"}:
        if sections.get("DummyAuthenticator", {}).get("password"):
            shared = Sentence("everybody who knows one password is whoever they say (DummyAuthenticator)")
            return (warning(_LOG_IN, shared),)
        return (error(_LOG_IN, Sentence("anybody may be whoever they say, without a password (DummyAuthenticator)")),)
    if name in {"labspawner-demo", "DemoAuthenticator"}:
        advice = Sentence("take your university's log-in for a lab")
        return (note(_LOG_IN, Sentence("demo accounts, on this machine alone"), advice),)
    return (ok(_LOG_IN, plain(name)),)


def _reached(hub: Mapping[str, Any], kinds: set[str]) -> tuple[Finding, ...]:
    """Where browsers find the hub, and where servers on other machines do."""
    found = []
    public = str(hub.get("bind_url") or "http://:8000")
    secure = bool(hub.get("ssl_cert")) or public.startswith("https:")
    if not _loopback(urlsplit(public).hostname) and not secure:
        found.append(
            note(
                _ADDRESS,
                Sentence("{address} is without TLS", address=public),
                Sentence("put a TLS proxy in front, or set ssl_key and ssl_cert"),
            )
        )
    if kinds & _REMOTE:
        said = hub.get("hub_connect_url") or hub.get("hub_connect_ip") or hub.get("hub_bind_url") or hub.get("hub_ip")
        host = _host(str(said)) if said else "127.0.0.1"
        if _loopback(host):
            found.append(
                error(
                    _ADDRESS,
                    Sentence(
                        "servers on other machines look for the hub at {host}, which is their own loopback", host=host
                    ),
                    Sentence(
                        "set c.JupyterHub.hub_bind_url = 'http://0.0.0.0:8081' and hub_connect_url to what they reach"
                    ),
                )
            )
        else:
            where = host or Sentence("this machine")
            found.append(ok(_ADDRESS, Sentence("servers on other machines look for the hub at {host}", host=where)))
    return tuple(found)


def _host(said: str) -> str | None:
    return urlsplit(said).hostname if "://" in said else said


def _loopback(host: str | None) -> bool:
    if not host:
        return False  # all addresses
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxy(hub: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> Finding:
    chosen = hub.get("proxy_class")
    name = str(getattr(chosen, "__name__", chosen or _PROXY_CLASS))
    section = sections.get("ConfigurableHTTPProxy", {})
    if not name.endswith("ConfigurableHTTPProxy") and name != "configurable-http-proxy":
        return note(_PROXY, Sentence("{name}: not looked at", name=name))
    if section.get("should_start", True) is False:
        api = section.get("api_url", "http://127.0.0.1:8001")
        return note(_PROXY, Sentence("started by somebody else, its API at {address}", address=api))
    command = section.get("command") or ["configurable-http-proxy"]
    words: Sequence[str] = [command] if isinstance(command, str) else list(command)
    if not words or shutil.which(str(words[0])) is None:
        missing = words[0] if words else Sentence("nothing")
        return error(
            _PROXY,
            Sentence("{program} cannot be run", program=missing),
            plain("npm install -g configurable-http-proxy, or pip install labspawner[local]"),
        )
    return ok(_PROXY, plain(str(words[0])))


def _console(hub: Mapping[str, Any]) -> Finding:
    services = hub.get("services") or ()
    if any(isinstance(service, Mapping) and service.get("name") == "labspawner" for service in services):
        return ok(_CONSOLE, Sentence("instructors write their courses at /services/labspawner/"))
    return note(
        _CONSOLE,
        Sentence("courses are files alone, and classes have no page"),
        Sentence("call {call}", call="wiring.run_console(c)"),
    )


def _culler(hub: Mapping[str, Any]) -> tuple[Finding, ...]:
    services = hub.get("services") or ()
    names = {str(service.get("name")) for service in services if isinstance(service, Mapping)}
    if "labspawner-culler" in names:
        found = [ok(_CULLER, Sentence("idle servers are ended as their profiles say"))]
    else:
        advice = Sentence("call {call}", call="wiring.run_culler(c)")
        found = [warning(_CULLER, Sentence("no idle server is ended, whatever profiles say"), advice)]
    others = sorted(name for name in names if "cull" in name and name != "labspawner-culler")
    if others:
        found.append(
            warning(
                _CULLER,
                Sentence("a second one runs, which knows no profiles: {names}", names=", ".join(others)),
                Sentence("leave it out"),
            )
        )
    return tuple(found)
