"""Settings: read whole and understood to the last byte, or refused with one line that says what to write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native.core_guests import NOWHERE, clean_environment

from labspawner.gpu.limits import CorePolicy, DeviceLimit, SliceLimits, render

GOOD = """labspawner-limits 1
slice ada
region /run/region
node /run/node
policy cap
priority 1
oversubscribe 1
oom-killer 1
device GPU-0 memory=4294967296 soft=2147483648 cores=30 weight=40
device MIG-1 memory=1 soft=1 cores=100 weight=10000
end
"""


@pytest.fixture
def find(native, tmp_path: Path):
    """Ask the C code what it makes of a mount folder and an environment."""

    def ask(mount: Path | str = NOWHERE, **environment: str) -> str:
        command = [native.program("core_settings"), mount]
        done = subprocess.run(command, env=clean_environment(**environment), capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.rstrip("\n")

    return ask


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    folder = tmp_path / "slice"
    folder.mkdir()
    return folder


@pytest.fixture
def judge(find, mount: Path):
    """What becomes of a limits file with this content."""

    def write_and_ask(content: str | bytes) -> str:
        (mount / "limits").write_bytes(content if isinstance(content, bytes) else content.encode())
        return find(mount)

    return write_and_ask


def test_a_limits_file_is_understood_to_the_last_word(judge):
    assert judge(GOOD) == (
        "active source=1 slice=ada region=/run/region node=/run/node policy=cap priority=1 oversubscribe=1 killer=1 "
        "log=1 make=0 device=GPU-0,4294967296,2147483648,30,40 device=MIG-1,1,1,100,10000"
    )


names = st.text("abcXYZ019._-", min_size=1, max_size=63)
cards = st.builds(
    lambda memory, soft, cores, weight: {
        "memory_bytes": memory, "soft_bytes": min(soft, memory), "cores_pct": cores, "weight": weight
    },
    st.integers(1, 2**44), st.integers(1, 2**44), st.integers(1, 100), st.integers(1, 10000),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=names, many=st.lists(cards, min_size=1, max_size=16), policy=st.sampled_from(CorePolicy), node=st.booleans()
)
def test_whatever_python_writes_is_read_as_it_was_meant(judge, name, many, policy, node):
    limits = SliceLimits(
        name=name,
        region="/run/region",
        node="/run/node" if node else None,
        policy=policy,
        devices=tuple(DeviceLimit(uuid=f"GPU-{index}", **card) for index, card in enumerate(many)),
    )

    found = judge(render(limits))

    devices = [f"device={d.uuid},{d.memory_bytes},{d.soft_bytes},{d.cores_pct},{d.weight}" for d in limits.devices]
    assert found.startswith(f"active source=1 slice={name} region=/run/region node={limits.node or ''} ")
    assert f" policy={policy.value} " in found
    assert found.endswith(" ".join(["make=0", *devices]))


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BAD = {
    "another version": changed("labspawner-limits 1", "labspawner-limits 2"),
    "empty": "",
    "no slice": changed("slice ada\n", ""),
    "a name with a slash": changed("slice ada", "slice a/da"),
    "a name too long": changed("slice ada", "slice " + "a" * 64),
    "an empty name": changed("slice ada", "slice "),
    "a relative region": changed("region /run", "region run"),
    "a region too long": changed("region /run", "region /" + "r" * 260),
    "no region": changed("region /run/region\n", ""),
    "an unknown policy": changed("policy cap", "policy Cap"),
    "no policy": changed("policy cap\n", ""),
    "a priority of 2": changed("priority 1", "priority 2"),
    "a switch that is a word": changed("oversubscribe 1", "oversubscribe true"),
    "a switch that is missing": changed("oom-killer 1\n", ""),
    "an order of its own": changed("priority 1\noversubscribe 1\n", "oversubscribe 1\npriority 1\n"),
    "no devices": "".join(line for line in GOOD.splitlines(keepends=True) if not line.startswith("device")),
    "memory with a unit": changed("memory=4294967296", "memory=4GiB"),
    "memory of 0": changed("memory=4294967296", "memory=0"),
    "memory below 0": changed("memory=4294967296", "memory=-1"),
    "memory with a sign": changed("memory=4294967296", "memory=+4"),
    "memory with a leading 0": changed("memory=4294967296", "memory=04"),
    "memory beyond all cards": changed("memory=4294967296", f"memory={2**44 + 1}"),
    "memory beyond 64 bits": changed("memory=4294967296", f"memory={2**64 + 1}"),
    "no memory": changed("memory=4294967296 ", ""),
    "cores of 0": changed("cores=30", "cores=0"),
    "cores of 101": changed("cores=30", "cores=101"),
    "cores with a fraction": changed("cores=30", "cores=30.5"),
    "weight of 10001": changed("weight=40", "weight=10001"),
    "a field too many": changed("weight=40", "weight=40 x=1"),
    "a space at the end": changed("weight=40", "weight=40 "),
    "two spaces": changed("GPU-0 memory", "GPU-0  memory"),
    "a tab": changed("GPU-0 memory", "GPU-0\tmemory"),
    "a card twice": changed("MIG-1", "GPU-0"),
    "a uuid too long": changed("GPU-0", "G" * 64),
    "17 cards": changed("device MIG-1", "".join(
        f"device X-{i} memory=1 soft=1 cores=1 weight=1\n" for i in range(15)) + "device MIG-1"),
    "an empty line": changed("policy cap\n", "policy cap\n\n"),
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "a comment": "# mine\n" + GOOD,
    "something after the end": GOOD + "device GPU-9 memory=1 soft=1 cores=1 weight=1\n",
    "an end without its line end": GOOD[:-1],
    "too long": GOOD + "x" * 16384,
    "a line too long": changed("slice ada", "slice " + "a" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_anything_but_the_exact_grammar_is_refused(judge, content):
    assert judge(content).startswith("refused ")


@pytest.mark.parametrize("rubbish", [b"\0" * 100, b"\xff\xfe", bytes(range(256)), GOOD.encode() + b"\0"])
def test_bytes_that_are_no_text_are_refused(judge, rubbish):
    assert judge(rubbish).startswith("refused ")


def test_a_file_cut_at_any_place_is_half_written(judge):
    for length in range(0, len(GOOD), 9):
        assert judge(GOOD[:length]).startswith("refused "), length


def test_the_refusal_names_file_line_value_and_what_to_write(judge, mount):
    found = judge(changed("memory=4294967296", "memory=4GB"))

    assert f"{mount}/limits, line 9" in found
    assert "memory=4GB" in found
    assert "memory=<bytes>" in found


def test_odd_bytes_in_a_file_never_reach_the_terminal(judge):
    found = judge(GOOD.replace("ada", "a\x1b[31mda"))

    assert found.startswith("refused ")
    assert "\x1b" not in found


def test_a_mounted_folder_without_its_file_is_no_way_out(find, mount):
    assert find(mount).startswith(f"refused {mount}/limits cannot be read")


def test_a_folder_in_place_of_the_file_is_refused(find, mount):
    (mount / "limits").mkdir()

    assert find(mount).startswith("refused ")


def test_a_pipe_in_place_of_the_file_is_refused_and_hangs_nobody(find, mount):
    os.mkfifo(mount / "limits")

    assert find(mount).startswith("refused ")


def test_an_unreadable_file_is_refused(native, mount):
    (mount / "limits").write_text(GOOD)
    (mount / "limits").chmod(0)
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        for parent in mount.parents[:3]:  # pytest's own, closed to others
            parent.chmod(parent.stat().st_mode | 0o711)
    else:
        command = []
    done = subprocess.run(
        [*command, native.program("core_settings"), mount],
        env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"cannot be an ordinary user here: {done.stderr}")

    assert done.stdout.startswith("refused ")
    assert "Permission denied" in done.stdout


def test_the_mounted_file_beats_all_others_and_a_named_one_beats_hami(find, mount, tmp_path):
    (mount / "limits").write_text(GOOD)
    named = tmp_path / "named"
    named.write_text(GOOD.replace("slice ada", "slice bob"))
    environment = {"LABSPAWNER_GPU_LIMITS": str(named), "CUDA_DEVICE_MEMORY_LIMIT": "99g"}

    assert find(mount, **environment).startswith("active source=1 slice=ada ")
    assert find(**environment).startswith("active source=2 slice=bob ")
    assert find(CUDA_DEVICE_MEMORY_LIMIT="99g").startswith("active source=3 slice=hami ")
    assert find() == "none"


def test_a_bad_mounted_file_is_final(find, mount, tmp_path):
    (mount / "limits").write_text("rubbish")
    named = tmp_path / "named"
    named.write_text(GOOD)

    assert find(mount, LABSPAWNER_GPU_LIMITS=str(named)).startswith("refused ")


def test_a_named_file_that_is_missing_is_refused(find, tmp_path):
    assert find(LABSPAWNER_GPU_LIMITS=str(tmp_path / "none")).startswith("refused ")


def test_a_refusal_is_said_once_and_loading_again_is_refused_again(native):
    if Path("/etc/labspawner/slice").exists():
        pytest.skip("this machine is a slice itself")
    environment = clean_environment(CUDA_DEVICE_MEMORY_LIMIT_0="4GB")
    done = subprocess.run(
        [native.program("core_settings")], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout == "-22 -22\n"
    assert done.stderr.startswith("labspawner: no GPU: CUDA_DEVICE_MEMORY_LIMIT_0=4GB: ")
    assert "4096m" in done.stderr
    assert done.stderr.count("\n") == 1
