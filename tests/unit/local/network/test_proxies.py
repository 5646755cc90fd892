"""Which proxies can reach a unix socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labspawner.proxies import PROXY, proxy_command, reach_sockets


def installed(
    folder: Path, *, version: str = "5.3.0", name: str = PROXY, first_line: str = "#!/usr/bin/env node"
) -> str:
    """A proxy as npm installs it: a link to a script in its package."""
    script = folder / "lib" / "node_modules" / PROXY / "bin" / PROXY
    script.parent.mkdir(parents=True)
    script.write_text(f"{first_line}\n")
    script.chmod(0o755)
    (script.parent.parent / "package.json").write_text(json.dumps({"name": name, "version": version}))
    link = folder / PROXY
    link.symlink_to(script)
    return str(link)


def test_npms_proxy_of_today_and_a_hub_of_today_can(tmp_path: Path) -> None:
    assert reach_sockets([installed(tmp_path)], hub_version="6.1.1")


@pytest.mark.parametrize("version", ["4.6.2", "0.4.0", "x", ""])
def test_an_older_proxy_cannot(tmp_path: Path, version: str) -> None:
    assert not reach_sockets([installed(tmp_path, version=version)], hub_version="6.1.1")


@pytest.mark.parametrize("version", ["5.3.0", "5.5.1", "unknown"])
def test_an_older_hub_cannot(tmp_path: Path, version: str) -> None:
    assert not reach_sockets([installed(tmp_path)], hub_version=version)


def test_the_pure_python_proxy_cannot(tmp_path: Path) -> None:
    assert not reach_sockets([installed(tmp_path, first_line="#!/usr/bin/python3")], hub_version="6.1.1")


def test_what_only_looks_like_the_proxy_is_not_trusted(tmp_path: Path) -> None:
    assert not reach_sockets([installed(tmp_path, name="my-proxy")], hub_version="6.1.1")


def test_a_script_without_a_package_a_missing_command_and_none_at_all_cannot(tmp_path: Path) -> None:
    script = tmp_path / "proxy"
    script.write_text("#!/usr/bin/env node\n")
    script.chmod(0o755)

    for command in ([str(script)], [str(tmp_path / "missing")], []):
        assert not reach_sockets(command, hub_version="6.1.1")


def test_npms_proxy_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = installed(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert proxy_command() == [link]


def test_without_it_there_is_still_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert Path(proxy_command()[0]).name == PROXY
