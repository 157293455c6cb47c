"""PgBouncer's command line."""

from __future__ import annotations

import getopt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forebay import __version__
from forebay.observe.pgbouncer_log import PGBOUNCER_VERSION

SHORT: Final = "dRqvu:Vh"
LONG: Final = ("daemon", "reboot", "quiet", "verbose", "user=", "version", "help")

HELP: Final = """\
{name}: forebay, a connection pooler for PostgreSQL, in place of PgBouncer.

Usage: {name} [OPTION]... CONFIG.ini

  -d, --daemon      run in the background (needs pidfile, and logfile or syslog)
  -R, --reboot      take over from a running forebay
  -q, --quiet       write no log to standard error
  -v, --verbose     log decisions as well
  -u, --user=USER   become this Unix user
  -V, --version     show the version
  -h, --help        show this help

Signals: TERM  stop once all clients have left; a second one at once
         INT   stop once no server is in use; a second one at once
         QUIT  stop at once
         HUP   reload CONFIG.ini, and open the log file anew
         USR1  PAUSE
         USR2  RESUME
"""
VERSION: Final = f"PgBouncer {PGBOUNCER_VERSION}\nforebay {__version__}\n"


class WrongUse(Exception):
    """The command line can't be understood; the text is for standard error."""


class Told(Exception):
    """All that was asked for is this text."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    config: Path
    is_daemon: bool = False
    is_reboot: bool = False
    is_quiet: bool = False
    verbose: int = 0
    user: str | None = None


def read(argv: Sequence[str]) -> Options:
    """Reads the command line; argv[0] is the program's name. Raises WrongUse, and Told for -V and -h."""
    name = Path(argv[0]).name or "forebay-pgbouncer"
    hint = f'Try "{name} --help" for more information.'
    try:
        given, rest = getopt.gnu_getopt(list(argv[1:]), SHORT, list(LONG))
    except getopt.GetoptError as wrong:
        raise WrongUse(f"{name}: {wrong.msg}\n{hint}") from None
    flags = [flag for flag, _ in given]
    if {"-h", "--help"} & set(flags):
        raise Told(HELP.format(name=name))
    if {"-V", "--version"} & set(flags):
        raise Told(VERSION)
    if len(rest) != 1:
        wanted = "a configuration file is needed" if not rest else f"one configuration file is taken, not {len(rest)}"
        raise WrongUse(f"{name}: {wanted}\n{hint}")
    users = [value for flag, value in given if flag in ("-u", "--user")]
    return Options(
        config=Path(rest[0]),
        is_daemon=bool({"-d", "--daemon"} & set(flags)),
        is_reboot=bool({"-R", "--reboot"} & set(flags)),
        is_quiet=bool({"-q", "--quiet"} & set(flags)),
        verbose=sum(flag in ("-v", "--verbose") for flag in flags),
        user=users[-1] if users else None,
    )
