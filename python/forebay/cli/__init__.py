"""The `forebay` command: a file a verb, loaded when the verb is used.

The command group is `root`; `VERBS` is the registration: one line for each verb. A verb's module defines a click
command called `command` and imports what it needs itself, so that `forebay --version` stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import click

from forebay import __version__
from forebay.failure import Failure, sentence_for

VERBS: dict[str, str] = {
    "check": "forebay.cli.check",
    "classify": "forebay.cli.classify",
    "explain": "forebay.cli.explain",
    "init": "forebay.cli.init",
    "pins": "forebay.cli.pins",
    "run": "forebay.cli.run",
    "up": "forebay.cli.up",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (module := VERBS.get(cmd_name)) is None:
            return None
        loaded: click.Command = importlib.import_module(module).command
        return loaded


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="forebay", message="%(prog)s %(version)s")
def root() -> None:
    """A connection pooler for PostgreSQL."""


def main() -> None:
    """Runs the command line; ends the process with the exit codes of `Exit`."""
    raise SystemExit(guarded(lambda: root.main(standalone_mode=False)))


def guarded(act: Callable[[], Any]) -> int:
    """Runs `act` and turns what it raises into a sentence on standard error and an exit code."""
    try:
        result = act()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except click.Abort:
        return 130
    except Failure as failure:
        click.echo(sentence_for(failure), err=True)
        return failure.exit.value
    return result if isinstance(result, int) else 0
