"""`forebay up`: a PostgreSQL with forebay in front of it, or forebay in front of one that exists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import click

from forebay._engine import Engine
from forebay.cli.serving import serve
from forebay.control.dsn import parse
from forebay.control.embedded.cluster import EmbeddedServer
from forebay.control.embedded.state import State, default_folder, open_state
from forebay.control.front import Front, front_of_dsn, front_of_embedded
from forebay.control.source import TextSource
from forebay.observe.log import event


@click.command("up")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6432,
    show_default=True,
    help="Where clients connect; 0: any free port.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=9632,
    show_default=True,
    help="Where /metrics is; 0: any free port.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="State folder, with the data and the secrets; by default $XDG_STATE_HOME/forebay, or ~/.local/state/forebay,"
    " and for root /var/lib/forebay.",
)
@click.option("--server", metavar="DSN", help="Put forebay before this database instead of a PostgreSQL of its own.")
@click.option(
    "--load", multiple=True, metavar="FILE", help="Python file or module with @forebay.secret_source functions."
)
def command(port: int, metrics_port: int, data: Path | None, server: str | None, load: tuple[str, ...]) -> None:
    """Start a PostgreSQL with forebay before it.

    Prints the connection string to use; pooling is by transaction. The data stays in the state folder for the next
    start. Ctrl-C stops both, and so does whatever else ends forebay. With --server DSN there is no PostgreSQL of its
    own: the role and the password of the DSN serve clients and server.
    """
    # A DSN that can't be read is told before anything is made.
    dsn = parse(server) if server is not None else None
    state = open_state(data or default_folder())
    with state.locked():
        if dsn is not None:
            _serve(front_of_dsn(dsn, state), state, port, metrics_port, load)
            return
        embedded = EmbeddedServer(state)
        try:
            reached = embedded.start()
            if embedded.had_orphan:
                click.echo("A PostgreSQL that was left running on this data has been stopped, and started anew.")
            front = front_of_embedded(reached, title=f"PostgreSQL {embedded.version}, data in {state.folder}")
            _serve(front, state, port, metrics_port, load, watch=Watch(embedded, state).look)
        finally:
            embedded.stop()


def _serve(
    front: Front,
    state: State,
    port: int,
    metrics_port: int,
    load: tuple[str, ...],
    *,
    watch: Callable[[], None] | None = None,
) -> None:
    source = TextSource(front.toml(port=port, metrics_port=metrics_port), state.folder)

    async def started(engine: Engine) -> None:
        click.echo("\n".join(banner(front, state, engine)))

    tried = front.database if front.is_tried_at_start else None
    serve(source, load=load, started=started, watch=watch, tried=tried)


class Watch:
    """Says once when the embedded server has ended by itself. Data may need a look, so it is not started again."""

    def __init__(self, embedded: EmbeddedServer, state: State) -> None:
        self._embedded = embedded
        self._log = state.folder / "postgres.log"
        self._is_told = False

    def look(self) -> None:
        """Called now and then."""
        if not self._is_told and not self._embedded.is_running():
            self._is_told = True
            event(logging.ERROR, "embedded_server_ended", see=str(self._log), hint="stop forebay up and start it again")


def banner(front: Front, state: State, engine: Engine) -> list[str]:
    """What a user needs next, in fewer than ten lines."""
    address = engine.listeners[0]
    dsn = front.dsn(address, front.database, state.passfile)
    return [
        f"forebay is up: {front.title}",
        f"  DSN      {dsn}",
        f"  console  {front.dsn(address, 'forebay', state.passfile)}",
        f"  metrics  http://{engine.metrics_address}/metrics",
        "try next:",
        f"  psql '{dsn}'",
        f"  psql '{front.dsn(address, 'forebay', state.passfile)}' -c 'SHOW POOLS'",
        "Ctrl-C stops it.",
    ]
