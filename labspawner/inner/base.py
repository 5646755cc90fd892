"""What all addresses of the inner API share: who may ask, and how an answer or a refusal looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from jupyterhub.apihandlers.base import APIHandler

from labspawner.errors import LabError, StoreUnavailable
from labspawner.pages import i18n
from labspawner.sentences import Sentence

if TYPE_CHECKING:
    from labspawner.runtime import Runtime

PREFIX = r"/api/labspawner/v1/"
SCOPE = "custom:labspawner:console"
"""Held by the console's own token alone. Whoever has it is told everything, so it is given to nobody else."""

NOT_YOURS = Sentence("Only labspawner's own services may ask this.")


class InnerHandler(APIHandler):  # type: ignore[misc]
    """A request of one of our services: JSON in, JSON out, `{"status", "message"}` for a refusal."""

    _accept_cookie_auth = False

    def check_xsrf_cookie(self) -> None:
        """Not needed: only the Authorization header counts."""

    def _record_activity(self, obj: object, timestamp: object = None) -> bool:
        """A service that asks is nobody's activity, and its token needs no write for each question."""
        return False

    async def prepare(self) -> None:
        """Let nobody in but who holds our scope."""
        await super().prepare()
        if self.get_argument("token", None) is not None or not self.has_scope(SCOPE):
            self.set_status(403)
            self.finish(json.dumps({"status": 403, "message": str(NOT_YOURS)}))

    @property
    def runtime(self) -> Runtime:
        """What this hub process has one of. Raises StoreUnavailable until the hub has started it."""
        found = self.users.settings.get("labspawner")
        if found is None:
            raise StoreUnavailable(Sentence("The hub has only just started. Try again in a moment."))
        return cast("Runtime", found)

    def answer(self, facts: Mapping[str, Any], status: int = 200) -> None:
        """The facts as JSON, with the version of this API."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps({"v": 1, **facts}))

    def refuse(self, error: LabError) -> None:
        """What a LabError says, in every language that we speak."""
        self.set_status(error.status_code)
        self.set_header("Cache-Control", "no-store")
        words = {language: i18n.translate(error.message, language) for language in i18n.LANGUAGES}
        self.finish(
            json.dumps(
                {
                    "status": error.status_code,
                    "message": str(error.message),
                    "words": words,
                    "sentence": error.message.to_json(),
                    "reason": error.reason,
                }
            )
        )
