"""Secrets: where they come from, and a type that does not print them."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay.config import measures
from forebay.config.finding import Report, closest
from forebay.config.tree import Node

SECRET_BYTES_MAX = 65_536
COMMAND_TIMEOUT_S_DEFAULT = 10.0
_WAYS = ("env", "file", "command", "verifier")
_VERIFIER = re.compile(
    r"md5[0-9a-f]{32}|SCRAM-SHA-256\$[1-9]\d{0,9}:[A-Za-z0-9+/]+={0,2}\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=", re.ASCII
)


class Secret:
    """A plain password, or a verifier as PostgreSQL stores it (md5…, SCRAM-SHA-256$…).

    No dataclass: encoders write those out by themselves, and this one must be written on purpose only.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def is_verifier(self) -> bool:
        """Whether it is a verifier, which proves nothing to a server by itself."""
        return _VERIFIER.fullmatch(self.text) is not None


# In the place of one that nobody needs.
NOT_FETCHED: Final = Secret("not fetched")


@dataclass(frozen=True, slots=True)
class SecretReader:
    """Fetches secrets. name: how findings call the setting; base: the folder that relative paths start from.

    is_fetching: if not, what stands elsewhere is left there, and a stand-in takes its place.
    """

    base: Path
    environ: Mapping[str, str]
    report: Report
    is_fetching: bool = True

    def read(self, node: Node, name: str) -> Secret | None:
        """The secret that `node` describes, or None after a report."""
        if node.kind == "string":
            return self._from_text(node, name)
        if node.kind != "table":
            self._bad(node, name, "this is neither text nor a table")
            return None
        given = [entry for entry in node.entries if entry.key in _WAYS]
        for entry in node.entries:
            if entry.key not in _WAYS and (entry.key, given and given[0].key) != ("timeout", "command"):
                cause, meant = f'unknown key "{entry.key}"', closest(entry.key, _WAYS)
                self.report.add("bad_secret", entry.place, meant=meant, name=name, cause=cause)
                return None
        if len(given) != 1:
            self._bad(node, name, "it comes from exactly one place")
            return None
        way, value = given[0].key, given[0].value
        if way == "command":
            return self._from_command(node, value, name)
        if value.kind != "string" or not value.value:
            self._bad(value, name, f"{way} is text in quotes")
            return None
        if way == "env":
            return self._from_environment(value, name)
        if way == "file":
            return self._from_file(value, str(value.value), name)
        return self._from_verifier(value, name)

    def _from_text(self, node: Node, name: str) -> Secret | None:
        text = str(node.value)
        if text.startswith("file:") and not node.is_text:
            return self._from_file(node, text.removeprefix("file:"), name)
        secret = self._checked(node, text, name)
        if secret and not secret.is_verifier and not node.is_outside:
            self.report.add("plain_secret", node.place, name=name)
        return secret

    def _from_environment(self, node: Node, name: str) -> Secret | None:
        if not self.is_fetching:
            return NOT_FETCHED
        variable = str(node.value)
        if variable not in self.environ:
            meant = closest_variable(variable, self.environ)
            self.report.add("missing_variable", node.place, meant=meant, name=variable)
            return None
        return self._checked(node, self.environ[variable], name)

    def _from_verifier(self, node: Node, name: str) -> Secret | None:
        secret = Secret(str(node.value))
        if secret.is_verifier:
            return secret
        self.report.add("bad_verifier", node.place, name=name)
        return None

    def _from_file(self, node: Node, written: str, name: str) -> Secret | None:
        if not self.is_fetching:
            return NOT_FETCHED
        path = self.base / written
        try:
            with path.open("rb") as file:
                if refused := exposure(file.fileno()):
                    self.report.add("exposed_secret_file", node.place, path=path, mode=refused)
                    return None
                content = file.read(SECRET_BYTES_MAX + 1)
            text = content.decode()
        except OSError as error:
            self.report.add("missing_file", node.place, name=name, path=path, cause=error.strerror or error)
            return None
        except UnicodeDecodeError:
            self._bad(node, name, f'"{path}" is not UTF-8 text')
            return None
        return self._checked(node, text.removesuffix("\n").removesuffix("\r"), name)

    def _from_command(self, table: Node, command: Node, name: str) -> Secret | None:
        words = [item.value for item in command.items if isinstance(item.value, str)]
        if command.kind != "array" or not words or len(words) != len(command.items):
            self._bad(command, name, "command is a list of texts: the program and its arguments")
            return None
        timeout_s = COMMAND_TIMEOUT_S_DEFAULT
        if (limit := table.get("timeout")) is not None:
            us = measures.duration_us(limit.value) if isinstance(limit.value, str) else None
            if not us:
                self.report.add("bad_duration", limit.place, name=f"{name}.timeout", text=limit.value)
                return None
            timeout_s = us / 1e6
        if not self.is_fetching:
            return NOT_FETCHED
        try:
            status, output = _run(words, self.base, self.environ, timeout_s)
        except subprocess.TimeoutExpired:
            self._failed(command, name, f'"{words[0]}" did not end within {timeout_s:g} s')
            return None
        except OSError as error:
            self._failed(command, name, f'"{words[0]}" could not be started: {error.strerror}')
            return None
        if status != 0:
            self._failed(command, name, f'"{words[0]}" ended with status {status}')
            return None
        return self._checked(command, output.decode(errors="replace").split("\n", 1)[0].rstrip("\r"), name)

    def _checked(self, node: Node, text: str, name: str) -> Secret | None:
        if not text:
            self.report.add("empty_secret", node.place, name=name)
            return None
        if len(text.encode()) > SECRET_BYTES_MAX or "\0" in text:
            self._bad(node, name, f"a secret has {SECRET_BYTES_MAX} bytes at most and no NUL")
            return None
        return Secret(text)

    def _bad(self, node: Node, name: str, cause: str) -> None:
        self.report.add("bad_secret", node.place, name=name, cause=cause)

    def _failed(self, node: Node, name: str, cause: str) -> None:
        self.report.add("secret_command_failed", node.place, name=name, cause=cause)


def _run(words: list[str], folder: Path, environ: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """Status and output of a program. Raises OSError, and TimeoutExpired after it has stopped what it started."""
    with subprocess.Popen(
        words,
        cwd=folder,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            # The whole group: a child of the program's that keeps its output open would be waited for without end.
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output


def exposure(file: int | Path) -> str | None:
    """The file's mode in octal if others may read it, else None; 640 is accepted for a file of root's, as by libpq."""
    status = os.stat(file)  # noqa: PTH116  (a descriptor, so that the file checked is the file read)
    refused = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if status.st_uid == 0 else stat.S_IRWXG)
    return f"{stat.S_IMODE(status.st_mode):o}" if status.st_mode & refused else None


def closest_variable(name: str, environ: Mapping[str, str]) -> str | None:
    """The environment variable that `name` is most like."""
    by_lower = {known.lower(): known for known in environ}
    found = closest(name, by_lower)
    return by_lower[found] if found else None
