"""The files of `inis/`: pgbouncer.ini as people have them, with what `forebay check` is to say in their own comments.

    ;> user=web dbname=shop       who connects through it, and to what
    ;! CODE SEVERITY WORDS        the next setting has this finding
    ;? CODE SEVERITY WORDS        it may have it: what forebay lacks today, and may have tomorrow

Hosts, ports and paths are those of somebody's network; `startable` puts the test's own in their place.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.harness import account
from tests.harness.certificates import Authority
from tests.harness.postgres import PASSWORD, Postgres

FOLDER = Path(__file__).parent / "inis"
# A file that others include has no user list.
NAMES = sorted(path.stem for path in FOLDER.glob("*.ini") if path.with_suffix(".txt").exists())
HBA = "local all all trust\nhostssl all all all scram-sha-256\nhost all all all scram-sha-256\n"
IDENT = "office /^(.*)$ \\1\n"
_FILE = re.compile(r"^(\w+_file)( *= *)\S+$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding that a comment announces, at a line of a file."""

    file: str
    line: int
    is_sure: bool
    code: str
    severity: str
    words: str


@dataclass(frozen=True, slots=True)
class World:
    """What files need: a server, certificates, and the secrets that users have on the server."""

    server: Postgres
    authority: Authority
    secrets: dict[str, dict[str, str]]


def expected(path: Path) -> list[Expected]:
    """All findings that the comments of a file announce."""
    found, waiting = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line[:2] in (";!", ";?"):
            code, severity, words = line[2:].strip().split(" ", 2)
            waiting.append((line[1] == "!", code, severity, words))
        else:
            found += [Expected(path.name, number, *one) for one in waiting]
            waiting = []
    return found


def logins(path: Path) -> list[str]:
    """Connection parameters of those who connect through it."""
    return [line[2:].strip() for line in path.read_text().splitlines() if line.startswith(";>")]


def copied(name: str, folder: Path, world: World) -> Path:
    """The ini with its user list and certificates, as its owner has them: hosts and ports stay."""
    for path in FOLDER.glob(f"{name[:2]}-*.ini"):
        text = _FILE.sub(lambda found: f"{found[1]}{found[2]}{folder / _file(found[1])}", path.read_text())
        written(folder / path.name, text)
    users = re.sub(
        r'^"(.*)" "(SCRAM|MD5|PLAIN)"$',
        lambda found: f'"{found[1]}" "{world.secrets[found[2]].get(found[1], PASSWORD.format(found[1]))}"',
        (FOLDER / f"{name}.txt").read_text(),
        flags=re.MULTILINE,
    )
    written(folder / "userlist.txt", users)
    written(folder / "pg_hba.conf", HBA)
    written(folder / "pg_ident.conf", IDENT)
    pair = world.authority.issue(f"ini-{name}", "localhost", "127.0.0.1")
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": world.authority.certificate}
    for target, source in files.items():
        shutil.copy(source, folder / target)
        (folder / target).chmod(0o600)
        account.give(folder / target)
    return folder / f"{name}.ini"


def startable(name: str, folder: Path, world: World, port: int) -> Path:
    """The same before the test's server, at a port of the test's."""
    ini = copied(name, folder, world)
    for path in folder.glob("*.ini"):
        section, lines = "", []
        for line in path.read_text().splitlines():
            section = line.strip("[]") if line.startswith("[") else section
            is_plain = not line or line[0] in ";[%#"
            lines.append(line if is_plain else _moved(section, line, folder, world.server.port, port))
        written(path, "\n".join(lines) + "\n")
    return ini


def _moved(section: str, line: str, folder: Path, server_port: int, port: int) -> str:
    if section == "databases":
        name, _, rest = line.partition("=")
        rest = re.sub(r"\b(host|port)=\S+ ?", "", rest)
        return f"{name}= host=127.0.0.1 port={server_port} {rest}"
    given = {
        "listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": str(folder),
        "logfile": str(folder / "pgbouncer.log"), "pidfile": str(folder / "pgbouncer.pid"),
        "user": "",
    }  # fmt: skip
    name = line.partition("=")[0].strip()
    return f"{name} = {given[name]}" if section == "pgbouncer" and name in given else line


def _file(setting: str) -> str:
    if setting.endswith("tls_key_file"):
        return "tls.key"
    if setting.endswith("tls_cert_file"):
        return "tls.crt"
    if setting.endswith("tls_ca_file"):
        return "ca.crt"
    return {"auth_hba_file": "pg_hba.conf", "auth_ident_file": "pg_ident.conf"}.get(setting, "userlist.txt")


def written(path: Path, text: str) -> None:
    """A file that forebay's user alone may read."""
    path.write_text(text)
    path.chmod(0o600)
    account.give(path)
