"""What a reload puts in force of a configuration that was read."""

from __future__ import annotations

from pathlib import Path

from forebay.config import Config, diff
from forebay.config.importers.process import ini_settings
from forebay.control.source import TextSource, keep_until_restart
from forebay.dropin.source import IniSource


def config(tmp_path: Path, text: str) -> Config:
    """Of a whole forebay.toml, but for its database."""
    text += '[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n'
    return TextSource(text, tmp_path).load().config


def test_settings_that_only_a_start_reads_stay_as_they_run(tmp_path: Path) -> None:
    """The engine refuses a reload that changes one, and SHOW CONFIG must not tell what is not so."""
    running = config(tmp_path, "[listen]\nport = 7000\nunix = 'here'\n[engine]\nworkers = 1\n")
    read = config(tmp_path, "[listen]\nport = 7001\nbacklog = 9\n[metrics]\naddress = '127.0.0.1:1'\n")
    kept = keep_until_restart(running, read)
    assert (kept.engine.listen, kept.engine.engine, kept.engine.metrics) == (
        running.engine.listen, running.engine.engine, running.engine.metrics
    )  # fmt: skip
    assert kept.draft.value("listen", "port") == 7000


def test_other_settings_are_taken(tmp_path: Path) -> None:
    """Whole, with what a reload can change of the same section."""
    running = config(tmp_path, "[listen]\nport = 7000\n")
    read = config(tmp_path, "[server_defaults]\npool_size = 7\n[listen]\nport = 7001\ntls = { mode = 'prefer' }\n")
    kept = keep_until_restart(running, read)
    assert kept.engine.databases == read.engine.databases
    assert kept.draft.value("listen", "tls.mode") == "prefer"


def test_a_change_that_waits_is_told_until_it_is_taken_back(tmp_path: Path) -> None:
    """And taking it back is no change."""
    running, read = (config(tmp_path, f"[listen]\nport = {port}\n") for port in (7000, 7001))
    kept = keep_until_restart(running, read)
    assert diff(kept, read) == ("listen.port: 7000 -> 7001 (takes effect at the next start)",)
    assert diff(kept, running) == ()
    assert keep_until_restart(kept, running).engine == running.engine


def test_show_config_of_an_ini_tells_what_runs(tmp_path: Path) -> None:
    """Of settings that only a start reads: as they were, also where they were not given; of others the new ones."""

    def read(lines: str) -> Config:
        path = tmp_path / "pgbouncer.ini"
        path.write_text(f"[databases]\nshop = host=10.0.0.5\n[pgbouncer]\nlisten_addr = 127.0.0.1\n{lines}")
        return IniSource(path, environment={}).load().config

    running = read("listen_port = 7000\npidfile = a.pid\nquery_timeout = 5\n")
    kept = keep_until_restart(running, read("listen_port = 7001\nlisten_backlog = 9\nquery_timeout = 6\n"))
    assert kept.draft.process is not None
    shown = {line.key: line.value for line in ini_settings(kept.draft.process)}
    assert [shown[name] for name in ("listen_port", "pidfile", "listen_backlog", "query_timeout")] == [
        "7000", "a.pid", "128", "6"
    ]  # fmt: skip
