"""Lines of pg_hba.conf and pg_ident.conf as fields of tokens, each with its place; files that they name are read.

As PostgreSQL reads them (src/backend/libpq/hba.c), but for two things: a quote that is not closed is an error, and a
comma between blanks joins what stands at its sides, as it does for PgBouncer.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay.config.finding import Report
from forebay.config.source import Place, Source
from forebay.config.text_file import Files

DEPTH_MAX: Final = 10
_WORD: Final = re.compile(r'(?:[^ \t\r",#]|"(?:[^"]|"")*")+')
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')
_INCLUDES: Final = ("include", "include_if_exists", "include_dir")


@dataclass(frozen=True, slots=True)
class Token:
    """A word. is_quoted: it begins with a quote, so that it means itself and nothing special."""

    text: str
    is_quoted: bool
    place: Place

    def is_word(self, word: str) -> bool:
        """Whether it is that keyword."""
        return not self.is_quoted and self.text == word


Field = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A line that is not empty: fields between blanks, each of one token or several between commas.

    is_pgbouncers: a pgbouncer.ini names its file.
    """

    fields: tuple[Field, ...]
    is_pgbouncers: bool = False

    @property
    def place(self) -> Place:
        """Where it begins."""
        return self.fields[0][0].place

    @property
    def where(self) -> str:
        """path:line."""
        return f"{self.place.source.path}:{self.place.line}"


class RecordReader:
    """Reads the records of a file and of those that it includes; what can't be read is reported."""

    def __init__(self, files: Files, report: Report, *, is_pgbouncers: bool = False) -> None:
        self._files = files
        self._report = report
        self._is_pgbouncers = is_pgbouncers

    def read(self, path: Path, named_at: Place, *, depth: int = 0) -> Iterator[Record]:
        """All of them, in order."""
        for record in self._of_file(path, named_at, depth):
            first = record.fields[0][0]
            if not first.is_quoted and first.text in _INCLUDES:
                yield from self._included(record, path.parent, depth)
            else:
                fields = tuple(self._expanded(field, path.parent, depth) for field in record.fields)
                if all(fields):
                    yield Record(fields, self._is_pgbouncers)

    def _of_file(self, path: Path, named_at: Place, depth: int) -> Iterator[Record]:
        if depth > DEPTH_MAX:
            self._report.add("include_depth", named_at, path=path, limit=DEPTH_MAX)
            return
        source = self._files.source(path, str(path), self._report, named_at=named_at)
        if source is not None:
            yield from records(source, self._report, is_pgbouncers=self._is_pgbouncers)

    def _included(self, record: Record, folder: Path, depth: int) -> Iterator[Record]:
        verb = record.fields[0][0].text
        if len(record.fields) != 2 or len(record.fields[1]) != 1:
            self._report.add("bad_access_line", record.place, cause=f"{verb} is followed by one path")
            return
        named = record.fields[1][0]
        path = folder / named.text
        if verb == "include_dir":
            for one in self._of_folder(path, named.place):
                yield from self.read(one, named.place, depth=depth + 1)
        elif verb == "include" or path in self._files.before or not _is_missing(path):
            yield from self.read(path, named.place, depth=depth + 1)

    def _of_folder(self, folder: Path, named_at: Place) -> list[Path]:
        try:
            names = sorted(one.name for one in folder.iterdir() if one.suffix == ".conf" and one.is_file())
        except OSError as error:
            self._report.add("unreadable_file", named_at, path=folder, cause=error.strerror or error)
            return []
        return [folder / name for name in names if not name.startswith(".")]

    def _expanded(self, field: Field, folder: Path, depth: int) -> Field:
        """The field, with the tokens of files in place of `@file`. Empty after a report."""
        out: list[Token] = []
        for token in field:
            if token.is_quoted or not token.text.startswith("@") or len(token.text) == 1:
                out.append(token)
                continue
            path, before = folder / token.text[1:], len(out)
            for record in self._of_file(path, token.place, depth + 1):
                for inner in record.fields:
                    out.extend(self._expanded(inner, path.parent, depth + 1))
            if len(out) == before and not self._report.has_errors:
                self._report.add("bad_access_line", token.place, cause=f'"{path}" holds no name')
        return tuple(out)


def _is_missing(path: Path) -> bool:
    """Whether there is no such file; one that can't be looked at is there."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def records(source: Source, report: Report, *, is_pgbouncers: bool = False) -> Iterator[Record]:
    """The records of a text. is_pgbouncers: it is one of a pgbouncer.ini, where no line is continued."""
    bytes_at = _ByteOffsets(source.text)
    for line, pieces in _lines(source.text):
        joined, places = "".join(text for _, text in pieces), _Places(source, line, pieces, bytes_at)
        if is_pgbouncers and len(pieces) > 1:
            cause = "a backslash at the end of a line does not continue it in PgBouncer's files; write one line"
            report.add("bad_access_line", places.of(0, len(pieces[0][1])), cause=cause)
        elif fields := _fields(joined, source, report, places):
            yield Record(fields, is_pgbouncers)


def _lines(text: str) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Each line with its number: pieces of it and where they begin, several where a backslash continues it."""
    start, number, first, pieces = 0, 1, 1, list[tuple[int, str]]()
    for raw in text.split("\n"):
        content = raw.removesuffix("\r")
        is_continued = content.endswith("\\")
        pieces.append((start, content.removesuffix("\\") if is_continued else content))
        if not is_continued:
            yield first, pieces
            first, pieces = number + 1, []
        start += len(raw) + 1
        number += 1
    if pieces:
        yield first, pieces


def _fields(line: str, source: Source, report: Report, places: _Places) -> tuple[Field, ...]:
    """The fields of a line; none after a report."""
    fields: list[list[Token]] = []
    at, is_joined = 0, False
    while at < len(line):
        sign = line[at]
        if sign == "#":
            if line[places.end_of_line(at) :].strip():
                cause = "a backslash at the end of a comment makes the next line a comment as well"
                report.add("bad_access_line", places.of(at, places.end_of_line(at)), cause=cause)
                return ()
            break
        if sign in " \t\r,":
            # A comma before the first token of a line joins it to nothing.
            is_joined = is_joined or (sign == "," and bool(fields))
            at += 1
            continue
        found = _WORD.match(line, at)
        if found is None or line[found.end() : found.end() + 1] == '"':
            report.add("bad_access_line", places.of(at, len(line)), cause="a quote is not closed")
            return ()
        raw = found[0]
        text = _QUOTED.sub(lambda part: part[1].replace('""', '"'), raw) if '"' in raw else raw
        token = Token(text, raw.startswith('"'), places.of(at, found.end()))
        if is_joined:
            fields[-1].append(token)
        else:
            fields.append([token])
        at, is_joined = found.end(), False
    return tuple(tuple(field) for field in fields)


class _ByteOffsets:
    """Offsets in bytes of offsets in characters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_ascii = text.isascii()

    def of(self, at: int) -> int:
        return at if self._is_ascii else len(self._text[:at].encode())


class _Places:
    """Places in a line, which may be joined of several."""

    def __init__(self, source: Source, line: int, pieces: list[tuple[int, str]], offsets: _ByteOffsets) -> None:
        self._source, self._line, self._pieces, self._offsets = source, line, pieces, offsets
        self._starts = [0]
        for _, text in pieces[:-1]:
            self._starts.append(self._starts[-1] + len(text))

    def end_of_line(self, at: int) -> int:
        """Where the line of the text ends in which a character of the joined line stands."""
        piece = bisect_right(self._starts, at) - 1
        return self._starts[piece] + len(self._pieces[piece][1])

    def of(self, start: int, end: int) -> Place:
        piece = bisect_right(self._starts, start) - 1
        offset, text = self._pieces[piece]
        column = start - self._starts[piece]
        first = offset + column
        last = min(first + end - start, offset + len(text))
        return Place(self._source, self._offsets.of(first), self._offsets.of(last), self._line + piece, column + 1)
