"""One registered plugin, as the kubelet speaks to it: it asks, and follows the list of its devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc

from labspawner.gpu.agent import wire
from labspawner.gpu.agent.wire import decode, encode

T = TypeVar("T")
_QUICK_S = 60.0
_SLOW_S = 120.0


class Plugin:
    """A plugin's socket. changed: called with each list of devices, and with None when the plugin is gone."""

    def __init__(self, socket: Path, resource: str, changed: Callable[[Plugin, wire.DeviceList | None], None]) -> None:
        self.socket, self.resource, self._changed = socket, resource, changed
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.enable_http_proxy", 0)])
        self._stream: Any = None
        self._thread: threading.Thread | None = None
        self.options = wire.Options()

    def ask_options(self, timeout_s: float) -> wire.Options:
        """What it wants to be asked; waits for its socket. Raises grpc.RpcError."""
        self.options = self._call("GetDevicePluginOptions", wire.Options, wire.Empty(), timeout_s, wait_for_ready=True)
        return self.options

    def follow(self) -> None:
        """Listen to its list of devices from now on."""
        method = self._channel.unary_stream(
            f"/{wire.DEVICE_PLUGIN}/ListAndWatch", encode, partial(decode, wire.DeviceList)
        )
        self._stream = method(wire.Empty())
        self._thread = threading.Thread(target=self._listen, name=f"follows-{self.socket.name}", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for devices in self._stream:
                self._changed(self, devices)
        except grpc.RpcError:
            pass
        self._changed(self, None)

    def prefer(self, available: tuple[str, ...], must_include: tuple[str, ...], size: int) -> tuple[str, ...]:
        """Which of the devices it would rather give. Raises grpc.RpcError."""
        asked = wire.PreferenceRequest((wire.ContainerPreference(available, must_include, size),))
        return self._call("GetPreferredAllocation", wire.PreferenceResponse, asked, _QUICK_S).containers[0].ids

    def allocate(self, ids: tuple[str, ...]) -> wire.ContainerAnswer:
        """What a container with these devices gets. Raises grpc.RpcError."""
        asked = wire.AllocateRequest((wire.DeviceIds(ids),))
        return self._call("Allocate", wire.AllocateResponse, asked, _SLOW_S).containers[0]

    def close(self) -> None:
        """Hang up; the plugin sees its stream end. Safe to repeat."""
        if self._stream is not None:
            self._stream.cancel()
        self._channel.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_QUICK_S)

    def _call(self, name: str, kind: type[T], message: Any, timeout_s: float, *, wait_for_ready: bool = False) -> T:
        method = self._channel.unary_unary(f"/{wire.DEVICE_PLUGIN}/{name}", encode, partial(decode, kind))
        found: T = method(message, timeout=timeout_s, wait_for_ready=wait_for_ready)
        return found
