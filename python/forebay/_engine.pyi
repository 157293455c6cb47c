"""The extension module: the Rust engine behind a few functions and one class."""

def version() -> str:
    """The package's version."""

def parse_toml(text: str) -> str:
    """forebay.toml as JSON, with the place of every key and value; see crates/forebay-config."""

def parse_ini(text: str) -> str:
    """pgbouncer.ini as the same."""

def parse_userlist(text: str) -> str:
    """userlist.txt as the same."""

def scram_verifier(password: str, *, salt: bytes, iterations: int = 4096) -> str:
    """The SCRAM-SHA-256 verifier, as pg_authid.rolpassword holds it. Releases the interpreter lock.

    Raises ValueError for a salt or a number of iterations outside the limits.
    """
