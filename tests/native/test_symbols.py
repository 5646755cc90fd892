"""Every function of the driver that allocates, imports, maps or launches is hooked, or native/symbols.toml says why not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from native.real_headers import CUDA_WHEELS, folder_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NATIVE = Path(__file__).resolve().parents[2] / "native"
SECTIONS = ("hooked", "truth", "nothing")


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    return tomllib.loads((NATIVE / "symbols.toml").read_text(encoding="utf-8"))


def hooked_names() -> set[str]:
    lists = (path.read_text() for path in (NATIVE / "src").glob("hooks_*.def"))
    return {name for text in lists for name in re.findall(r"^X\((cu\w+)\)", text, re.MULTILINE)}


def exported(header: Path) -> set[str]:
    """The names under which libcuda exports what a header declares: with the suffixes that its macros add."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
    text = re.sub(r"\\\n", " ", re.sub(r"//.*", "", text))
    names = set(re.findall(r"\bCUresult\s+CUDAAPI\s+(\w+)\s*\(", text))
    renamed = r"^\s*#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_PT(DS|SZ)\((\w+)\)|(cu[A-Z]\w+))\s*$"
    for suffix, inner, plain in re.findall(renamed, text, flags=re.MULTILINE):
        names |= {plain} if plain else {inner, f"{inner}_pt{suffix.lower()}"}
    return names


@pytest.fixture(scope="module", params=CUDA_WHEELS)
def exports(request) -> set[str]:
    folder = folder_of(request.param, "cuda.h")
    if folder is None:
        pytest.skip(f"no {request.param} here: `pip install` it, or the extra `dev`")
    return exported(folder / "cuda.h")


def test_each_function_stands_in_one_section_with_a_reason(table):
    names = [name for section in SECTIONS for name in table[section]]

    assert len(names) == len(set(names))
    assert all(reason.strip() for section in SECTIONS for reason in table[section].values())


def test_what_is_called_hooked_is_hooked_and_nothing_else_is(table):
    looks_like_one = re.compile(table["pattern"])

    assert set(table["hooked"]) == {name for name in hooked_names() if looks_like_one.search(name)}


def test_a_header_has_no_function_that_allocates_imports_maps_or_launches_and_is_not_in_the_table(table, exports):
    looks_like_one = re.compile(table["pattern"])
    known = {name for section in SECTIONS for name in table[section]}

    assert len(exports) > 500
    assert {name for name in exports if looks_like_one.search(name)} - known == set()


def test_the_table_names_no_function_that_no_header_has(table):
    folders = [folder for wheel in CUDA_WHEELS if (folder := folder_of(wheel, "cuda.h"))]
    if len(folders) < len(CUDA_WHEELS):
        pytest.skip("needs the headers of CUDA 12.9 and of 13.x: the extra `dev`")
    found = set().union(*(exported(folder / "cuda.h") for folder in folders))

    assert {name for section in SECTIONS for name in table[section]} - found == set()


def test_every_hook_is_a_function_of_some_header():
    folders = [folder for wheel in CUDA_WHEELS if (folder := folder_of(wheel, "cuda.h"))]
    if len(folders) < len(CUDA_WHEELS):
        pytest.skip("needs the headers of CUDA 12.9 and of 13.x: the extra `dev`")
    found = set().union(*(exported(folder / "cuda.h") for folder in folders))

    assert hooked_names() - found == {
        "cuGetProcAddress_ptsz"
    }  # which 13.x declares no more, and programs still ask for
