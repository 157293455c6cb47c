"""PostgreSQL connection strings as libpq reads them: URI and key=value, with PG* variables and the passfile.

Sources: PostgreSQL documentation, "Connection Strings", "The Password File".
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

from forebay.failure import Exit, Failure

# What forebay uses of a connection string.
_USED: Final = frozenset(
    (
        "host",
        "hostaddr",
        "port",
        "user",
        "password",
        "passfile",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
    )
)
# What libpq, drivers and ORMs know besides; it says how one connection behaves, so forebay passes over it.
_PASSED_OVER: Final = frozenset(
    [
        "application_name",
        "fallback_application_name",
        "connect_timeout",
        "client_encoding",
        "options",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "target_session_attrs",
        "load_balance_hosts",
        "channel_binding",
        "require_auth",
        "sslnegotiation",
        "sslsni",
        "sslcompression",
        "sslpassword",
        "sslcrl",
        "sslcrldir",
        "sslcertmode",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "gssencmode",
        "gsslib",
        "krbsrvname",
        "gssdelegation",
        "replication",
        "min_protocol_version",
        "max_protocol_version",
        "pgbouncer",
        "connection_limit",
        "pool_timeout",
        "schema",
        "statement_cache_size",
        "prepared_statement_cache_size",
        "sslaccept",
        "pool_max_conns",
    ]
)
_VARIABLES: Final = {
    "PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password",
    "PGPASSFILE": "passfile", "PGDATABASE": "dbname", "PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey",
}  # fmt: skip
_URI: Final = re.compile(r"postgres(?:ql)?(?:\+[a-z0-9_]+)?://", re.IGNORECASE)
_PAIR: Final = re.compile(
    r"\s*(?P<key>[A-Za-z_]\w*)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?:[^\s'\\]|\\.)*))(?=\s|$)", re.S
)


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where a database is and who logs in.

    endpoints: `host:port`, `[v6]:port` or the path of a Unix socket, in the order given.
    password: None where neither the string, the environment nor a passfile holds one.
    """

    endpoints: tuple[str, ...]
    user: str
    dbname: str
    password: str | None
    tls: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Dsn({self.user}@{','.join(self.endpoints)}/{self.dbname})"


def parse(text: str, environment: Mapping[str, str] | None = None) -> Dsn:
    """Reads a connection string; what it leaves out comes from PG* variables, then from libpq's defaults.

    Raises Failure (exit code 2) for what can't be read; the text of the error holds no password.
    """
    environment = os.environ if environment is None else environment
    given = _uri(text) if _URI.match(text) else _pairs(text)
    for key in given:
        if key not in _USED and key not in _PASSED_OVER:
            near = difflib.get_close_matches(key, sorted(_USED | _PASSED_OVER), n=1)
            hint = f'Did you mean "{near[0]}"?' if near else "See the list of parameters in PostgreSQL's documentation."
            raise _wrong(f'"{key}" is no connection parameter', hint)
    values = {name: environment[variable] for variable, name in _VARIABLES.items() if environment.get(variable)}
    values.update({key: value for key, value in given.items() if value})
    user = values.get("user") or environment.get("USER") or _login_name()
    dsn = Dsn(
        endpoints=_endpoints(values),
        user=user,
        dbname=values.get("dbname", user),
        password=values.get("password"),
        tls=_tls(values),
    )
    if dsn.password is None:
        path = Path(values["passfile"]) if "passfile" in values else Path.home() / ".pgpass"
        dsn = replace(dsn, password=_from_passfile(path, dsn))
    return dsn


def _uri(text: str) -> dict[str, str]:
    rest = text[text.index("://") + 3 :]
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    given: dict[str, str] = {}
    if at:
        user, colon, password = login.partition(":")
        given["user"] = unquote(user)
        if colon:
            given["password"] = unquote(password)
    if hosts:
        split = [_host_and_port(each) for each in hosts.split(",")]
        given["host"] = ",".join(host for host, _ in split)
        given["port"] = ",".join(port for _, port in split)
        if not given["port"].replace(",", ""):
            del given["port"]
    if path:
        given["dbname"] = unquote(path)
    given.update(
        {"user" if key == "username" else key: value for key, value in parse_qsl(query, keep_blank_values=True)}
    )
    return given


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _wrong("an address in [] must end with ] or ]:port")
        return unquote(host), port[1:]
    host, _, port = text.partition(":")
    return unquote(host), port


def _pairs(text: str) -> dict[str, str]:
    given, position = {}, 0
    while text[position:].strip():
        match = _PAIR.match(text, position)
        if match is None:
            raise _wrong(
                "the connection string is neither a URI nor pairs of key=value",
                "Write postgresql://user@host/dbname, or host=… user=… dbname=…",
            )
        value = match["quoted"] if match["quoted"] is not None else match["bare"]
        given[match["key"]] = re.sub(r"\\(.)", r"\1", value, flags=re.S)
        position = match.end()
    return given


def _endpoints(values: Mapping[str, str]) -> tuple[str, ...]:
    hosts = (values.get("hostaddr") or values.get("host") or "").split(",")
    ports = (values.get("port") or "").split(",")
    if len(ports) not in (1, len(hosts)):
        raise _wrong(f"there are {len(hosts)} hosts, but {len(ports)} ports")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return tuple(_endpoint(host, port or "5432") for host, port in zip(hosts, ports, strict=True))


def _endpoint(host: str, port: str) -> str:
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise _wrong(f'"{port}" is not a port from 1 to 65535')
    if host.startswith("/"):
        return f"{host}/.s.PGSQL.{port}"
    if not host:
        # libpq tries the folder it was built with; Debian's and the source's differ.
        folders = ("/var/run/postgresql", "/tmp")  # noqa: S108  (where servers put their socket)
        found = next((each for each in folders if Path(each, f".s.PGSQL.{port}").exists()), None)
        return f"{found}/.s.PGSQL.{port}" if found else f"localhost:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(values: Mapping[str, str]) -> dict[str, str]:
    names = {"sslmode": "mode", "sslrootcert": "ca", "sslcert": "certificate", "sslkey": "key"}
    # `system` means the system's authorities, which is what forebay takes for verify-full without a file.
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values and values[theirs] != "system"}


def _from_passfile(path: Path, dsn: Dsn) -> str | None:
    """The password of the first line that fits, as libpq finds it; a file that others can read is passed over."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return None
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    host, port = _passfile_host(dsn.endpoints[0])
    wanted = (host, port, dsn.dbname, dsn.user)
    for line in lines:
        fields = [re.sub(r"\\(.)", r"\1", field) for field in re.split(r"(?<!\\):", line, maxsplit=4)]
        if len(fields) != 5 or line.startswith("#"):
            continue
        if all(field in ("*", want) for field, want in zip(fields, wanted, strict=False)):
            return fields[4]
    return None


def _passfile_host(endpoint: str) -> tuple[str, str]:
    if endpoint.startswith("/"):
        folder, _, port = endpoint.rpartition("/.s.PGSQL.")
        return ("localhost" if folder in ("/var/run/postgresql", "/tmp") else folder), port  # noqa: S108
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), port


def _login_name() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _wrong(message: str, hint: str | None = None) -> Failure:
    return Failure(message, hint=hint, exit=Exit.USAGE)
