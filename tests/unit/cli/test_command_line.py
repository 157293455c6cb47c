"""The command line: verbs, exit codes, sentences."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from forebay import __version__
from forebay.cli import VERBS, guarded, root
from forebay.failure import Exit, Failure


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and error output."""
    code = guarded(lambda: root.main(list(arguments), prog_name="forebay", standalone_mode=False))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_verb_is_a_command_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A line in VERBS without its file would fail in the user's hands."""
    code, listed, _ = run(capsys, "--help")
    assert code == 0
    for verb in VERBS:
        code, text, _ = run(capsys, verb, "--help")
        assert (code, text.startswith(f"Usage: forebay {verb}")) == (0, True)
        assert f"  {verb} " in listed


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """Bug reports begin with it."""
    assert run(capsys, "--version") == (0, f"forebay {__version__}\n", "")


def test_the_version_is_told_without_loading_what_it_does_not_need() -> None:
    """Shell completion and health checks call the command often."""
    code = "import sys, forebay.cli; print([m for m in ('asyncio', 'psycopg', 'forebay.config') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [("brew",), ("run",), ("up", "--port", "none"), ("up", "--port", "70000")])
def test_wrong_use_is_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """Scripts tell it from a failure."""
    code, _, error = run(capsys, *arguments)
    assert code == Exit.USAGE
    assert "Error: " in error


@pytest.mark.parametrize("exit_code", list(Exit)[1:])
def test_a_failure_is_a_sentence_with_its_hint_and_code(capsys: pytest.CaptureFixture[str], exit_code: Exit) -> None:
    """No traceback for what a user can mend."""

    def fail() -> None:
        raise Failure("the sky is low", hint="Wait.", exit=exit_code)

    assert guarded(fail) == exit_code
    assert capsys.readouterr().err == "forebay: the sky is low\n  hint: Wait.\n"


def test_an_abort_is_the_shells_code_for_it() -> None:
    """130, as for any program ended by Ctrl-C."""

    def abort() -> None:
        raise click.Abort

    assert guarded(abort) == 130


def test_init_writes_a_private_sample_that_passes_its_own_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And never overwrites a file."""
    path = tmp_path / "forebay.toml"
    assert run(capsys, "init", str(path))[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run(capsys, "check", str(path))[0] == 0
    path.write_text("mine")
    code, _, error = run(capsys, "init", str(path))
    assert (code, path.read_text()) == (1, "mine")
    assert "exists already" in error


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("etcd+https://10.0.0.1:2379/shop?ca=/nowhere/ca.crt", ("FBC179", "warning")),
        ("etcd+https://10.0.0.1:2379/shop?certificate=/nowhere/a.crt", ("FBC179", "warning")),
        ("etcd://10.0.0.1:2379/shop?name_space=db", ("FBC176", "error")),
        ("etcd://10.0.0.1:2379", ("FBC176", "error")),
        ("etcd://10.0.0.1:2379/shop", None),
        ("aurora://db.example.com", ("FBC176", "error")),
        ("aurora://db.example.com?members=db.example.com", ("FBC176", "error")),
        ("aurora://db.example.com?member=*.example.com", ("FBC176", "error")),
        ("aurora://db.example.com?members=*.example.com", None),
        ("aurora://shop.cluster-abc123.eu-west-1.rds.amazonaws.com", None),
    ],
)
def test_check_makes_the_source_of_a_topology(
    address: str, found: tuple[str, str] | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Else it says "no findings" of what run refuses."""
    path = tmp_path / "forebay.toml"
    path.write_text(
        f"[databases.shop]\nendpoints = ['a:1']\ntopology = '{address.partition(':')[0].removesuffix('+https')}'\n"
        f"topology_source = '{address}'\n"
        "poll_user = 'app'\n[users.app]\nsecret = 'plain'\n"
    )
    path.chmod(0o600)
    code, text, _ = run(capsys, "check", "--json", str(path))
    findings = [each for each in json.loads(text)["findings"] if each["code"] in ("FBC176", "FBC179")]
    assert [(each["code"], each["severity"]) for each in findings] == ([found] if found else [])
    assert all(each["line"] == 4 for each in findings)
    assert code == (1 if found == ("FBC176", "error") else 0)


def test_check_tells_findings_for_people_and_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same findings, with 1 as exit status."""
    path = tmp_path / "forebay.toml"
    path.write_text("[listen]\nprot = 1\n")
    code, text, _ = run(capsys, "check", str(path))
    assert code == 1
    assert f"{path}:2:1: error FBC005" in text
    code, text, _ = run(capsys, "check", "--json", str(path))
    document = json.loads(text)
    assert (code, document["version"], document["ok"]) == (1, 1, False)
    assert ("FBC005", 2, 1) in [(one["code"], one["line"], one["column"]) for one in document["findings"]]


def test_a_verb_mistyped_is_told_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """`No such command` alone sends its user to a list of seven to look for one letter."""
    code, _, error = run(capsys, "chekc", "forebay.toml")
    assert (code, "No such command 'chekc'. Did you mean 'check'?" in error) == (Exit.USAGE, True)
    code, _, error = run(capsys, "frobnicate")
    assert (code, "Did you mean" in error) == (Exit.USAGE, False)


def test_the_help_tells_where_to_begin_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that takes 3 for 1 tries again what can't work."""
    _, listed, _ = run(capsys, "--help")
    assert "..." not in listed[listed.index("Commands:") :], "what a command does is told whole"
    statuses = listed[listed.index("Exit status:") :]
    assert [line.split()[0] for line in statuses.splitlines()[1:]] == [str(code.value) for code in Exit]


def test_a_file_of_functions_that_is_not_there_is_told_as_such(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An exception's name and number are for programmers."""
    path = tmp_path / "forebay.toml"
    run(capsys, "init", str(path))
    code, _, error = run(capsys, "run", str(path), "--load", "missing.py")
    assert (code, "there is no file missing.py" in error, "Errno" in error) == (Exit.FINDINGS, True, False)
