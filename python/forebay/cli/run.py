"""`forebay run`: the pooler, in the foreground."""

from __future__ import annotations

import os

import click

from forebay.cli.serving import serve
from forebay.control.source import FileSource


@click.command("run")
@click.argument("config", type=click.Path())
@click.option(
    "--load", multiple=True, metavar="FILE", help="Python file or module with @forebay.secret_source functions."
)
def command(config: str, load: tuple[str, ...]) -> None:
    """Run the pooler with CONFIG (forebay.toml or pgbouncer.ini).

    \b
    Signals: TERM  stop; transactions may end (limits.drain_timeout)
             INT   stop quickly; a second one at once
             QUIT  stop at once
             HUP   reload CONFIG: applied whole, or not at all
             USR1  open log.file anew
    """
    serve(FileSource(config, os.environ), load=load)
