"""`forebay classify`, and the engine's answer that it is made of."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from forebay import _engine
from forebay.cli import guarded, root
from forebay.cli.classify import MEANING
from forebay.failure import Exit

TRACES = Path(__file__).resolve().parents[3] / "crates/forebay-sql/src/traces.rs"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    code = guarded(lambda: root.main(["classify", *arguments], prog_name="forebay", standalone_mode=False))
    return code, capsys.readouterr().out


def test_every_trace_of_the_engine_has_words() -> None:
    """A trace without words would be a traceback in the user's hands."""
    names = re.findall(r'^        \(Traces::[A-Z_]+, "([a-z ]+)"\),$', TRACES.read_text(), re.MULTILINE)
    assert len(names) > 10
    assert list(MEANING) == names


def test_a_setting_is_told_with_its_name_and_why_it_matters(capsys: pytest.CaptureFixture[str]) -> None:
    """People ask because a pooler lost their SET."""
    code, said = run(capsys, "SET app.tenant = '7'")
    assert code == Exit.OK
    assert said == (
        "1. SET\n"
        "   sets app.tenant: it lasts beyond the transaction: the client finds it again on any server, "
        "others never see it\n"
        "needs the catalogue for: nothing\n"
        "may run on the primary only: it belongs to its session\n"
    )


def test_each_statement_is_told_and_the_names_in_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The names say where surprises can come from."""
    code, said = run(capsys, "LISTEN jobs; SELECT take(id::job_id) FROM jobs WHERE id > 1")
    assert code == Exit.OK
    assert said.splitlines()[0] == "1. LISTEN jobs"
    assert said.splitlines()[2:] == [
        "2. SELECT",
        "   leaves nothing behind by itself",
        "functions: take",
        "operators: >",
        "relations: jobs",
        "types: job_id",
        "needs the catalogue for: functions take; relations jobs; types job_id",
        "Without it that counts as what may do anything; --server DSN reads it, as forebay does.",
        "may run on the primary only: it belongs to its session",
    ]


def test_json_holds_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts that look through an application's statements."""
    code, said = run(capsys, "--json", "select set_config('a.b', t.c, false) from t")
    answer = json.loads(said)
    assert code == Exit.OK
    assert answer["statements"] == [{"verb": "SELECT", "name": None, "traces": ["setting"], "settings": ["a.b"]}]
    assert (answer["version"], answer["is_parsed"], answer["maybe_functions"]) == (1, True, ["c"])
    assert answer["needs_catalogue"]["relations"] == ["t"]
    assert answer["route"] == {"to": "primary", "because": "may do anything: what it runs can't be told"}


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("select count(*) from pg_class", "a replica: it only reads"),
        ("begin read only", "a replica: it begins a read-only transaction"),
        ("select 1 for update", "the primary only: it asks for what a replica refuses or answers otherwise"),
        ("delete from pg_class", "the primary only: it writes"),
    ],
)
def test_where_a_text_may_run_is_said(capsys: pytest.CaptureFixture[str], text: str, route: str) -> None:
    """Whoever adds replicas asks this of each statement."""
    assert run(capsys, text)[1].splitlines()[-1] == f"may run on {route}"


@pytest.mark.parametrize("text", ["selec 1", "select 'a", "select " + "1," * 40_000 + "1"])
def test_a_text_that_is_refused_says_so(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Exit status 1, so that a script stops."""
    code, said = run(capsys, text)
    assert code == Exit.FINDINGS
    assert said.startswith("PostgreSQL's grammar refuses this, or it is too long: longer than 1,024 kB, or than 64 kB")


def test_a_text_is_read_up_to_the_length_that_is_told() -> None:
    """The engine reads more than its grammar takes: what is left out differs in literals alone."""
    most = json.loads(_engine.classify(""))["bytes_max"]["text"]
    row = ",(123456789)"
    long = "insert into t values (1)" + row * ((most - 24) // len(row))
    assert json.loads(_engine.classify(long))["is_parsed"]
    assert not json.loads(_engine.classify(long + row))["is_parsed"]


def test_a_dash_reads_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long statements don't fit a command line."""
    monkeypatch.setattr("sys.stdin", io.StringIO("begin;\ncommit;\n-- done\n"))
    assert run(capsys, "-") == (Exit.OK, "\n".join([
        "1. BEGIN", "   leaves nothing behind by itself", "2. COMMIT", "   leaves nothing behind by itself",
        "needs the catalogue for: nothing",
            "may run on the primary only: it begins a transaction that may write", "",
    ]))  # fmt: skip


def test_a_text_without_statements_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty answer would look like a fault."""
    assert run(capsys, " -- nothing")[1].startswith("no statement\n")


def test_the_engine_answers_in_json_for_any_text() -> None:
    """NUL and letters of any script among them."""
    for text in ("", "\0", "select 'é' as \"Ü\"", "x" * 100_000, "(" * 30_000):
        assert isinstance(json.loads(_engine.classify(text))["statements"], list)
