"""Our ABI headers say of the driver's and NVML's interfaces what the real headers say.

Prototypes are compared by the compiler: it refuses to declare a function twice with two types. Sizes, offsets and values are
printed by two programs, one with the real header and one with ours.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from native.real_headers import CUDA_WHEELS, NVML_WHEELS, declared, folder_of

ABI = Path(__file__).resolve().parents[2] / "native/abi"
CUDA_OPTIONS = ("-D__CUDA_API_VERSION_INTERNAL", "-DCUDA_ENABLE_DEPRECATED", "-Wno-deprecated-declarations")
NVML_OPTIONS = ("-DNVML_NO_UNVERSIONED_FUNC_DEFS", "-Wno-deprecated-declarations")

IN_NO_HEADER = {
    "cuProfilerStart": "declared in cudaProfiler.h",
    "cuProfilerStop": "declared in cudaProfiler.h",
    "cuGetProcAddress_ptsz": "the header makes it from cuGetProcAddress",
    "cuGetProcAddress_v2_ptsz": "the header makes it from cuGetProcAddress_v2",
}
NOT_COMPARED = {
    "CUlaunchAttributeValue.align": "ours: stands for the pointers that we left out",
    "CUmemPoolProps.reserved": "CUDA 13 takes a byte of it",
}
OTHERS_DECIDE = re.compile(  # NVML's verbs that change a card, whatever they change
    r"nvml(Device(Set|Clear|Reset|Freeze|Remove|Modify|Discover|Create|Workload\w*(Set|Clear|Update)|PowerSmoothing|Lock"
    r"|ReadWrite|VgpuForce)|UnitSet|SystemSet|GpuInstance(Destroy|Create|Set)|ComputeInstanceDestroy|SetVgpu|GpmSet"
    r"|VgpuInstance(Set|Clear))"
)


def _functions(path: Path) -> Iterator[tuple[str, str, str]]:
    """(macro, name, parameters) of a list of functions."""
    for line in path.read_text().splitlines():
        match = re.match(r"(CUDA_FN\w*|NVML_\w+)\((\w+), (\(.*?\))[,)]", line)
        if match:
            yield match[1], match[2], match[3]


def _names(path: Path) -> Iterator[tuple[str, str]]:
    """Every exported name with its parameters: variants, too."""
    for macro, name, parameters in _functions(path):
        yield name, parameters
        if macro in {"CUDA_FN_PTSZ", "CUDA_FN_PTDS"}:
            yield name + macro[-5:].lower(), parameters


def _structs(*headers: str) -> Iterator[tuple[str, list[str]]]:
    """(type, its members) of the structs and unions in our headers."""
    for header in headers:
        text = re.sub(r"/\*.*?\*/", "", (ABI / header).read_text(), flags=re.S)
        for match in re.finditer(r"typedef (?:struct|union) \w+ \{\n(.*?)\n\} (\w+);", text, re.S):
            outer = re.sub(r"\{[^{}]*\}", "", match[1], flags=re.S)  # members of nested structs are inside a member
            members = re.findall(r"(\w+)(?:\[\w+\])?;", outer)
            yield match[2], [m for m in members if f"{match[2]}.{m}" not in NOT_COMPARED]


def _values(*headers: str) -> list[str]:
    """Names of the values in our headers."""
    names = []
    for header in headers:
        text = re.sub(r"/\*.*?\*/", "", (ABI / header).read_text(), flags=re.S)
        names += [n for body in re.findall(r"enum \{(.*?)\}", text, re.S) for n in re.findall(r"(\w+) =", body)]
        names += re.findall(r"#define (CU_MEM\w+|CU_IPC\w+|CUDA_ARRAY\w+|NVML_FI\w+|NVML_DEVICE\w+) \S", text)
    return names


@pytest.fixture(params=CUDA_WHEELS)
def cuda(request: pytest.FixtureRequest) -> Path:
    """The folder of a real cuda.h."""
    return _header(request.param, "cuda.h")


@pytest.fixture(params=NVML_WHEELS)
def nvml(request: pytest.FixtureRequest) -> Path:
    """The folder of a real nvml.h."""
    return _header(request.param, "nvml.h")


def _header(wheel: str, name: str) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here (cc)")
    folder = folder_of(wheel, name)
    if folder is None:
        pytest.skip(f"no real {name} of {wheel} here: `pip install {wheel}`")
    return folder


def _compile(source: str, folder: Path | None, options: tuple[str, ...], output: Path | None = None) -> str:
    includes = [f"-I{folder}"] if folder else []
    target = ["-o", str(output)] if output else ["-fsyntax-only"]
    done = subprocess.run(
        ["cc", "-std=gnu11", "-w", *options, *includes, f"-I{ABI}", *target, "-xc", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(line for line in done.stderr.splitlines() if "error" in line)


def _redeclaration(header: str, result: str, names: list[tuple[str, str]]) -> str:
    lines = [f"#include <{header}>"]
    for name, parameters in names:
        lines += [f"static void *at_{name} = (void *)&{name};", f"extern {result} {name} {parameters};"]
    return "\n".join(lines)


def _known_there(text: str, names: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    words = set(re.findall(r"\w+", text))
    return [(name, parameters) for name, parameters in names if name in words]


def test_prototypes_of_the_driver_are_those_of_the_real_header(cuda: Path) -> None:
    names = _known_there(declared(cuda, "cuda.h", CUDA_OPTIONS), _names(ABI / "cuda_functions.def"))

    errors = _compile(_redeclaration("cuda.h", "CUresult", names), cuda, CUDA_OPTIONS)

    assert errors == ""
    assert len(names) > 250


def test_prototypes_of_nvml_are_those_of_the_real_header(nvml: Path) -> None:
    names = _known_there(declared(nvml, "nvml.h", NVML_OPTIONS), _names(ABI / "nvml_functions.def"))

    errors = _compile(_redeclaration("nvml.h", "nvmlReturn_t", names), nvml, NVML_OPTIONS)

    assert errors == ""
    assert len(names) > 140


def test_every_function_of_ours_stands_in_a_real_header() -> None:
    there = ""
    for wheels, header, options in ((CUDA_WHEELS, "cuda.h", CUDA_OPTIONS), (NVML_WHEELS, "nvml.h", NVML_OPTIONS)):
        folders = [folder for wheel in wheels if (folder := folder_of(wheel, header))]
        if len(folders) < len(wheels) or shutil.which("cc") is None:
            pytest.skip("not all real headers are here, or no compiler")
        there += "".join(declared(folder, header, options) for folder in folders)
    words = set(re.findall(r"\w+", there))
    ours = {name for path in ABI.glob("*_functions.def") for name, _ in _names(path)}

    assert ours - words == set(IN_NO_HEADER)


def _table(header: str, structs: list[tuple[str, list[str]]], values: list[str]) -> str:
    lines = [f'#include "{header}"', "#include <stddef.h>", "#include <stdio.h>", "int main(void)", "{"]
    for name, members in structs:
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for member in members:
            size = f"sizeof((({name} *)0)->{member})"
            lines.append(f'printf("{name}.{member} %zu %zu\\n", offsetof({name}, {member}), {size});')
    lines += [f'printf("{value} %lld\\n", (long long){value});' for value in values]
    return "\n".join([*lines, "return 0;", "}"])


def _printed(source: str, folder: Path | None, options: tuple[str, ...], program: Path) -> list[str]:
    assert _compile(source, folder, options, program) == ""
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()


def _compare(header: str, ours: str, folder: Path, others: tuple[str, ...], text: str, tmp_path: Path) -> int:
    """Both tables of what both headers know; how many lines they have."""
    words = set(re.findall(r"\w+", text))
    defined = words | set(re.findall(r"#define (\w+)", (folder / header).read_text()))
    structs = [(name, members) for name, members in _structs(ours) if name in words]
    values = [value for value in _values(ours, *others) if value in defined]

    real = _printed(_table(header, structs, values), folder, (), tmp_path / "real")
    mine = _printed(_table(ours, structs, values), None, (), tmp_path / "mine")

    assert mine == real
    return len(real)


def test_sizes_offsets_and_values_of_the_driver_are_the_real_ones(cuda: Path, tmp_path: Path) -> None:
    compared = _compare("cuda.h", "cuda_abi.h", cuda, ("cuda_values.h",), declared(cuda, "cuda.h"), tmp_path)

    assert compared > 350


def test_sizes_offsets_and_values_of_nvml_are_the_real_ones(nvml: Path, tmp_path: Path) -> None:
    compared = _compare("nvml.h", "nvml_abi.h", nvml, (), declared(nvml, "nvml.h", NVML_OPTIONS), tmp_path)

    assert compared > 150


def test_whatever_changes_a_card_is_denied(nvml: Path) -> None:
    there = set(re.findall(r"nvmlReturn_t (nvml\w+)\(", declared(nvml, "nvml.h", NVML_OPTIONS).replace(" (", "(")))
    denied = {name for macro, name, _ in _functions(ABI / "nvml_functions.def") if macro == "NVML_DENIED"}

    assert {name for name in there if OTHERS_DECIDE.match(name)} <= denied


def test_every_denied_function_is_hooked() -> None:
    hooks = set(re.findall(r"^X\((\w+)\)", (ABI.parent / "src/hooks_nvml.def").read_text(), re.M))
    denied = {name for macro, name, _ in _functions(ABI / "nvml_functions.def") if macro == "NVML_DENIED"}

    assert denied <= hooks


def test_no_field_of_nvml_tells_memory_or_use_of_a_card(nvml: Path) -> None:
    fields = re.findall(r"#define NVML_FI_(\w+)", (nvml / "nvml.h").read_text())

    telling = [f for f in fields if re.search(r"FB_|MEMORY_(USED|FREE|TOTAL)|GPU_UTIL|SM_UTIL|PROCESS", f)]

    assert telling == []  # a new one needs a place in native/src/view_usage.c
