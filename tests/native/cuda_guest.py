"""A program of a student: calls the driver through ctypes, and prints what it found as JSON. One scenario per run.

Runs alone in the slice, with nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

MIB = 2**20
OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE = 2, 3, 100

driver = ctypes.CDLL("libcuda.so.1")
u64, size_t, pointer = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
scenarios: dict[str, Callable[..., Any]] = {}


def scenario(function: Callable[..., Any]) -> Callable[..., Any]:
    scenarios[function.__name__] = function
    return function


class Refused(Exception):
    """The driver said no; args: the code."""


def call(name: str, *arguments: Any) -> None:
    code = getattr(driver, name)(*arguments)
    if code:
        raise Refused(code, name)


def code_of(action: Callable[[], Any]) -> int:
    """0, or the driver's code."""
    try:
        action()
    except Refused as error:
        return int(error.args[0])
    return 0


def begin(number: int = 0) -> pointer:
    call("cuInit", 0)
    context = pointer()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
    call("cuCtxSetCurrent", context)
    return context


def allocate(size: int) -> u64:
    address = u64()
    call("cuMemAlloc_v2", ctypes.byref(address), size_t(size))
    return address


def info() -> tuple[int, int]:
    """Free and total bytes, as the program sees them."""
    free, total = size_t(), size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


@scenario
def limit(size: int) -> Any:
    """Take `size` bytes whole, then one byte more; free, and take it whole again."""
    begin()
    whole = allocate(size)
    full = info()
    more = code_of(lambda: allocate(1))
    call("cuMemFree_v2", whole)
    again = code_of(lambda: call("cuMemFree_v2", allocate(size)))
    return {"full": full, "more": more, "again": again, "empty": info()}


@scenario
def total() -> Any:
    begin()
    size = size_t()
    call("cuDeviceTotalMem_v2", ctypes.byref(size), 0)
    return {"total": size.value, "info": info()}


@scenario
def init() -> Any:
    return driver.cuInit(0)


@scenario
def second_card(size: int) -> Any:
    begin(1)
    return code_of(lambda: allocate(size))


@scenario
def swapped(size: int) -> Any:
    """How much of the first visible card, whatever card that is."""
    begin()
    return {"info": info(), "code": code_of(lambda: allocate(size))}


@scenario
def contexts(size: int) -> Any:
    """Memory goes with its context: destroyed, or the primary one reset or released."""
    begin()
    own = pointer()
    call("cuCtxCreate_v2", ctypes.byref(own), 0, 0)
    allocate(size)
    during, _ = info()
    call("cuCtxDestroy_v2", own)
    destroyed = info()
    allocate(size)
    call("cuDevicePrimaryCtxReset_v2", 0)
    begin()
    reset = info()
    allocate(size)
    call("cuDevicePrimaryCtxRelease_v2", 0)
    call("cuDevicePrimaryCtxRelease_v2", 0) if code_of(lambda: call("cuCtxGetDevice", pointer())) == 1 else None
    begin()
    return {"during": during, "destroyed": destroyed, "reset": reset, "released": info()}


@scenario
def forked(size: int) -> Any:
    """A child of a process that uses the driver: what the driver tells it, and that its parent's memory stays charged."""
    begin()
    allocate(size)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(code_of(lambda: allocate(1))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return {"child": int(os.read(reading, 16)), "free": info()[0]}


@scenario
def forked_before(size: int) -> Any:
    """A child that starts the driver itself, while its parent has it too."""
    child = os.fork()
    if child == 0:
        begin()
        allocate(size)
        os._exit(0 if code_of(lambda: allocate(size)) == OUT_OF_MEMORY else 1)
    _, status = os.waitpid(child, 0)
    begin()
    return {"status": status, "code": code_of(lambda: allocate(size))}


@scenario
def bad_frees() -> Any:
    """What the driver says to wrong frees, and that nothing is given back for them."""
    begin()
    address = allocate(8 * MIB)
    inner = u64(address.value + 512)
    before = info()[0]
    codes = [code_of(lambda: call("cuMemFree_v2", inner)), code_of(lambda: call("cuMemFree_v2", u64(4096)))]
    same = info()[0] == before
    call("cuMemFree_v2", address)
    codes.append(code_of(lambda: call("cuMemFree_v2", address)))
    return {"codes": codes, "same": same, "free": info()}


@scenario
def faulty(size: int) -> Any:
    """The driver fails: its code comes through, and nothing stays charged."""
    begin()
    return {"code": code_of(lambda: allocate(size)), "free": info(), "after": code_of(lambda: allocate(size))}


@scenario
def oversubscribe(size: int) -> Any:
    """More than there is: blocks that are granted, and which of them are managed memory."""
    begin()
    blocks = [allocate(size) for _ in range(4)]
    managed = []
    for block in blocks:
        value = ctypes.c_uint()
        call("cuPointerGetAttribute", ctypes.byref(value), 8, block)  # CU_POINTER_ATTRIBUTE_IS_MANAGED
        managed.append(value.value)
    during = info()
    for block in blocks:
        call("cuMemFree_v2", block)
    return {"managed": managed, "during": during, "after": info()}


@scenario
def unseen(size: int) -> Any:
    """Memory that no hook sees: how much is left after contexts (and modules) took theirs."""
    begin()
    left, _ = info()
    code = code_of(lambda: allocate(left))
    return {"left": left, "code": code, "more": code_of(lambda: allocate(size))}


@scenario
def holds(size: int) -> Any:
    """Take memory, say so, and keep it until the input ends; then take a byte more every 20 ms."""
    begin()
    allocate(size)
    print("holding", flush=True)
    sys.stdin.read()
    for _ in range(3000):
        code_of(lambda: allocate(512))
        time.sleep(0.02)
    return "survived"


@scenario
def refused(size: int) -> Any:
    begin()
    return code_of(lambda: allocate(size))


if __name__ == "__main__":
    print(json.dumps(scenarios[sys.argv[1]](*map(int, sys.argv[2:]))))
