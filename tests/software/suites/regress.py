"""PostgreSQL's own regression tests, through psql and libpq, from Debian's source package of PostgreSQL 15."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

from tests.harness import account
from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import SUITE_S, Reason, Results, Run, Software

PACKAGE = "postgresql-15"
VERSION = "15.18"
PINS = (f"{PACKAGE}={VERSION}-0+deb12u1",)

# Where the machine says which archives there are.
ARCHIVES = (*Path("/etc/apt/sources.list.d").glob("*.sources"), *Path("/etc/apt/sources.list.d").glob("*.list"),
            Path("/etc/apt/sources.list"))  # fmt: skip

APT = """\
Dir::Etc::SourceList "{home}/apt/sources.list";
Dir::Etc::SourceParts "{home}/apt/parts";
Dir::State::Lists "{home}/apt/lists";
Dir::Cache "{home}/apt/cache";
APT::Sandbox::User "root";
"""

# The database's name is in what the tests expect.
DBNAME = "regression"

# What they expect of it, as pg_regress sets it where it makes one.
SETUP = tuple(
    f"alter database {DBNAME} set {name} to '{value}'"
    for name, value in {
        "lc_messages": "C", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C", "bytea_output": "hex",
        "timezone_abbreviations": "Default",
    }.items()
)  # fmt: skip


def archives(home: Path) -> None:
    """The machine's own archives of Debian, asked for sources: by a configuration that is only ours."""
    (home / "apt" / "parts").mkdir(parents=True)
    for name in ("lists/partial", "cache/archives/partial"):
        (home / "apt" / name).mkdir(parents=True)
    (home / "apt" / "sources.list").touch()
    for path in ARCHIVES:
        text = path.read_text() if path.exists() else ""
        if "debian" not in text:
            continue
        text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
        text = re.sub(r"^deb ", "deb-src ", text, flags=re.MULTILINE)
        (home / "apt" / "parts" / path.name).write_text(text)
    (home / "apt" / "apt.conf").write_text(APT.format(home=home))


def prepare(home: Path, programs: Programs) -> None:
    """The tests, and the library of C functions that some of them call, built against the release's headers."""
    archives(home)
    env = {**os.environ, "APT_CONFIG": str(home / "apt" / "apt.conf")}
    sources.step("apt-get", "-q", "update", cwd=home, env=env)
    sources.step("apt-get", "-q", "source", "--download-only", *PINS, cwd=home, env=env)
    (archive,) = home.glob("*.orig.tar.*")
    wanted = f"postgresql-{VERSION}/src/test/regress/"
    with tarfile.open(archive) as packed:
        members = [member for member in packed.getmembers() if member.name.startswith(wanted)]
        packed.extractall(home, members=members, filter="data")
    (home / wanted).rename(home / "regress")
    headers = programs.folder / "include" / "server"
    sources.step(
        "cc", "-shared", "-fPIC", "-O1", "-w", f"-I{headers}", "-o", "regress.so", "regress.c", cwd=home / "regress"
    )


def execute(run: Run) -> Results:
    """All of its parallel schedule. The server reads and writes its files: they lie where the server's user gets in.

    Its psql is of another minor release than the tests, so that some of them fail; those must say the same both ways.
    """
    place = run.postgres.folder.parent / "regress"
    shutil.copytree(run.home / "regress", place)
    for name in ("results", "testtablespace"):
        (place / name).mkdir(exist_ok=True)
    for name in ("autoinc.so", "refint.so"):
        shutil.copy(run.programs.folder / "lib" / name, place)
    for path in (place, *place.rglob("*")):
        account.give(path)
        path.chmod(0o777 if path.is_dir() else 0o666)
    libraries = run.programs.folder / "lib"
    log = run.folder / "suite.log"
    target = run.target
    sources.do(
        (
            libraries / "pgxs/src/test/regress/pg_regress", f"--host={target.host}", f"--port={target.port}",
            f"--user={target.user}", f"--dbname={target.dbname}", "--use-existing", "--max-connections=20",
            f"--inputdir={place}", f"--outputdir={place}", f"--dlpath={place}",
            f"--bindir={run.programs.folder / 'bin'}", f"--schedule={place / 'parallel_schedule'}",
        ),
        cwd=place, log=log, env={**run.environment, "LD_LIBRARY_PATH": str(libraries), "PGSSLMODE": "disable"},
        within_s=SUITE_S,
    )  # fmt: skip
    for name in ("regression.diffs", "results"):
        kept = place / name
        if kept.is_dir():
            shutil.copytree(kept, run.folder / name)
        elif kept.exists():
            shutil.copy(kept, run.folder / name)
    return results.regress(log.read_text(errors="replace"), run.folder / "results", str(place))


KNOWN = (
    Reason(
        "lists pg_prepared_statements, in which the server's statements stand under forebay's names",
        ("guc", "plancache", "prepare", "sysviews"),
    ),
    Reason("a function's dynamic SQL executes a statement that the client prepared", ("partition_prune",)),
    Reason("counts sessions of the server", ("stats",)),
    Reason("a server that has once had temporary objects keeps their empty schema", ("temp",), is_certain=False),
    Reason(
        "a DEFAULT of currval is used before the catalogue that tells of it has been read",
        ("constraints",),
        is_certain=False,
    ),
)

SOFTWARE = Software(
    "postgresql", VERSION, "its regression tests, by psql and libpq", PINS, prepare, execute, major=15,
    needs=("apt-get", "cc"), dbname=DBNAME, setup={DBNAME: SETUP}, pool_size=10,
    pool_settings={"query_wait_timeout": "5m"}, known=KNOWN,
)  # fmt: skip
