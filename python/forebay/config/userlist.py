"""The users of `auth.file`, which has PgBouncer's form: a line "user" "secret" each."""

from __future__ import annotations

from pathlib import Path

from forebay import _engine
from forebay.config import tree
from forebay.config.finding import Report
from forebay.config.secret import exposure
from forebay.config.source import Place
from forebay.config.text_file import Files
from forebay.config.tree import Entry


def read_userlist(path: Path, named_at: Place, files: Files, report: Report) -> tuple[Entry, ...]:
    """Each user with a table of its secret; of several lines for a user the last one counts.

    An empty secret is none: the user is known, and that is all. The secrets stand where they belong, so they are no
    finding.
    """
    source = files.source(path, str(path), report, named_at=named_at, holds_secrets=True)
    if source is None:
        return ()
    # Of a text from an earlier load it was said then; its file may be gone.
    if path not in files.before and (mode := exposure(path)):
        report.add("exposed_userlist", named_at, path=path, mode=mode)
    lines = {one.key: one for one in tree.read(source, _engine.parse_userlist, report).entries}
    return tuple(Entry(one.key, one.place, _with_secret(one)) for one in lines.values())


def _with_secret(line: Entry) -> tree.Node:
    if not line.value.value:
        return tree.table(line.place)
    secret = tree.text(str(line.value.value), line.value.place, is_outside=True)
    return tree.table(line.place, Entry("secret", line.place, secret))
