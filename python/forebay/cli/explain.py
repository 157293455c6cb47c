"""`forebay explain`: what a code means, and what to do about it."""

from __future__ import annotations

import difflib
import re
import textwrap

import click

from forebay._generated.pages import PAGES, Page
from forebay.failure import Failure

WIDTH = 88


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain the code of an error or a finding, such as FB301.

    CODE stands at the end of a hint, in a line of the log or before a finding; its name will do as well. Prints what
    it means, when it comes and what to do about it. Without a code, lists all of them. The exit status is 1 for a
    code that does not exist.
    """
    if code is None:
        click.echo(_listing(), nl=False)
    else:
        click.echo(_rendered(_page(code)), nl=False)


def _page(written: str) -> Page:
    """The page of a code, or of the name that stands beside it in the log and in the reference."""
    wanted = written.strip("().").upper()
    by_name = {page.name.upper(): page for page in PAGES.values()}
    found = PAGES.get(wanted) or by_name.get(wanted)
    if found is not None:
        return found
    near = difflib.get_close_matches(wanted, [*PAGES, *by_name], n=1, cutoff=0.5)
    meant = (by_name.get(near[0]) or PAGES[near[0]]) if near else None
    hint = f"Did you mean {meant.code} ({meant.name})? " if meant else ""
    raise Failure(f'there is no code "{written}"', hint=f"{hint}`forebay explain` lists all of them.")


def _listing() -> str:
    width = max(len(page.name) for page in PAGES.values())
    return "".join(f"{page.code:<6}  {page.name:<{width}}  {_words(page.message)}\n" for page in PAGES.values())


def _rendered(page: Page) -> str:
    kind = f"{page.severity}, SQLSTATE {page.sqlstate}" if page.sqlstate else f"{page.severity} of `forebay check`"
    parts = [f"{page.code} {page.name} ({kind})", _indented(_words(page.message))]
    for label, text in (("Detail", page.detail), ("Hint", page.hint)):
        if text:
            parts.append(_indented(f"{label}: {_words(text)}"))
    parts.append(f"What it means\n{_indented(page.why)}")
    parts.append(f"What to do\n{_indented(page.fix)}")
    if page.example:
        parts.append(f"Example\n{textwrap.indent(page.example, '    ')}")
    return "\n\n".join(parts) + "\n"


def _words(text: str) -> str:
    """A message with its placeholders as <placeholders>."""
    marked = text.replace("{{", "\0").replace("}}", "\1")
    return re.sub(r"\{(\w+)\}", r"<\1>", marked).replace("\0", "{").replace("\1", "}")


def _indented(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
