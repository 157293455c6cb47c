"""Reads the tables of spec/ and refuses faulty rows, so that the writers can trust them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class SpecError(Exception):
    """A row that can't be used; the text names file and row."""


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """What codes with one first digit share."""

    prefix: str
    class_name: str
    doc: str


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One runtime error of errors.toml."""

    id: str
    code: str
    sqlstate: str
    severity: str
    message: str
    detail: str | None
    hint: str | None
    pgbouncer: str | None
    why: str
    fix: str
    example: str | None

    @property
    def placeholders(self) -> list[str]:
        """Names in braces, in the order of their first use."""
        return placeholders(self.message, self.detail, self.hint)


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One configuration finding of errors.toml."""

    id: str
    code: str
    severity: str
    message: str
    hint: str | None
    hint_ini: str | None
    why: str
    fix: str
    example: str | None

    @property
    def placeholders(self) -> list[str]:
        """Names in braces, in the order of their first use."""
        return placeholders(self.message, self.hint, self.hint_ini)


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """errors.toml."""

    families: tuple[FamilyRow, ...]
    errors: tuple[ErrorRow, ...]
    findings: tuple[FindingRow, ...]


def load_errors(path: Path) -> ErrorTable:
    """Reads errors.toml."""
    document = read(path)
    require(path.name, set(document) <= {"family", "error", "finding"}, "only [[family]], [[error]], [[finding]]")
    families = tuple(family_row(path.name, row) for row in document.get("family", []))
    errors = tuple(error_row(path.name, row) for row in document.get("error", []))
    findings = tuple(finding_row(path.name, row) for row in document.get("finding", []))
    for field in ("id", "code"):
        refuse_duplicates(path.name, (getattr(row, field) for row in errors + findings))
    for row in errors:
        require(f"{path.name}, {row.id}", row.code[:3] in {family.prefix for family in families}, "no such family")
    return ErrorTable(families, errors, findings)


def family_row(file: str, row: dict[str, Any]) -> FamilyRow:
    """Checks one [[family]]."""
    row = fields(file, row, required=("prefix", "class", "doc"), optional=())
    require(file, re.fullmatch(r"FB\d", row["prefix"]), "a family's prefix is FB and a digit")
    return FamilyRow(row["prefix"], row["class"], row["doc"])


def error_row(file: str, row: dict[str, Any]) -> ErrorRow:
    """Checks one [[error]]."""
    required = ("id", "code", "sqlstate", "severity", "message", "why", "fix")
    row = fields(file, row, required=required, optional=("detail", "hint", "pgbouncer", "example"))
    where = f"{file}, {row['id']}"
    require(where, re.fullmatch(r"[a-z][a-z0-9_]*", row["id"]), "id is snake_case")
    require(where, re.fullmatch(r"FB\d{3}", row["code"]), "code is FB and three digits")
    require(where, re.fullmatch(r"[0-9A-Z]{5}", row["sqlstate"]), "sqlstate has five digits or capitals")
    require(where, row["severity"] in ("ERROR", "FATAL", "NOTICE"), "severity is ERROR, FATAL or NOTICE")
    require(where, not row["message"].endswith("."), "message has no full stop")
    require_sentences(where, row)
    known = placeholders(row["message"], row["detail"], row["hint"])
    require(where, set(placeholders(row["pgbouncer"])) <= set(known), "pgbouncer has a placeholder that is not filled")
    return ErrorRow(**row)


def finding_row(file: str, row: dict[str, Any]) -> FindingRow:
    """Checks one [[finding]]."""
    required, optional = ("id", "code", "severity", "message", "why", "fix"), ("hint", "hint_ini", "example")
    row = fields(file, row, required=required, optional=optional)
    where = f"{file}, {row['id']}"
    require(where, re.fullmatch(r"[a-z][a-z0-9_]*", row["id"]), "id is snake_case")
    require(where, re.fullmatch(r"FBC\d{3}", row["code"]), "code is FBC and three digits")
    require(where, row["severity"] in ("error", "warning", "info"), "severity is error, warning or info")
    require_sentences(where, row)
    return FindingRow(**row)


def require_sentences(where: str, row: dict[str, Any]) -> None:
    """What is printed for readers ends as sentences do."""
    for field in ("why", "fix"):
        require(where, row[field].endswith("."), f"{field} is made of sentences")


def placeholders(*texts: str | None) -> list[str]:
    """Names in braces, in the order of their first use; doubled braces are text."""
    text = " ".join(part for part in texts if part).replace("{{", "").replace("}}", "")
    return list(dict.fromkeys(PLACEHOLDER.findall(text)))


def read(path: Path) -> dict[str, Any]:
    """The table at `path`, which must exist and be TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from error


def fields(file: str, row: dict[str, Any], *, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    """`row` with None for what is optional and absent."""
    name = row.get("id") or row.get("name") or row.get("prefix") or "a row"
    for field in required:
        require(f"{file}, {name}", field in row, f"{field} is missing")
    for field in row:
        require(f"{file}, {name}", field in required + optional, f"{field} is not a field")
    return {field: row.get(field) for field in required + optional}


def refuse_duplicates(file: str, names: Iterator[str]) -> None:
    """Every name once."""
    seen: set[str] = set()
    for name in names:
        require(file, name not in seen, f"{name} stands there twice")
        seen.add(name)


def require(where: str, holds: object, rule: str) -> None:
    """Raises SpecError unless `holds`."""
    if not holds:
        raise SpecError(f"{where}: {rule}")
