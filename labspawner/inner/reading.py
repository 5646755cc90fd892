"""What our services may read of the hub: availability, servers, lines, holds, capacity, decisions, and that it changed."""

from __future__ import annotations

ROUTES: list[tuple[str, type]] = []
