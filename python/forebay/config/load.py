"""From a file to a configuration and its findings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forebay import _engine
from forebay.config import tree
from forebay.config.access.load import read_access
from forebay.config.draft import Draft, DraftReader
from forebay.config.environment import overrides, substitute
from forebay.config.finding import Finding, Report, in_order
from forebay.config.importers import pgbouncer
from forebay.config.importers.process import DropIn
from forebay.config.resolve import Config, resolve
from forebay.config.rules import RULES
from forebay.config.secret import SecretReader
from forebay.config.source import Source
from forebay.config.text_file import Files
from forebay.config.userlist import read_userlist

if TYPE_CHECKING:
    from forebay.config.advice.facts import Facts


@dataclass(frozen=True, slots=True)
class Loaded:
    """config: None where a finding is an error. draft: None where nothing could be read."""

    config: Config | None
    findings: tuple[Finding, ...]
    draft: Draft | None = None


def load(
    path: str | Path,
    *,
    environ: Mapping[str, str] | None = None,
    drop_in: DropIn | None = None,
    is_fetching: bool = True,
) -> Loaded:
    """Reads forebay.toml, or pgbouncer.ini, known by its suffix `.ini` or its section [pgbouncer].

    drop_in: the file is an ini, whatever it looks like, and is read for `forebay-pgbouncer`.
    environ: where `${NAME}`, { env = … } and FOREBAY_* are looked up; os.environ by default.
    is_fetching: secrets are fetched, that is files are read and commands run; or else stand-ins take their places.
    Nothing is raised for a faulty configuration.
    """
    environ = os.environ if environ is None else environ
    report = Report()
    files = drop_in.files if drop_in is not None else Files()
    source = files.source(Path(path), str(path), report)
    if source is None:
        return Loaded(None, report.findings)
    folder = Path(path).absolute().parent
    process = None
    if drop_in is not None or source.is_ini:
        ini = tree.read(source, _engine.parse_ini, report)
        root, process = pgbouncer.translate(ini, folder, report, drop_in)
    else:
        root = substitute(tree.read(source, _engine.parse_toml, report), environ, report)
    if report.has_errors and not root.entries:
        return Loaded(None, report.findings)
    bound = drop_in.bound if drop_in is not None else None
    draft = Draft(source.whole(), folder, process=process, bound=bound)
    return _from_tree(root, draft, environ, files, report, is_fetching=is_fetching)


def load_text(text: str, *, folder: str | Path = ".", environ: Mapping[str, str] | None = None) -> Loaded:
    """The same for the text of a forebay.toml that stands in no file; `folder` is where relative paths start."""
    environ = os.environ if environ is None else environ
    report = Report()
    source = Source("<text>", text)
    root = substitute(tree.read(source, _engine.parse_toml, report), environ, report)
    if report.has_errors and not root.entries:
        return Loaded(None, report.findings)
    return _from_tree(root, Draft(source.whole(), Path(folder).absolute()), environ, Files(), report)


def advised(loaded: Loaded, facts: Facts | None = None) -> list[Finding]:
    """What there is to say of a configuration, advice included, by file and line. facts: what is known of its world."""
    # Whoever starts is given no advice, and need not load it.
    from forebay.config.advice import advise
    from forebay.config.advice.facts import Facts

    advice = advise(loaded.draft, facts or Facts()) if loaded.draft is not None else ()
    return in_order((*loaded.findings, *advice))


def check(path: str | Path, *, environ: Mapping[str, str] | None = None, facts: Facts | None = None) -> list[Finding]:
    """Every finding of the configuration in a file, as `advised` has them; empty where there is nothing to say."""
    return advised(load(path, environ=environ), facts)


def _from_tree(
    root: tree.Node,
    draft: Draft,
    environ: Mapping[str, str],
    files: Files,
    report: Report,
    *,
    is_fetching: bool = True,
) -> Loaded:
    reader = DraftReader(draft, SecretReader(draft.base, environ, report, is_fetching), report)
    reader.tree(root)
    reader.overrides(overrides(environ, report))
    if userlist := draft.value("auth", "file"):
        reader.userlist(read_userlist(Path(str(userlist)), draft.place("auth", "file"), files, report))
    draft = replace(draft, access=read_access(draft, files, report))
    for rule in RULES:
        rule(draft, report)
    return Loaded(None if report.has_errors else resolve(draft), report.findings, draft)
