"""The environment: what stands in it beats the file, and what is missing in it is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from forebay.config import Config, Loaded

Usable = Callable[..., Config]


def test_a_variable_in_a_text_is_replaced(usable: Usable) -> None:
    text = (
        '[listen]\nport = "${PORT}"\n[databases.shop]\nendpoints = ["${DB_HOST}:${DB_PORT:-5433}"]\ndbname = "$${x}"\n'
        '[users.app]\nsecret = "${APP}"\n'
    )
    config = usable(text, environ={"PORT": "7000", "DB_HOST": "db"})
    assert config.engine.listen.port == 7000
    assert config.engine.databases[0].endpoints == ("db:5433",)
    assert config.engine.databases[0].dbname == "${x}"


def test_a_secret_by_variable_does_not_stand_in_the_file(load: Callable[..., Loaded], minimal: str) -> None:
    assert load(minimal.replace('{ env = "APP" }', '"${APP}"')).findings == ()


def test_a_variable_beats_the_file(usable: Usable, minimal: str) -> None:
    environ = {
        "FOREBAY_LISTEN_ADDRESS": "::1, 127.0.0.1",
        "FOREBAY_LISTEN_PORT": "7001",
        "FOREBAY_LOG_CONNECTIONS": "off",
        "FOREBAY_SERVER_DEFAULTS_TLS_MODE": "require",
        "FOREBAY_SERVER_DEFAULTS_QUERY_TIMEOUT": "2s",
        "FOREBAY_DATABASES__SHOP__POOL_SIZE": "7",
        "FOREBAY_USERS__app__SECRET": "other",
    }
    engine = usable(f"[listen]\nport = 7000\n{minimal}", environ=environ).engine
    assert (engine.listen.addresses, engine.listen.port) == (("::1", "127.0.0.1"), 7001)
    assert engine.log.connections is False
    assert engine.server_tls[0].mode == "require"
    assert (engine.databases[0].pool.pool_size, engine.databases[0].pool.query_timeout) == (7, 2_000_000)
    assert engine.users[0].secret is not None
    assert engine.users[0].secret.text == "other"


def test_the_environment_alone_can_configure(usable: Usable) -> None:
    environ = {"FOREBAY_DATABASES__Shop__ENDPOINTS": "a:1,b:2", "FOREBAY_USERS__app__SECRET": "x"}
    database = usable("", environ=environ).engine.databases[0]
    assert (database.name, database.endpoints) == ("Shop", ("a:1", "b:2"))


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("FOREBAY_LISTEN_PROT", "1", "FBC022"),
        ("FOREBAY_DATABASES_POOL_SIZE", "1", "FBC022"),
        ("FOREBAY_LISTEN_PORT", "x", "FBC010"),
        ("FOREBAY_LISTEN_PORT", "70000", "FBC013"),
        ("FOREBAY_LOG_LEVEL", "loud", "FBC014"),
    ],
)
def test_a_faulty_variable_is_a_finding_that_names_it(
    load: Callable[..., Loaded], minimal: str, variable: str, value: str, code: str
) -> None:
    [finding] = load(minimal, environ={variable: value}).findings
    assert (finding.code, finding.line) == (code, 0)
    assert str(finding).startswith(f"environment variable {variable}: ")


def test_variables_of_others_are_passed_over(load: Callable[..., Loaded], minimal: str) -> None:
    assert load(minimal, environ={"FOREBAY_CONFIG": "x", "FOREBAYLISTEN_PORT": "1"}).findings == ()
