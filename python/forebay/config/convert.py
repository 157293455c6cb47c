"""A pgbouncer.ini as the text of a forebay.toml that does the same, with what is to be known of it in comments.

The text is made of the tree that `importers.pgbouncer` gives, so that it says what a start with the ini would do, and
is read back and compared before it is handed out. Secrets are not in it unless that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from forebay import _engine
from forebay._generated.pgbouncer import KNOWN
from forebay._generated.settings import SECTIONS, SETTINGS
from forebay.config import toml_text, tree
from forebay.config.draft import BY_KEY, Draft, default_of
from forebay.config.environment import NAMED_SECTIONS
from forebay.config.finding import Finding, Report
from forebay.config.importers import pgbouncer
from forebay.config.importers.process import TRUTH
from forebay.config.load import load, load_text
from forebay.config.resolve import Config
from forebay.config.secret import Secret
from forebay.config.table_text import Line, table_text
from forebay.config.text_file import Files
from forebay.config.tree import Entry, Node

# Findings that tell what of the ini is without effect; they become comments.
_WITHOUT_EFFECT: Final = ("FBC070", "FBC100")
_NAMED_OTHERWISE: Final = {"secret": "password"}
# A variable of the comparison, in place of each secret.
_STAND_IN: Final = "FOREBAY_CONVERTED_{}"


class NoIni(Exception):
    """The file is a configuration that can be used, and no pgbouncer.ini."""


class NotTheSame(Exception):
    """The text that was written does not give the configuration that the ini gives: a fault of forebay's."""


@dataclass(frozen=True, slots=True)
class Converted:
    """text: of the forebay.toml; None where a finding is an error.

    secrets: files that the text refers to, by their path from its folder, with what they are to hold.
    without_effect: how many settings have none.
    """

    text: str | None
    findings: tuple[Finding, ...]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    without_effect: int = 0


def convert(path: Path, *, target: Path | None, inline_secrets: bool = False) -> Converted:
    """Converts a pgbouncer.ini.

    target: the file that the text is to stand in; None: it may stand anywhere, so that its paths are absolute.
    inline_secrets: passwords of databases and those of auth_file stand in the text.
    Raises NoIni for what is none, and NotTheSame where the text would not do what the ini does.
    """
    report, files = Report(), Files()
    loaded = load(path, environ={})
    source = files.source(path, str(path), report)
    if loaded.config is None or source is None:
        return Converted(None, loaded.findings)
    if not source.is_ini:
        raise NoIni(str(path))
    if not loaded.config.draft.databases:
        # A warning for an ini, which may wait for its first database; a forebay.toml needs one.
        report.add("no_databases", source.whole())
        return Converted(None, report.findings)
    ini = tree.read(source, _engine.parse_ini, report)
    root, _ = pgbouncer.translate(ini, path.absolute().parent, report)
    without_effect = [one for one in loaded.findings if one.code in _WITHOUT_EFFECT]
    writing = _Writing(path, target, inline_secrets, loaded.config, root, without_effect)
    writing.prove()
    secrets: dict[str, str] = {}
    text = writing.text(writing.keeper(secrets))
    return Converted(text, loaded.findings, secrets, len(without_effect))


def secrets_folder(target: Path | None) -> str:
    """The folder beside the target for secrets that the ini itself holds."""
    return f"{target.stem if target else 'forebay'}.secrets"


def same(one: Config, other: Config) -> bool:
    """Whether two configurations do the same; where things were written does not matter."""
    return (
        (one.engine, one.log_format, one.auth_query, one.auth_queries, one.secret_source, one.access, one.ldap_ca)
        == (
            other.engine,
            other.log_format,
            other.auth_query,
            other.auth_queries,
            other.secret_source,
            other.access,
            other.ldap_ca,
        )
    ) and one.draft.value("log", "file") == other.draft.value("log", "file")


# How a secret is written: the name of whose it is, and the secret itself.
SecretText = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class _Writing:
    """One conversion under way. config: what the ini gives; root: the same as the tree of a forebay.toml."""

    path: Path
    target: Path | None
    inline_secrets: bool
    config: Config
    root: Node
    without_effect: Sequence[Finding]

    @property
    def draft(self) -> Draft:
        """What the ini gives, setting by setting."""
        return self.config.draft

    def text(self, secret_text: SecretText) -> str:
        """The whole document."""
        sections = {entry.key: entry.value for entry in self.root.entries}
        parts = [self._head()]
        # A section without settings is a table all the same: [databases] must not be missing.
        for section in (*SECTIONS, *(one for one in sections if one not in SECTIONS)):
            parts.append(self._section(section, sections.get(section, tree.table(self.root.place)), secret_text))
        parts.append(self._tail())
        return "\n".join(part for part in parts if part)

    def _head(self) -> str:
        name = self.target.name if self.target else "forebay.toml"
        included = sorted({one.place.source.path for one in _all(self.root)} - {str(self.path), ""})
        also = f" and {', '.join(included)}" if included else ""
        return (
            f"# Written by `forebay convert` from {self.path}{also}.\n"
            "# A comment behind a setting is its name in PgBouncer, where that is another.\n"
            f"# Next: forebay check {name}, then forebay run {name}\n"
        )

    def _section(self, section: str, table: Node, secret_text: SecretText) -> str:
        if section not in NAMED_SECTIONS:
            lines = self._lines(section, None, table, secret_text)
            return f"[{toml_text.key(section)}]\n{table_text(lines)}" if lines else ""
        parts = []
        for named in self._named(section, table):
            lines = self._lines(section, named, named.value, secret_text)
            above = "".join(f"{line}\n" for line in _comments_above(named))
            parts.append(f"{above}[{section}.{toml_text.key(named.key)}]\n{table_text(lines)}")
        return "\n".join(parts)

    def _named(self, section: str, table: Node) -> Iterator[Entry]:
        """Databases or users; with those of auth_file where its secrets are to stand here."""
        given = {entry.key: entry for entry in table.entries}
        if section != "users" or not self.inline_secrets:
            yield from given.values()
            return
        for name, user in self.draft.users.items():
            entries = given[name].value.entries if name in given else ()
            secret = user.settings.get("secret")
            if secret is not None and isinstance(secret.value, Secret):
                entries = (Entry("secret", self.root.place, tree.text(secret.value.text, self.root.place)), *entries)
            yield Entry(name, given[name].place if name in given else self.root.place, tree.table(user.place, *entries))

    def _lines(self, section: str, named: Entry | None, table: Node, secret_text: SecretText) -> list[Line]:
        return [line for one in _in_order(section, table) for line in self._line(section, named, one, secret_text)]

    def _line(self, section: str, named: Entry | None, entry: Entry, secret_text: SecretText) -> Iterator[Line]:
        # A database and a user have settings of their own and those of [server_defaults].
        setting = BY_KEY.get((section, entry.key)) or BY_KEY.get(("server_defaults", entry.key))
        if (section, entry.key) == ("auth", "file") and self.inline_secrets:
            return
        if setting is None:
            yield Line(toml_text.dotted(entry.key), toml_text.node(entry.value))
            return
        is_default = named is None and entry.place == self.root.place
        if is_default and self.draft.value(section, entry.key) == default_of(setting):
            return
        if setting.kind == "secret":
            owner = named.key if named else section
            written = secret_text(owner, str(entry.value.value))
        else:
            written = self._value(setting.kind, entry.value)
        known = KNOWN.get(setting.pgbouncer or "")
        notes = []
        # In [databases] and [users] all but one have the same name there.
        before = setting.pgbouncer if named is None else _NAMED_OTHERWISE.get(setting.name)
        if before and before != setting.name:
            notes.append(before)
        if is_default:
            notes.append("PgBouncer's default")
        above = [] if named or is_default else _comments_above(entry)
        if known and known.differs and not is_default:
            above.append(f"# Different: {known.differs}.")
        yield Line(toml_text.dotted(entry.key), written, ", ".join(notes), tuple(above))

    def _value(self, kind: str, given: Node) -> str:
        """The value as its type has it in TOML."""
        if not given.is_text and given.kind != "string":
            return toml_text.node(given)
        text = str(given.value)
        if kind == "int":
            return str(int(text))
        if kind == "bool":
            return "true" if text.lower() in TRUTH[1::2] else "false"
        if kind in ("names", "addresses"):
            return toml_text.array(part.strip() for part in text.split(",") if part.strip())
        if kind == "path" and text and (self.target is None or self.target.parent.absolute() != self.draft.base):
            return toml_text.value(str(self.draft.base / text))
        return toml_text.value(text)

    def _tail(self) -> str:
        """What of the ini does nothing here, and why."""
        if not self.without_effect:
            return ""
        lines = [f"#   {one.path}:{one.line}: {one.message}\n" for one in self.without_effect]
        return "# Without effect:\n" + "".join(lines)

    def keeper(self, secrets: dict[str, str]) -> SecretText:
        """Writes secrets into files of their own, which are added to `secrets`, or as they are where that is asked."""
        folder = secrets_folder(self.target)

        def kept(owner: str, secret: str) -> str:
            # Text that begins so is read as the name of a file.
            if self.inline_secrets and not secret.startswith("file:"):
                is_verifier = Secret(secret).is_verifier
                return f"{{ verifier = {toml_text.value(secret)} }}" if is_verifier else toml_text.value(secret)
            stem = re.sub(r"[^A-Za-z0-9_-]", "_", owner) or "_"
            name, number = f"{folder}/{stem}", 1
            while name in secrets:
                number += 1
                name = f"{folder}/{stem}.{number}"
            secrets[name] = f"{secret}\n"
            return f"{{ file = {toml_text.quoted(name)} }}"

        return kept

    def prove(self) -> None:
        """Raises NotTheSame where the text does not give what the ini gives."""
        environment: dict[str, str] = {}

        def named(_: str, secret: str) -> str:
            name = _STAND_IN.format(len(environment))
            environment[name] = secret
            return f'{{ env = "{name}" }}'

        folder = self.target.parent if self.target else self.draft.base
        again = load_text(self.text(named), folder=folder, environ=environment)
        if again.config is None:
            errors = [str(one) for one in again.findings if one.is_error]
            raise NotTheSame("; ".join(errors))
        if not same(self.config, again.config):
            raise NotTheSame("a setting reads back as another value")


_ORDER: Final = {(setting.section, setting.name): number for number, setting in enumerate(SETTINGS)}


def _in_order(section: str, table: Node) -> list[Entry]:
    """The settings of a table as the reference has them; of several of a name the last one counts."""
    entries = {entry.key: entry for entry in table.entries}
    own = {name: _ORDER.get((section, name), len(_ORDER)) for name in entries}
    shared = {name: _ORDER.get(("server_defaults", name), len(_ORDER)) for name in entries}
    return sorted(entries.values(), key=lambda entry: (own[entry.key], shared[entry.key]))


def _all(node: Node) -> Iterator[Entry]:
    for entry in node.entries:
        yield entry
        yield from _all(entry.value)


_SETTING_IN_COMMENT = re.compile(r"[;#\s]*[\w.*\"-]+\s*=")


def _comments_above(entry: Entry) -> list[str]:
    """Comments that stand right above a line of the ini; not settings that are commented out."""
    source, number, found = entry.place.source, entry.place.line - 1, []
    while number > 0 and (line := source.line(number)) is not None and line.lstrip()[:1] in (";", "#"):
        if not _SETTING_IN_COMMENT.match(line):
            found.append(f"# {line.strip(' ;#')}".rstrip())
        number -= 1
    found.reverse()
    return [] if all(line == "#" for line in found) else found
