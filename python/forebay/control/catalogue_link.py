"""A database's catalogue, read as the engine reads it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from forebay._engine import Catalogue
from forebay.control.console_link import CONNECT_TIMEOUT_S, driver, first_line
from forebay.failure import Exit, Failure

# What the role begins sessions with does not matter to the reading.
_FIRST: Final = (
    "SET search_path TO pg_catalog,pg_temp; SET client_encoding TO 'UTF8'; SET statement_timeout TO 0;"
    "SET default_transaction_read_only TO on"
)

# Of databases with thousands of tables, one has megabytes.
KNOWN_MAX: Final = 4


def read(dsn: str) -> Catalogue:
    """What the objects of the database at a connection string may do.

    Raises Failure: exit code 3 where nobody answers or the login is refused, 2 for a string that can't be read, 1 where
    the catalogue can't be read.
    """
    psycopg = driver()
    try:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's own words may quote the password.
        raise Failure("the connection string can't be read", exit=Exit.USAGE) from None
    return read_at(given)


def read_at(parameters: Mapping[str, Any]) -> Catalogue:
    """The same, with libpq's parameters. Raises Failure."""
    return _read(parameters, None).catalogue


class Catalogues:
    """Those of the databases asked about last, each read anew only once something in it has changed."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Mapping[str, Any], _Stamped]] = OrderedDict()

    def read(self, database: str, parameters: Mapping[str, Any]) -> Catalogue:
        """parameters: libpq's, of where that database is by now. Raises Failure."""
        place, known = self._known.pop(database, ({}, None))
        # What stands for a state of one server may stand for another one elsewhere.
        found = _read(parameters, known if place == parameters else None)
        self._known[database] = (parameters, found)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return found.catalogue


class _Stamped(NamedTuple):
    stamp: str
    catalogue: Catalogue


def _read(parameters: Mapping[str, Any], known: _Stamped | None) -> _Stamped:
    """`known`, where nothing has changed since. Raises Failure."""
    psycopg = driver()
    settings = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "forebay", **parameters}
    try:
        connection = psycopg.connect(**settings, autocommit=True)
    except psycopg.OperationalError as error:
        raise Failure(f"can't reach the database: {first_line(error)}", exit=Exit.CANNOT_REACH) from None
    try:
        connection.execute(_FIRST)
        # By the simple protocol, as text.
        cursor = psycopg.ClientCursor(connection)
        # First: what changes while the rest is read is found by the next one.
        ((stamp,),) = cursor.execute(Catalogue.STAMP).fetchall()
        if known is not None and known.stamp == stamp:
            return known
        rows = cursor.execute(Catalogue.QUERY).fetchall()
        return _Stamped(stamp, Catalogue([list(row) for row in rows]))
    except psycopg.Error as error:
        raise Failure(f"the catalogue can't be read: {first_line(error)}") from None
    finally:
        connection.close()
