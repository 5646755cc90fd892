"""What `labspawner doctor` finds, beside the hub that runs: one examination at a time, begun when somebody asks for it."""

from __future__ import annotations

from labspawner.doctor import Examiner
from labspawner.errors import LabError
from labspawner.inner.base import InnerHandler

KEY = "labspawner_doctor"


class DoctorHandler(InnerHandler):
    """`GET doctor`: the last examination as far as it has come, null before the first. `POST doctor`: begin one, or join
    the one that runs."""

    async def get(self) -> None:
        try:
            last = self._examiner().last
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({"examination": last.to_json() if last else None})

    async def post(self) -> None:
        try:
            begun = self._examiner().begin()
        except LabError as exc:
            self.refuse(exc)
        else:
            self.answer({"examination": begun.to_json()}, status=202)

    def _examiner(self) -> Examiner:
        """The one of this hub. Raises StoreUnavailable until the hub has started."""
        kept = self.users.settings
        if KEY not in kept:
            kept[KEY] = Examiner(self.runtime.settings)
        found: Examiner = kept[KEY]
        return found


ROUTES: list[tuple[str, type]] = [(r"doctor", DoctorHandler)]
