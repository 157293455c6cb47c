"""PgBouncer's command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from forebay import __version__
from forebay.dropin.options import Options, WrongUse, read
from forebay.dropin.start import run


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("x.ini", Options(Path("x.ini"))),
        ("-d -q x.ini", Options(Path("x.ini"), is_daemon=True, is_quiet=True)),
        ("x.ini -dqvvu app", Options(Path("x.ini"), is_daemon=True, is_quiet=True, verbose=2, user="app")),
        ("--daemon --quiet --verbose --user=app x.ini",
         Options(Path("x.ini"), is_daemon=True, is_quiet=True, verbose=1, user="app")),
        ("-R x.ini", Options(Path("x.ini"), is_reboot=True)),
        ("--reboot x.ini", Options(Path("x.ini"), is_reboot=True)),
    ],
)  # fmt: skip
def test_options_are_pgbouncers(arguments: str, options: Options) -> None:
    assert read(["pgbouncer", *arguments.split()]) == options


@pytest.mark.parametrize("arguments", ["", "-z x.ini", "x.ini y.ini", "-u"])
def test_wrong_use_is_exit_status_1_with_the_way_to_help(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WrongUse):
        read(["/usr/bin/pgbouncer", *arguments.split()])
    assert run(["/usr/bin/pgbouncer", *arguments.split()]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith('Try "pgbouncer --help" for more information.\n')


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_first_line_of_the_version_is_pgbouncers(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Packages compare it."""
    assert run(["pgbouncer", flag]) == 0
    assert capsys.readouterr().out == f"PgBouncer 1.25.2\nforebay {__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pgbouncer", flag]) == 0
    text = capsys.readouterr().out
    for word in ("--daemon", "--reboot", "--quiet", "--verbose", "--user", "--version", "--help"):
        assert word in text


def test_a_faulty_file_is_told_with_line_and_caret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pgbouncer.ini"
    path.write_text("[pgbouncer]\nlisten_prot = 1\n")
    assert run(["pgbouncer", str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{path}:2:1: error FBC072" in said
    assert 'did you mean "listen_port"' in said
