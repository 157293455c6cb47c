"""`forebay upgrade`: the running pooler gives its place, and its connections, to a new process."""

from __future__ import annotations

import os

import click

from forebay.control.source import ConfigurationRefused, FileSource
from forebay.failure import Failure


@click.command("upgrade")
@click.argument("config", type=click.Path())
def command(config: str) -> None:
    """Restart the pooler of CONFIG without losing a connection.

    The program and the configuration are those that are there by now. Clients stay connected: idle ones, those in a
    transaction with their servers, those that wait. If the new process can't start, the running one goes on as it was.
    """
    # Loaded here: the engine is behind it.
    from forebay.config import render
    from forebay.control.succession import ask_upgrade, meeting_place

    try:
        # The new process fetches the secrets, in the environment of the running one.
        configuration = FileSource(config, os.environ, is_fetching=False).load()
    except ConfigurationRefused as refused:
        raise Failure(
            f"the configuration can't be used\n{render(refused.findings).rstrip()}",
            hint="The running process is as it was. `forebay check` prints the same findings.",
        ) from None
    said = ask_upgrade(meeting_place(configuration.config.engine))
    who = f"process {said['pid']} (forebay {said['version']})"
    click.echo(f"{who} serves; {said['clients']} clients moved in {said['seconds']} s")
    if said["left"]:
        click.echo(f"{said['left']} can't move; the process before lets them go as their transactions end")
