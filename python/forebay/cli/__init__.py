"""The `forebay` command: a file a verb, loaded when the verb is used.

The command group is `root`; `VERBS` is the registration: one line for each verb. A verb's module defines a click
command called `command` and imports what it needs itself, so that `forebay --version` stays quick.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import click

from forebay import __version__
from forebay.failure import Exit, Failure, sentence_for

VERBS: dict[str, str] = {
    "check": "forebay.cli.check",
    "classify": "forebay.cli.classify",
    "convert": "forebay.cli.convert",
    "drill": "forebay.cli.drill",
    "explain": "forebay.cli.explain",
    "init": "forebay.cli.init",
    "pins": "forebay.cli.pins",
    "run": "forebay.cli.run",
    "switchover": "forebay.cli.switchover",
    "up": "forebay.cli.up",
    "upgrade": "forebay.cli.upgrade",
}


BEGINNINGS = [
    ("forebay up", "a PostgreSQL with forebay before it, to try it out"),
    ("forebay up --server DSN", "forebay before a database that exists"),
    ("forebay init", "a configuration of one's own; then forebay check forebay.toml, forebay run forebay.toml"),
]
EXITS = {
    Exit.OK: "done",
    Exit.FINDINGS: "it can't be done as asked, or there are findings: standard error says why",
    Exit.USAGE: "the command line can't be understood",
    Exit.CANNOT_REACH: "a database or the console can't be reached",
    Exit.TIMEOUT: "it took too long",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in any group, with the verb that was meant when there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as wrong:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{wrong.message} Did you mean {near[0]!r}?", ctx) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where to begin, and what scripts need."""
        with formatter.section("Begin with"):
            formatter.write_dl(BEGINNINGS)
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code.value), words) for code, words in EXITS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="forebay", message="%(prog)s %(version)s")
def root() -> None:
    """A connection pooler for PostgreSQL.

    `forebay COMMAND --help` tells more of a command.
    """


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
