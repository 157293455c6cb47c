"""What a process holds in memory: modules for what its configuration does not use are not loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import sys
from pathlib import Path
import forebay.dropin.start
from forebay.control.hooks import HookRunner
from forebay.control.lookup import build_lookup
from forebay.dropin.source import IniSource

configuration = IniSource(Path(sys.argv[1]), environment={}).load()
build_lookup(configuration, HookRunner(), (), lambda _, listed: listed)
print(*sys.modules)
"""
LATE = {
    "forebay._generated.pages", "forebay.cli", "forebay.config.access.directory", "forebay.config.access.hba",
    "forebay.config.access.ident", "forebay.config.access.records", "forebay.config.advice", "forebay.config.convert",
    "forebay.control.auth_query", "forebay.control.discover.poll", "forebay.control.embedded",
    "forebay.control.ldap.connection", "forebay.control.pam", "forebay.control.verdicts", "importlib.resources",
    "psycopg",
}  # fmt: skip
DIRECTORY = 'auth_ldap_options = ldapserver=127.0.0.1 ldapprefix="cn="'


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        ("auth_type = scram-sha-256\n", set()),
        ("auth_type = md5\nserver_tls_sslmode = require\n", set()),
        ("auth_type = hba\nauth_hba_file = hba.conf\n", {"directory", "hba", "records"}),
        (f"auth_type = ldap\n{DIRECTORY}\n", {"directory", "records", "verdicts", "pam", "connection"}),
        ("auth_type = pam\n", {"verdicts", "pam", "connection"}),
    ],
    ids=["plain", "tls", "hba", "ldap", "pam"],
)
def test_what_is_not_used_is_not_loaded(lines: str, needed: set[str], tmp_path: Path) -> None:
    """Each of thousands of sidecars pays for it, in memory and at its start."""
    (tmp_path / "hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    users = tmp_path / "userlist.txt"
    users.write_text('"app" "pw"\n')
    users.chmod(0o600)
    ini = tmp_path / "pgbouncer.ini"
    ini.write_text(f"[databases]\napp = host=127.0.0.1\n[pgbouncer]\nauth_file = userlist.txt\n{lines}")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ini)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {name.rpartition(".")[2] for name in LATE & set(done.stdout.split())} == needed
