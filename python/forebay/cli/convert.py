"""`forebay convert`: a pgbouncer.ini as a forebay.toml."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from forebay.config import render
from forebay.config.convert import NoIni, NotTheSame, convert, secrets_folder
from forebay.failure import Failure


@click.command("convert")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file to write; one that exists is left as it is. By default it is printed.",
)
@click.option(
    "--inline-secrets",
    is_flag=True,
    help="Write passwords of databases and those of auth_file into the text, instead of referring to files.",
)
def command(config: Path, output: Path | None, inline_secrets: bool) -> None:
    """Convert pgbouncer.ini into a forebay.toml that does the same.

    Comments tell what has another name, what is different and what has no effect. auth_file is referred to. Passwords
    that stand in [databases] go to files beside the output, in FILE's name with .secrets. What is written is read back
    first, and compared. Root gives the files to the owner of CONFIG. The exit status is 1 for an ini with an error.
    """
    try:
        made = convert(config, target=output, inline_secrets=inline_secrets)
    except NoIni:
        raise Failure(f"{config} is no pgbouncer.ini", hint="A forebay.toml needs no conversion.") from None
    except NotTheSame as fault:
        hint = "This is a fault of forebay's: please report it, with the ini. `forebay run` takes the ini as it is."
        raise Failure(f"the forebay.toml would not do what {config} does: {fault}", hint=hint) from None
    if made.text is None:
        errors = [finding for finding in made.findings if finding.is_error]
        raise Failure(f"{config} can't be used\n{render(errors).rstrip()}")
    if output is None:
        click.echo(made.text, nl=False)
        if made.secrets:
            click.echo(f"not written: {_listed(made.secrets)}; -o FILE writes them, each with its password", err=True)
        return
    texts = {output: made.text} | {output.parent / name: text for name, text in made.secrets.items()}
    _write(texts, secrets=output.parent / secrets_folder(output), owner=config.stat())
    click.echo(f"wrote {_listed(texts)}")
    if made.without_effect:
        count = made.without_effect
        click.echo(f"{count} {'line has' if count == 1 else 'lines have'} no effect: see the end of {output}")
    click.echo(f"next: forebay check {output}, then forebay run {output}")


def _write(texts: Mapping[Path, str], *, secrets: Path, owner: os.stat_result) -> None:
    """Writes files that only their owner may read, all or none.

    secrets: a folder that is made for some of them. owner: whose they are to be, for root may give them away.
    """
    for path in texts:
        if path.exists():
            raise Failure(f"{path} exists already, and is left as it is", hint="Name another one with -o.")
    written: list[Path] = []
    try:
        for path, text in texts.items():
            if path.parent == secrets and not secrets.exists():
                secrets.mkdir(mode=0o700)
                _give(secrets, owner)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
            _give(path, owner)
    except OSError as error:
        for path in written:
            path.unlink()
        raise Failure(f"{error.filename or path} can't be written: {error.strerror}") from None


def _give(path: Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def _listed(names: Iterable[Path | str]) -> str:
    return ", ".join(str(name) for name in names)
