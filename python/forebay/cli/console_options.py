"""Where the console of a running forebay is, as verbs that ask it are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from forebay.config import load, render
from forebay.control import console_link
from forebay.failure import Failure


def console_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --dsn and --config."""
    dsn = click.option(
        "--dsn", metavar="DSN", help="Connection string of the console; its database is forebay by default."
    )
    config = click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        help="The configuration that forebay runs with; its first console admin or viewer asks.",
    )
    return dsn(config(verb))


def console_parameters(dsn: str | None, config: str | None, *, user: str | None = None) -> dict[str, Any]:
    """libpq's parameters. Raises UsageError unless one of both is given, and Failure for one that can't be used.

    user: who logs in, in place of whom the one that is given says.
    """
    if (dsn is None) == (config is None):
        raise click.UsageError("Say where the console is: give either --config or --dsn.")
    if dsn is not None:
        given = console_link.from_dsn(dsn)
        # The password of another user is of no use.
        return given if user is None else {**given, "user": user, "password": None}
    loaded = load(str(config))
    if loaded.config is None:
        errors = [finding for finding in loaded.findings if finding.is_error]
        hint = "Name the console by --dsn instead: that needs no configuration, and none of forebay's secrets."
        raise Failure(f"the configuration can't be used\n{render(errors).rstrip()}", hint=hint)
    return console_link.from_config(loaded.config.engine, user=user)
