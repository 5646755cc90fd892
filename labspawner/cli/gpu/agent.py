"""`labspawner gpu agent`: share the GPUs of this Kubernetes node as slices of fixed classes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from labspawner.cli.run.sight import pretend_option
from labspawner.errors import LabError
from labspawner.gpu.agent.cards import NodeCards
from labspawner.gpu.agent.layout import Layout, lay_out
from labspawner.gpu.agent.node import NodeDoor
from labspawner.gpu.agent.settings import MIB, AgentSettings, BadSettings, Pool, load_settings

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_EXTRA = "The node agent needs grpcio: pip install 'labspawner[agent]'."


@click.command()
@click.option(
    "--config", "config", type=click.Path(path_type=Path), required=True, help="YAML file: see docs/kubernetes.md."
)
@click.option("--pool", envvar="LABSPAWNER_POOL", help="The node pool of the file that this node is of.")
@click.option("--node", envvar="NODE_NAME", help="This node's name, to publish its inventory. Default: $NODE_NAME.")
@click.option(
    "--api", help="The API server. Default: that of the cluster that this container is in; none: no publishing."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="With --api: the file with the token.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="With --api: the file with its certificate authority.")
@click.option("--check", is_flag=True, help="Say how the cards would be cut, and end; exit status 1 where they cannot.")
@pretend_option
def agent(
    config: Path,
    pool: str | None,
    node: str | None,
    api: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    check: bool,
    pretended: str | None,
) -> None:
    """Share the GPUs of this Kubernetes node: offers slices of fixed classes to the kubelet as labspawner.io/gpu-<class>.

    Runs until SIGTERM; pods keep their slices. On a node without a GPU it says so and waits.
    """
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    try:
        settings = load_settings(config)
        if pretended is not None:
            settings = settings.model_copy(update={"pretend": pretended})
        name, chosen = settings.pool(pool)
        if check:
            _say(_cut(settings, chosen), chosen)
            return
        _serve(settings, name, _door(node, api, token_file, ca_file))
    except (BadSettings, LabError) as exc:
        raise click.ClickException(str(exc.message if isinstance(exc, LabError) else exc)) from exc
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "grpc":
            raise
        raise click.ClickException(_EXTRA) from exc


def _serve(settings: AgentSettings, pool: str, door: NodeDoor | None) -> None:
    from labspawner.gpu.agent.serving import serve  # noqa: PLC0415 - needs grpcio, which other commands do not

    if door is None:
        logging.getLogger(__name__).warning(
            "no API server, or no --node: hubs are not told about the cards of this node"
        )
    serve(settings, pool, door)


def _door(node: str | None, api: str | None, token: Path | None, ca: Path | None) -> NodeDoor | None:
    if api is None:
        return NodeDoor.in_cluster(node)
    if not node:
        raise BadSettings("--api needs --node, or NODE_NAME in the environment")
    return NodeDoor(node=node, url=api, token=token, ca=ca)


def _cut(settings: AgentSettings, pool: Pool) -> Layout:
    cards = NodeCards(pretend=settings.pretend, state=Path(f"/dev/shm/labspawner-check-{os.getpid()}"))  # noqa: S108
    try:
        look = cards.look()
        if look.missing:
            raise BadSettings(look.missing)
        return lay_out(look.inventory, pool)
    finally:
        cards.close()
        if cards.pretended is not None:
            cards.pretended.state.unlink(missing_ok=True)


def _say(layout: Layout, pool: Pool) -> None:
    for card in layout.cards.values():
        counts = {name: sum(unit.card == card.uuid for unit in layout.of_class(name)) for name in pool.classes}
        parts = [
            f"{count} x {name} ({pool.classes[name].memory // MIB} MiB)" for name, count in counts.items() if count
        ]
        left = card.memory_total_bytes - sum(pool.classes[name].memory * count for name, count in counts.items())
        click.echo(f"card {card.index} {card.uuid}: {', '.join(parts)}; {left // MIB} MiB are left")
    for name, why in layout.left_out.items():
        click.echo(f"not shared: {name}: {why}")
    if not layout.cards:
        click.echo("no card is shared")
