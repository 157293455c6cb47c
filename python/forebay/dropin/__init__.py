"""`forebay-pgbouncer`: forebay by PgBouncer's command line, file, signals and log.

`options` reads the command line, `process` does what is done to the process before anything is served, `source` reads
the ini, `manners` says what signals do and where the log goes, `start` puts them together.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The console script."""
    from forebay.dropin.start import run

    raise SystemExit(run(sys.argv))
