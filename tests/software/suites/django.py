"""Django: those parts of its own suite that lean on the database, from the source that PyPI has, over psycopg 3."""

from __future__ import annotations

from pathlib import Path

from tests.harness.postgres import Programs
from tests.software import results, sources
from tests.software.shape import SUITE_S, Results, Run, Software

VERSION = "5.2.19"
PINS = (
    f"Django=={VERSION}", "asgiref==3.13.0", "sqlparse==0.6.1", "psycopg==3.3.9", "psycopg-binary==3.3.9",
    "psycopg-pool==3.3.3", "typing_extensions==4.16.0", "unittest-xml-reporting==4.0.0", "lxml==6.1.3", "tblib==3.2.2",
    "tzdata==2026.6", "Jinja2==3.1.6", "MarkupSafe==3.0.4",
)  # fmt: skip

# Its labels: the back end itself, then what leans on transactions, locks, DDL, types and cursors.
LABELS = (
    "backends", "transactions", "transaction_hooks", "schema", "postgres_tests", "migrations", "migrations2",
    "introspection", "inspectdb", "indexes", "constraints", "select_for_update", "get_or_create", "bulk_create",
    "raw_query", "datatypes", "timezones", "delete_regress", "multiple_database", "async", "dbshell", "basic",
)  # fmt: skip

# A collation of ICU, which the release is built without; what it sorts by does not matter here.
SETUP = ("create collation \"sv-x-icu\" (locale = 'C')",)

SETTINGS = """\
DATABASES = {{
    name: {{
        "ENGINE": "django.db.backends.postgresql", "NAME": "unused", "USER": {user!r}, "HOST": {host!r},
        "PORT": {port}, "TEST": {{"NAME": test}},
        "OPTIONS": {{"sslmode": "disable", "server_side_binding": {binding}}},
    }}
    for name, test in (("default", "suite"), ("other", "suite_other"))
}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "xmlrunner.extra.djangotestrunner.XMLTestRunner"
TEST_OUTPUT_DIR = {folder!r}
TEST_OUTPUT_FILE_NAME = "results.xml"
"""


def prepare(home: Path, programs: Programs) -> None:
    """Its tests beside the installed framework."""
    sources.environment(home, *PINS)
    (sources.source(home, f"Django=={VERSION}", programs) / "tests").rename(home / "tests")
    # The release's uuid-ossp wants a library that is not in its wheel; no test uses more of it than that it is there.
    migration = home / "tests" / "postgres_tests" / "migrations" / "0001_setup_extensions.py"
    migration.write_text(migration.read_text().replace('CreateExtension("uuid-ossp"),', ""))


def execute(run: Run) -> Results:
    """The databases are there already, and stay: neighbours are connected to them."""
    settings = SETTINGS.format(
        user=run.target.user, host=run.target.host, port=run.target.port, folder=str(run.folder), binding=True
    )
    (run.folder / "forebay_settings.py").write_text(settings)
    words = ("runtests.py", *LABELS, "--settings=forebay_settings", "--parallel=1", "--keepdb", "--noinput", "-v1")
    sources.do(
        (sources.python(run.home), *words), cwd=run.home / "tests", log=run.folder / "suite.log", within_s=SUITE_S,
        env={**run.environment, "PYTHONPATH": str(run.folder)},
    )  # fmt: skip
    return results.junit(run.folder / "results.xml")


SOFTWARE = Software(
    "django", VERSION, f"{len(LABELS)} parts of its own suite, server-side parameters", PINS, prepare, execute,
    setup={"suite": SETUP, "suite_other": SETUP},
)  # fmt: skip
