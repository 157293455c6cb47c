"""The console of a running forebay, as a program reaches it: its address, one statement, the rows."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from forebay.config.resolved import EngineConfig, Listen
from forebay.failure import Exit, Failure

CONNECT_TIMEOUT_S: Final = 5
# It answers at once, unless its process stands still.
ANSWER_S: Final = 30.0

Row = dict[str, Any]
# A line of how far a statement is, what a program may want to know of it, and what cancels the statement.
Step = Callable[[str, str | None, Callable[[], None]], None]


def from_dsn(dsn: str) -> dict[str, Any]:
    """libpq's parameters of a connection string; it leads to the console unless it names a database.

    Raises Failure (exit code 2) for a string that can't be read.
    """
    psycopg = driver()
    try:
        given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's own words may quote the password.
        hint = "Write postgresql://user@host:6432/forebay, or host=… port=6432 user=…"
        raise Failure("the connection string can't be read", hint=hint, exit=Exit.USAGE) from None
    return {"dbname": "forebay", **given}


def from_config(engine: EngineConfig, *, user: str | None = None) -> dict[str, Any]:
    """libpq's parameters for the forebay that runs with this configuration on this machine.

    user: who logs in, with its password if that is known; by default the first of console.admins and console.viewers
    whose password is known. Raises Failure where there is none, or where clients have to show a certificate.
    """
    mode = engine.listen.tls.mode if engine.listen.tls else "disable"
    if mode.startswith("verify-"):
        raise Failure("clients have to show a certificate", hint="Name one with --dsn: sslcert=… sslkey=…")
    host = _host(engine.listen)
    if host is None:
        raise Failure("the configuration lets the system choose the port", hint="Give the address with --dsn.")
    user, password = _login(engine) if user is None else (user, _password(engine, user))
    return {"host": host, "port": engine.listen.port, "dbname": "forebay", "user": user, "password": password}


def ask(parameters: Mapping[str, Any], statement: str, *, within_s: float = ANSWER_S) -> list[Row]:
    """The rows of one statement, by column name.

    Raises Failure: exit code 3 where nobody answers or the login is refused, 1 where the console refuses.
    """
    with _connected(parameters) as connection, _refusal_of(statement), limited(connection, within_s):
        rows: list[Row] = connection.execute(statement).fetchall()
        return rows


def follow(parameters: Mapping[str, Any], statement: str, step: Step) -> None:
    """Gives an order that tells how far it is; returns when it is carried out. Raises Failure as `ask` does."""
    with _connected(parameters) as connection, _refusal_of(statement):
        connection.add_notice_handler(
            lambda notice: step(notice.message_primary or "", notice.message_detail, connection.cancel_safe)
        )
        connection.execute(statement)


@contextlib.contextmanager
def _connected(parameters: Mapping[str, Any]) -> Iterator[Any]:
    psycopg = driver()
    settings = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "forebay", **parameters}
    try:
        connection = psycopg.connect(**settings, autocommit=True, row_factory=psycopg.rows.dict_row)
    except psycopg.OperationalError as error:
        hint = "Check that forebay runs, and host, port and user of --dsn or of the configuration."
        raise Failure(f"can't reach the console: {first_line(error)}", hint=hint, exit=Exit.CANNOT_REACH) from None
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _refusal_of(statement: str) -> Iterator[None]:
    try:
        yield
    except driver().Error as error:
        hint = error.diag.message_hint
        # The console begins some of them with the command's name, which stands here already.
        said = first_line(error).removeprefix(f"{statement.split()[0].upper()} was refused: ")
        raise Failure(f"the console refused {statement}: {said}", hint=hint) from None


@contextlib.contextmanager
def limited(connection: Any, within_s: float) -> Iterator[None]:
    """What is asked meanwhile on a connection of psycopg's fails after that time: it is cut.

    Not cancelled: whoever does not answer may not read that either.
    """
    is_over = threading.Event()
    # A descriptor of our own: the connection's may have become another one's when the time has come.
    with socket.socket(fileno=os.dup(connection.fileno())) as line:

        def cut() -> None:
            is_over.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(within_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except driver().OperationalError as error:
            if is_over.is_set():
                raise driver().OperationalError(f"no answer within {within_s:.0f} s") from error
            raise
        finally:
            timer.cancel()
            timer.join()


def driver() -> Any:
    """Imported when it is needed: an installation without it does everything else."""
    if importlib.util.find_spec("psycopg") is None:
        raise Failure("this needs the driver psycopg", hint="Run pip install 'forebay[auth-query]'.")
    import psycopg
    import psycopg.conninfo
    import psycopg.rows

    return psycopg


def _host(listen: Listen) -> str | None:
    """Where this machine reaches the listener; None for a port that is not known beforehand."""
    if listen.port == 0:
        return None
    if listen.unix is not None:
        return listen.unix
    # The wildcards are addresses to listen on; one connects to the loopback of the same family.
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.addresses[0], listen.addresses[0])  # noqa: S104


def _login(engine: EngineConfig) -> tuple[str, str | None]:
    known = {user.name: user.secret for user in engine.users}
    names = [*engine.console.admins, *engine.console.viewers]
    for name in names:
        secret = known.get(name)
        if secret is not None and not secret.is_verifier:
            return name, secret.text
        if name in known and engine.auth.method == "trust":
            return name, None
    wanted = "console.admins and console.viewers are empty" if not names else f"no password is known of {names[0]}"
    raise Failure(f"nobody can log in to the console: {wanted}", hint="Give a user and a passfile with --dsn.")


def _password(engine: EngineConfig, name: str) -> str | None:
    secret = next((user.secret for user in engine.users if user.name == name), None)
    return None if secret is None or secret.is_verifier else secret.text


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
