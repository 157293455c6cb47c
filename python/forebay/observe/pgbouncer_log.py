"""Log lines as PgBouncer writes them, for the programs and alerts that read those.

`TIME ZONE [PID] LEVEL TEXT`, where the text of what concerns a connection begins with
`C-0xID: database/user@address:port` (`S-` for a server). Events that PgBouncer has no line for are their name and
fields.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from forebay.observe.formats import Clock

Fields = Mapping[str, object]

# Which PgBouncer the drop-in answers as.
PGBOUNCER_VERSION: Final = "1.25.2"

LEVELS: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "LOG",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}
# Events that another line of PgBouncer's tells already.
_SILENT: Final = frozenset(("client_connected", "console_connected"))
# Why connections end, in PgBouncer's words where it has some.
_REASONS: Final = {
    "terminate": "client close request",
    "closed by the client": "client unexpected eof",
    "pooler is shutting down": "server shutting down",
    "closed by the server": "server conn crashed?",
    "it did not answer within server_connect_timeout": "connect timeout",
    "it did not answer, and another endpoint does": "connect timeout",
    "lifetime": "server lifetime over",
    "not needed any more": "server idle timeout",
    "room for another pool": "evicted",
    "the endpoint changed": "database configuration changed",
    "the database was removed": "database configuration changed",
}
# What ends a line, moves a terminal's cursor or colours it: C0, DEL and C1.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNREACHED: Final = re.compile(r"connect to .*", re.DOTALL)
_REPLICATION: Final = {"none": "no", "physical": "yes", "logical": "database"}
# Refusals of which the line of the client's end tells why.
_TOLD_AT_THE_END: Final = frozenset(("FB601", "FB602", "FB804"))
# Clients of which that is kept until then.
_REFUSED_MAX: Final = 1024


class Lines(logging.Filter):
    """Holds back what PgBouncer has no line for because another one tells it.

    An unknown user is told what a wrong password is told; why is said at the client's end, here alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unknown: OrderedDict[object, None] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        name = record.getMessage()
        fields: Fields = getattr(record, "fields", {})
        if name == "login_refused" and fields.get("code") in _TOLD_AT_THE_END:
            if fields.get("reason") == "no such user":
                self._unknown[fields.get("client")] = None
            if len(self._unknown) > _REFUSED_MAX:
                self._unknown.popitem(last=False)
            return False
        if name == "client_refused" and fields.get("client") in self._unknown:
            # The line of the end may be left out (log_disconnections).
            record.fields = {**fields, "reason": f"{fields.get('reason')} (no such user)"}
        if name == "client_disconnected" and fields.get("client") in self._unknown:
            del self._unknown[fields.get("client")]
            record.fields = {**fields, "reason": "no such user"}
        return name not in _SILENT


class PgBouncerFormatter(logging.Formatter):
    """See the module's text. is_bare: for syslog, which has time, process and level beside the text."""

    def __init__(self, *, is_bare: bool = False) -> None:
        super().__init__()
        self._is_bare = is_bare
        self._clock = Clock(_in_local_time)

    def format(self, record: logging.LogRecord) -> str:
        level = LEVELS.get(record.levelno, "LOG")
        said = self._text(record.getMessage(), getattr(record, "fields", {}))
        if self._is_bare:
            return said
        return f"{self._clock.at(record.created)} [{os.getpid()}] {level} {said}"

    def _text(self, name: str, fields: Fields) -> str:
        make = _TEXTS.get(name)
        text = make(fields) if make else _plain(name, fields)
        suppressed = fields.get("suppressed")
        text = f"{text} ({suppressed} like it were held back)" if suppressed and make else text
        return _one_line(f"{_whose(fields)}{text}")


def _in_local_time(second: int) -> tuple[str, str]:
    then = datetime.fromtimestamp(second).astimezone()
    return then.strftime("%Y-%m-%d %H:%M:%S."), then.strftime(" %Z")


def _whose(fields: Fields) -> str:
    """What the line is about, where that is a connection."""
    if "client" in fields and "address" in fields:
        who = f"{fields.get('database') or '(nodb)'}/{fields.get('user') or '(nouser)'}"
        return f"C-0x{_number(fields['client']):x}: {who}@{fields['address']}:{fields.get('port', 0)} "
    if "server" in fields and "endpoint" in fields:
        of, place = fields.get("pool") or "(nodb)/(nouser)", _place(str(fields["endpoint"]))
        return f"S-0x{_number(fields['server']):x}: {of}@{place} "
    return ""


def _place(endpoint: str) -> str:
    """A server's address; a Unix socket as PgBouncer writes it."""
    folder, is_socket, port = endpoint.rpartition("/.s.PGSQL.")
    return f"unix:{port}" if is_socket and folder else endpoint.replace("[", "").replace("]", "")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _login(fields: Fields) -> str:
    replication = _REPLICATION.get(str(fields.get("replication")), "no")
    return (
        f"login attempt: db={fields.get('database')} user={fields.get('user')}"
        f" tls={fields.get('tls') or 'no'} replication={replication}"
    )


def _closing(fields: Fields) -> str:
    reason = str(fields.get("reason"))
    if "endpoint" in fields:
        reason = "login failed" if _is_of_server(reason) else _UNREACHED.sub("connect failed", reason)
    return f"closing because: {_REASONS.get(reason, reason)} (age={fields.get('age_s', 0)}s)"


def _opened(fields: Fields) -> str:
    """Over a Unix socket there is no address that it came from."""
    return f"new connection to server (from {fields['from']})" if fields.get("from") else "new connection to server"


def _open_failed(fields: Fields) -> str:
    """What the server said, or what kept us from it; the line of its end follows."""
    cause = str(fields.get("cause"))
    return f"server login failed: FATAL {cause[6:]}" if _is_of_server(cause) else f"server can't be reached: {cause}"


def _is_of_server(cause: str) -> bool:
    """The server's own words begin with their SQLSTATE."""
    return re.match(r"[0-9A-Z]{5} ", cause) is not None


def _stats(fields: Fields) -> str:
    return (
        "stats: {xacts} xacts/s, {queries} queries/s, in {received} B/s, out {sent} B/s, xact {xact_us} us,"
        " query {query_us} us, wait {wait_us} us"
    ).format(**fields)


def _start(fields: Fields) -> str:
    return (
        f"process up: PgBouncer {fields.get('pgbouncer')} (forebay {fields.get('version')}, {fields.get('driver')},"
        f" {fields.get('workers')} workers), listening on {str(fields.get('listen')).replace(',', ', ')}"
    )


def _issued(fields: Fields) -> str:
    """A command of the console, as PgBouncer has it, and whose it was."""
    about = f" '{fields['arguments']}'" if fields.get("arguments") else ""
    return f"{str(fields.get('command')).upper()}{about} command issued (by {fields.get('user')})"


_TEXTS: Final[Mapping[str, Callable[[Fields], str]]] = {
    "login_attempt": _login,
    "client_refused": lambda fields: f"pooler error: {fields.get('reason')}",
    "client_disconnected": _closing,
    "server_opened": _opened,
    "server_closed": _closing,
    "server_open_failed": _open_failed,
    "stats": _stats,
    "reserve_taken": lambda fields: f"{fields.get('pool')} taking connection from reserve_pool",
    "pool_forgotten": lambda fields: f"cleaning up idle pool: {fields.get('pool')}",
    "auto_database": lambda fields: f"registered new auto-database: db={fields.get('database')}",
    "console": _issued,
    "signal": lambda fields: f"got {fields.get('name')}{fields.get('when')}, {fields.get('does')}",
    "reboot_alone": lambda fields: "old process not found, try to continue normally",
    "resume_ignored": lambda fields: "got SIGUSR2 while shutting down, ignoring",
    "start": _start,
}


def _plain(name: str, fields: Fields) -> str:
    words = [f"{key}={value}" for key, value in fields.items() if value is not None]
    return " ".join((name.replace("_", " "), *words)) if words else name.replace("_", " ")


def _one_line(text: str) -> str:
    """A line's end within a field must not begin a line that looks like one of ours.

    Names come from clients that have proved nothing yet.
    """
    return _CONTROL.sub(" ", text)
