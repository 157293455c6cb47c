"""Reads the files that say who may log in how. One line that is not understood refuses the whole load (rule R18)."""

from __future__ import annotations

from pathlib import Path

from forebay.config.access.judges import Judges
from forebay.config.access.shapes import Access, AccessRule, AccessRules, Directory, MapLine, PamService
from forebay.config.draft import Draft
from forebay.config.finding import Report
from forebay.config.source import Place, Source, names_bind_password, without_quoted
from forebay.config.text_file import Files


def read_access(draft: Draft, files: Files, report: Report) -> AccessRules:
    """What auth.hba_file, auth.ident_file and the options of directories say."""
    method = draft.value("auth", "type")
    judges = Judges(PamService(str(draft.value("auth", "pam_service"))))
    own = judges.default if method == "pam" else _directory(draft, report)
    service = 0 if own is None else judges.number(own)
    maps = _maps(draft, files, report) if method == "hba" else ()
    rules = _rules(draft, files, judges, maps, report) if method == "hba" else None
    if rules is None:
        for name in ("hba_file", "ident_file"):
            if draft.value("auth", name):
                report.add("unused_access_file", draft.place("auth", name), name=name)
    iterations = draft.value("auth", "scram_iterations")
    engine = Access(rules, maps, service, iterations if isinstance(iterations, int) else 0)
    return AccessRules(engine, judges.named)


def _rules(
    draft: Draft, files: Files, judges: Judges, maps: tuple[MapLine, ...], report: Report
) -> tuple[AccessRule, ...]:
    place = draft.place("auth", "hba_file")
    path = draft.value("auth", "hba_file")
    if not path:
        report.add("hba_without_file", draft.place("auth", "type"))
        return ()
    names = {line.map for line in maps}
    # Most configurations have no such file, and need not load what reads one.
    from forebay.config.access.hba import read_rule
    from forebay.config.access.records import RecordReader

    reader = RecordReader(files, report, is_pgbouncers=place.source.is_ini)
    read = [read_rule(record, names, judges, report) for record in reader.read(Path(str(path)), place)]
    rules = tuple(rule for rule in read if rule is not None)
    if not rules and not report.has_errors:
        report.add("no_access_rules", place, path=path)
    return rules


def _maps(draft: Draft, files: Files, report: Report) -> tuple[MapLine, ...]:
    path, place = draft.value("auth", "ident_file"), draft.place("auth", "ident_file")
    if not path:
        return ()
    from forebay.config.access.ident import read_line
    from forebay.config.access.records import RecordReader

    reader = RecordReader(files, report, is_pgbouncers=place.source.is_ini)
    read = [read_line(record, report) for record in reader.read(Path(str(path)), place)]
    return tuple(line for line in read if line is not None)


def _directory(draft: Draft, report: Report) -> Directory | None:
    """The directory of auth.ldap_options; None where nobody asks it."""
    if draft.value("auth", "type") != "ldap":
        return None
    written, place = str(draft.value("auth", "ldap_options") or ""), draft.place("auth", "ldap_options")
    if not written:
        report.add("ldap_without_options", draft.place("auth", "type"))
        return None
    return _from_options(written, place, report)


def _from_options(written: str, place: Place, report: Report) -> Directory | None:
    from forebay.config.access.directory import DirectoryFault, directory
    from forebay.config.access.records import records

    inner = Report()
    options: dict[str, str] = {}
    # What stands behind a password may be a piece of it.
    behind: set[str] = set()
    has_password = False

    def refused(cause: str, name: str) -> None:
        report.add("bad_ldap_options", place, cause=without_quoted(cause) if name in behind else cause)

    for record in records(Source(place.source.path, written), inner):
        for token in (token for field in record.fields for token in field):
            name, equals, value = token.text.partition("=")
            has_password = has_password or names_bind_password(token.text)
            if has_password:
                behind.add(name)
            if not equals:
                refused(f'"{name}" is no option, which is written name=value', name)
                return None
            options[name] = value
    if inner.has_errors:
        report.add("bad_ldap_options", place, cause=inner.findings[0].message)
        return None
    try:
        return directory(options)
    except DirectoryFault as fault:
        refused(str(fault), fault.option)
        return None
