"""Routes of the instructor pages: (pattern below the prefix, handler)."""

from __future__ import annotations

from tornado.web import RequestHandler

ROUTES: list[tuple[str, type[RequestHandler]]] = []
