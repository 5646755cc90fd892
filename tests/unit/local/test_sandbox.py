"""The command line and the environment of a plain process; a profile's settings."""

from __future__ import annotations

import pytest
from builders import a_request

from labspawner.errors import BadConfig
from labspawner.model import Resources
from labspawner.providers.local import LocalSettings, LocalVariant, sandbox
from labspawner.providers.options import read_options

URL = "http://127.0.0.1:4711"


def test_the_server_is_told_where_to_listen_and_carries_the_mark() -> None:
    environment = sandbox.environment_for(
        a_request(), LocalVariant(), url=URL, kept={"LANG": "C.UTF-8"}, marks={"LABSPAWNER_LEASE_ID": "l1"}
    )

    assert environment["JUPYTERHUB_SERVICE_URL"] == "http://127.0.0.1:4711/user/student1/"
    assert environment["LABSPAWNER_LEASE_ID"] == "l1"
    assert environment["LANG"] == "C.UTF-8"


def test_limits_are_told_to_the_server_for_display() -> None:
    request = a_request(resources=Resources(cpu=1.5, memory_bytes=2**30))

    environment = sandbox.environment_for(request, LocalVariant(), url=URL, kept={}, marks={})

    assert (environment["MEM_LIMIT"], environment["MEM_GUARANTEE"]) == ("1073741824", "1073741824")
    assert environment["CPU_LIMIT"] == "1.5"


def test_a_profile_chooses_where_the_browser_lands_and_adds_variables() -> None:
    variant = LocalVariant(default_url="/lab/tree/a.ipynb", environment={"COURSE": "py101"})

    environment = sandbox.environment_for(a_request(), variant, url=URL, kept={}, marks={})

    assert environment["JUPYTERHUB_DEFAULT_URL"] == "/lab/tree/a.ipynb"
    assert environment["COURSE"] == "py101"


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "ld_library_path", "JUPYTERHUB_API_TOKEN", "LABSPAWNER_LEASE_ID", "CUDA_VISIBLE_DEVICES"),
        *("PATH", "HOME", "PYTHONSTARTUP", "BASH_ENV", "MEM_LIMIT", "A=B", "", "1A"),
    ],
)
def test_a_profile_may_not_set_a_reserved_or_malformed_variable(name: str) -> None:
    with pytest.raises(BadConfig, match="environment"):
        read_options(LocalVariant, {"environment": {name: "x"}}, where="Profile p")


@pytest.mark.parametrize("url", ["lab", "//evil.example", "http://evil.example"])
def test_a_default_url_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(BadConfig, match="slash"):
        read_options(LocalVariant, {"default_url": url}, where="Profile p")


def test_an_unknown_key_is_named_together_with_those_there_are() -> None:
    with pytest.raises(BadConfig, match=r"no setting 'image' .*command, default_url, environment") as failure:
        read_options(LocalVariant, {"image": "lab/pytorch"}, where="Profile dl/gpu")

    assert str(failure.value.message).startswith("Profile dl/gpu: ")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bind_ip": "0.0.0.0"}, "loopback"),
        ({"bind_ip": "::1"}, "loopback"),
        ({"bind_ip": "localhost"}, "not an IP"),
        ({"homes": "homes"}, "absolute"),
        ({"port_range": [10, 20]}, "1024"),
        ({"port_range": [30000, 20000]}, "1024"),
        ({"max_servers": 0}, "max_servers"),
        ({"min_free_disk": "50"}, "unit"),
        ({"stop_grace_s": -1}, "stop_grace_s"),
        ({"sandbox": "jail"}, "auto"),
        ({"uid_range": [0, 100]}, "above 1000"),
        ({"uid_range": [300000, 200000]}, "200000, 265535"),
        ({"read_only_paths": ["data"]}, "absolute"),
        ({"read_only_paths": ["/"]}, "not the root"),
        ({"hidden_paths": ["/opt/../root"]}, r"without '\.'"),
        ({"devices": ["/dev/nul\0l"]}, "absolute"),
        ({"preload": "lib.so"}, "absolute"),
        ({"egress_deny": ["campus"]}, "10.0.0.0/8"),
        ({"network": "host"}, "egress"),
        ({"home_quota": "5"}, "unit"),
    ],
)
def test_a_wrong_setting_is_explained(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        read_options(LocalSettings, settings, where="Provider local")  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"interpreter": "python3"}, {"network": "host"}])
def test_a_wrong_key_of_a_profile_is_explained(settings: dict[str, object]) -> None:
    with pytest.raises(BadConfig, match="Profile p"):
        read_options(LocalVariant, settings, where="Profile p")  # type: ignore[arg-type]


def test_good_settings_are_taken_as_they_are() -> None:
    given = {"egress_deny": ["10.0.0.0/8", "fd00::/8"], "preload": "/opt/x.so", "uid_range": [300000, 300010]}

    settings = read_options(LocalSettings, {**given, "read_only_paths": ["/data sets"]}, where="Provider local")

    assert settings.egress_deny == ("10.0.0.0/8", "fd00::/8")
    assert settings.read_only_paths == ("/data sets",)


def test_inside_path_shows_only_what_is_there_and_the_students_own_commands_first() -> None:
    environment = {"PATH": "/srv/tools/bin:/srv/venv/bin:bin:/usr/bin:/usr/bin", "HOME": "/srv/hub", "TOKEN": "x"}

    made = sandbox.confined(
        ("jupyterhub-singleuser",),
        home="/home/ann",
        name="ann",
        environment=environment,
        folder="/srv/venv/bin",
        trees=("/srv/venv",),
    )

    assert made.environment["PATH"] == "/srv/venv/bin:/usr/bin"
    assert (made.environment["HOME"], made.environment["USER"], made.cwd) == ("/home/ann", "ann", "/home/ann")
    assert made.environment["TOKEN"] == "x"
    assert made.argv == ("jupyterhub-singleuser",)


@pytest.mark.parametrize(("command", "told"), [("/opt/bin/jupyterhub-singleuser", True), ("python3", False)])
def test_in_a_full_home_jupyter_writes_elsewhere_and_deletes_for_good(command: str, told: bool) -> None:
    made = sandbox.rescue(sandbox.Invocation(argv=(command,), cwd="/", environment={"A": "b"}), folder="/tmp/r")

    assert made.environment["JUPYTER_RUNTIME_DIR"] == "/tmp/r/runtime"
    assert made.environment["A"] == "b"
    assert ("--FileContentsManager.delete_to_trash=False" in made.argv) is told


def test_every_setting_has_a_description() -> None:
    for model in (LocalSettings, LocalVariant):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize(
    ("argv", "as_root", "expected"),
    [
        (("jupyterhub-singleuser",), True, ("jupyterhub-singleuser", "--allow-root")),
        (("/opt/bin/jupyter-lab", "--debug"), True, ("/opt/bin/jupyter-lab", "--debug", "--allow-root")),
        (("jupyterhub-singleuser", "--allow-root"), True, ("jupyterhub-singleuser", "--allow-root")),
        (("jupyterhub-singleuser",), False, ("jupyterhub-singleuser",)),
        (("python3", "-m", "x"), True, ("python3", "-m", "x")),
    ],
)
def test_only_jupyter_under_a_root_hub_is_told_to_allow_root(
    argv: tuple[str, ...], as_root: bool, expected: tuple[str, ...]
) -> None:
    invocation = sandbox.plain(argv, home="/h", environment={"HOME": "/srv/hub", "SECRET": "s3cret"}, as_root=as_root)

    assert invocation.argv == expected
    assert (invocation.cwd, invocation.environment["HOME"]) == ("/h", "/h")
    assert "s3cret" not in repr(invocation)
