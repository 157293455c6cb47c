"""`forebay run`: the pooler, in the foreground."""

from __future__ import annotations

import os

import click

from forebay.cli.serving import serve
from forebay.control.source import FileSource
from forebay.control.succession import SUCCEED, Successor


@click.command("run")
@click.argument("config", type=click.Path())
@click.option(
    "--load", multiple=True, metavar="FILE", help="Python file or module with @forebay.secret_source functions."
)
@click.option(
    "--take-over", is_flag=True, help="Take over from the pooler that runs with CONFIG: see `forebay upgrade`."
)
def command(config: str, load: tuple[str, ...], take_over: bool) -> None:
    """Run the pooler with CONFIG (forebay.toml or pgbouncer.ini).

    \b
    Signals: TERM  stop; transactions may end (limits.drain_timeout)
             INT   stop quickly; a second one at once
             QUIT  stop at once
             HUP   reload CONFIG: applied whole, or not at all
             USR1  open log.file anew
    """
    place = os.environ.pop(SUCCEED, None)
    successor = Successor(f"\0{place}" if place else None) if place or take_over else None
    serve(FileSource(config, os.environ), load=load, successor=successor, gives_place=True)
