"""Imported by the small programs of the stub's and the view's tests: the driver through ctypes.

`cu.cuInit(0)` gives the driver's code; `ok(cu.cuInit(0))` insists on success. `cu` loads libcuda.so.1 at its first use.
"""

import ctypes
import json
import os
import sys
import time
from ctypes import byref, c_double, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p

MIB = 2**20
__all__ = [
    "MIB", "alloc", "byref", "c_double", "c_float", "c_int", "c_size_t", "c_uint", "c_uint64", "c_void_p", "context",
    "ctypes", "cu", "event", "function", "json", "launch", "ok", "os", "say", "stream", "sys", "time", "wait_for_line",
]  # fmt: skip


class _Driver:
    def __getattr__(self, name):
        if "library" not in self.__dict__:
            self.__dict__["library"] = ctypes.CDLL("libcuda.so.1")
        return getattr(self.__dict__["library"], name)


cu = _Driver()


def ok(code):
    assert code == 0, f"the driver said {code}"


def say(value):
    print(json.dumps(value), flush=True)


def wait_for_line():
    """Until the test writes a line, or goes away."""
    return sys.stdin.readline()


def context(device=0):
    """cuInit, and the primary context of a card as the current one."""
    ctx = c_void_p()
    ok(cu.cuInit(0))
    ok(cu.cuDevicePrimaryCtxRetain(byref(ctx), device))
    ok(cu.cuCtxSetCurrent(ctx))
    return ctx


def alloc(size, call="cuMemAlloc_v2"):
    """(code, address)."""
    address = c_uint64()
    return getattr(cu, call)(byref(address), c_size_t(size)), address


def function(name):
    module, found = c_void_p(), c_void_p()
    ok(cu.cuModuleLoadData(byref(module), b"image"))
    ok(cu.cuModuleGetFunction(byref(found), module, name.encode()))
    return found


def launch(kernel, on=None, grid=1):
    return cu.cuLaunchKernel(kernel, grid, 1, 1, 1, 1, 1, 0, on, None, None)


def event():
    made = c_void_p()
    ok(cu.cuEventCreate(byref(made), 0))
    return made


def stream():
    made = c_void_p()
    ok(cu.cuStreamCreate(byref(made), 0))
    return made
