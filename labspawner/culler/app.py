"""The culler as a process: its settings, its loop, its way out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from typing import Any

from traitlets import Bool, Float, Int, TraitError, Unicode, default, validate
from traitlets.config import Application

from labspawner.culler.hub import Hub
from labspawner.culler.passes import Passes
from labspawner.culler.sweep import Rules, Sweep
from labspawner.culling import CullPolicy
from labspawner.store import Store

_LOOK_AT_HUB_S = 1.0


class Culler(Application):
    """Stops servers that are idle, too old or stuck, as the policy of each one's profile says.

    Run by JupyterHub as a managed service (see labspawner.culler.service), or by hand with JUPYTERHUB_API_URL and
    JUPYTERHUB_API_TOKEN in the environment.
    """

    name = "labspawner-culler"
    description = __doc__

    interval_s = Float(
        60.0,
        help="Seconds from the end of one pass to the next, e.g. 30. An idle server is stopped at "
        "most this much after its limit; the hub itself learns of activity every 5 minutes only.",
    ).tag(config=True)
    dry_run = Bool(False, help="Decide, log and record (applied: false), but stop nothing.").tag(config=True)
    once = Bool(False, help="One pass, then exit: with 0, or with 1 if the hub or the store did not answer.").tag(
        config=True
    )
    concurrency = Int(
        10,
        help="Stops in flight at most, over all users, e.g. 20. The hub waits up to 10 s for a slow stop, so with 1 a "
        "class of 100 takes a quarter of an hour; with too many, one class's end makes the hub slow for another.",
    ).tag(config=True)
    store_url = Unicode(
        help="The database of leases, as SQLAlchemy writes it, e.g. sqlite:////srv/lab/labspawner.sqlite. Default: "
        "LABSPAWNER_STORE_URL; prefer that, since it may hold a password and a command line is public."
    ).tag(config=True)
    hub_id = Unicode(help="The hub whose leases count, e.g. campus. Default: LABSPAWNER_HUB_ID.").tag(config=True)
    stuck_after_s = Float(
        1800.0,
        help="Seconds after which a start or stop that the hub still calls pending is stuck, e.g. 3600; 0: never. "
        "Waiting in line for a free place does not count. The default is longer than any usual start_timeout.",
    ).tag(config=True)
    default_after_s = Float(
        0.0,
        help="Idle limit in seconds for servers without a lease and profiles without a policy, e.g. 3600. The default, "
        "0, keeps them: they may be of another spawner, whose users were promised nothing of the kind.",
    ).tag(config=True)
    default_max_age_s = Float(0.0, help="Like default_after_s, for the age since start, e.g. 86400; 0: no limit.").tag(
        config=True
    )
    request_timeout_s = Float(
        60.0, help="Seconds for one request to the hub, e.g. 30; above the hub's slow_stop_timeout (10 s)."
    ).tag(config=True)
    config_file = Unicode("", help="A file of traitlets settings to read, e.g. /etc/labspawner/culler.py.").tag(
        config=True
    )

    aliases: dict[str, Any] = {
        **Application.aliases,
        "interval": "Culler.interval_s",
        "concurrency": "Culler.concurrency",
        "store-url": "Culler.store_url",
        "hub-id": "Culler.hub_id",
        "stuck-after": "Culler.stuck_after_s",
        "default-after": "Culler.default_after_s",
        "default-max-age": "Culler.default_max_age_s",
        "config": "Culler.config_file",
    }
    flags: dict[str, Any] = {
        **Application.flags,
        "dry-run": ({"Culler": {"dry_run": True}}, dry_run.help),
        "once": ({"Culler": {"once": True}}, once.help),
    }

    @default("store_url")
    def _store_url_default(self) -> str:
        return os.environ.get("LABSPAWNER_STORE_URL", "")

    @default("hub_id")
    def _hub_id_default(self) -> str:
        return os.environ.get("LABSPAWNER_HUB_ID", "")

    @default("log_level")
    def _log_level_default(self) -> int:
        return logging.INFO

    @default("log_format")
    def _log_format_default(self) -> str:
        return "[%(levelname)1.1s %(asctime)s culler] %(message)s"

    @validate("interval_s", "concurrency", "request_timeout_s")
    def _above_zero(self, proposal: Any) -> Any:
        if not proposal.value > 0:
            raise TraitError(f"{proposal.trait.name} must be above 0, not {proposal.value}")
        return proposal.value

    @validate("stuck_after_s", "default_after_s", "default_max_age_s")
    def _zero_or_more(self, proposal: Any) -> Any:
        if not proposal.value >= 0:
            raise TraitError(f"{proposal.trait.name} must be 0 (off) or more seconds, not {proposal.value}")
        return proposal.value

    def initialize(self, argv: list[str] | None = None) -> None:
        super().initialize(argv)
        if self.config_file:
            self.load_config_file(self.config_file)
            self.parse_command_line(argv)  # what is typed wins over the file

    def rules(self) -> Rules:
        """The settings as frozen data."""
        by_default = CullPolicy(after_s=self.default_after_s or None, max_age_s=self.default_max_age_s or None)
        return Rules(
            hub_id=self.hub_id,
            concurrency=self.concurrency,
            dry_run=self.dry_run,
            stuck_after_s=self.stuck_after_s or None,
            default=by_default if by_default != CullPolicy() else None,
        )

    def start(self) -> None:
        """Run until SIGTERM or SIGINT (or for one pass), then exit."""
        needed = {
            "JUPYTERHUB_API_URL": os.environ.get("JUPYTERHUB_API_URL"),
            "JUPYTERHUB_API_TOKEN": os.environ.get("JUPYTERHUB_API_TOKEN"),
            "--store-url or LABSPAWNER_STORE_URL": self.store_url,
            "--hub-id or LABSPAWNER_HUB_ID": self.hub_id,
        }
        if missing := [name for name, value in needed.items() if not value]:
            self.exit_with(f"not set: {', '.join(missing)}. JupyterHub sets them for a managed service.")
        self.exit(asyncio.run(self.serve()))

    def exit_with(self, message: str) -> None:
        self.log.error(message)
        self.exit(2)

    async def serve(self) -> int:
        """Pass after pass until told to stop; the exit status."""
        store = Store.open(self.store_url)
        hub = Hub(
            os.environ["JUPYTERHUB_API_URL"],
            os.environ["JUPYTERHUB_API_TOKEN"],
            connections=self.concurrency,
            timeout_s=self.request_timeout_s,
            ssl_context=internal_ssl(),
        )
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        if os.environ.get("JUPYTERHUB_SERVICE_NAME"):
            outliving = asyncio.ensure_future(_hub_gone(os.getppid(), stopping))
        else:
            outliving = None
        try:
            sweep = Sweep(hub, store, self.rules(), log=self.log)
            passes = Passes(sweep, store.migrate, log=self.log, interval_s=self.interval_s)
            return await passes.run(stopping, once=self.once)
        finally:
            if outliving is not None:
                outliving.cancel()
            hub.close()
            await store.close()


async def _hub_gone(parent: int, stopping: asyncio.Event) -> None:
    """Stop when the hub that started us is no more: the next one starts a culler of its own, and our token is void."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells when a parent dies
        await asyncio.sleep(_LOOK_AT_HUB_S)
    stopping.set()


def internal_ssl() -> ssl.SSLContext | None:
    """What JupyterHub's `internal_ssl` gives a managed service; None where it is off."""
    keyfile, certfile = os.environ.get("JUPYTERHUB_SSL_KEYFILE"), os.environ.get("JUPYTERHUB_SSL_CERTFILE")
    if not keyfile or not certfile:
        return None
    context = ssl.create_default_context(cafile=os.environ.get("JUPYTERHUB_SSL_CLIENT_CA"))
    context.load_cert_chain(certfile, keyfile)
    return context
