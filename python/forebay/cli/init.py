"""`forebay init`: a commented sample configuration."""

from __future__ import annotations

from pathlib import Path

import click

from forebay.config import init as write_sample
from forebay.failure import Failure


@click.command("init")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("forebay.toml"))
def command(path: Path) -> None:
    """Write a commented sample configuration.

    PATH is the file to write, forebay.toml by default; one that exists is left as it is.
    """
    try:
        write_sample(path)
    except FileExistsError:
        raise Failure(
            f"{path} exists already, and is left as it is", hint="Name another one: forebay init PATH."
        ) from None
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None
    click.echo(f"wrote {path}; next: forebay check {path}, then forebay run {path}")
