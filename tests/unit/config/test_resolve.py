"""What the engine gets: the right defaults, the right precedence, and the fields it knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from forebay import _engine
from forebay.config import Config, load_text, resolved
from forebay.config.access.shapes import Access

Usable = Callable[..., Config]
ROOT = Path(__file__).parents[3]


def test_the_defaults_are_those_of_the_specification(usable: Usable, minimal: str) -> None:
    engine = usable(minimal).engine
    assert engine.listen == resolved.Listen(("127.0.0.1",), 6432, None, 0o777, None, 1024, False, (), None)
    assert engine.tcp == resolved.TcpOptions(True, 15_000_000, 5_000_000, 3, 0, 5_000_000, 0, True)
    assert engine.arrivals == resolved.Arrivals((), False, "")
    assert engine.engine == resolved.EngineSettings(0, "auto", 1024, 16_384, core_dumps=False)
    assert engine.limits.login_timeout == 15_000_000
    assert engine.auth == resolved.AuthSettings(
        "scram-sha-256", False, 60_000_000, 5_000_000, 5_000_000, Access(None, (), 0, 4096)
    )
    assert engine.databases[0].pool.pool_mode == "transaction"
    assert engine.databases[0].pool.query_wait_timeout == 120_000_000
    assert engine.server_tls == (resolved.ServerTls("prefer", None, None, None),)
    assert engine.metrics == resolved.Metrics("127.0.0.1:9632")
    assert engine.fallback_database is None


def test_a_session_is_isolated_and_may_pin_unless_told_otherwise(usable: Usable, minimal: str) -> None:
    pool = usable(minimal).engine.databases[0].pool
    assert (pool.level, pool.on_pin, pool.sequence_affinity) == ("safe", "allow", "pin")
    assert (pool.pin_idle_limit, pool.catalogue_refresh) == (0, 30_000_000)


def test_a_database_beats_the_defaults_and_keeps_the_others(usable: Usable) -> None:
    text = (
        "[server_defaults]\npool_size = 30\nserver_lifetime = '2h'\n"
        "[databases.a]\nendpoints = ['a']\npool_size = 5\n[databases.b]\nendpoints = ['b']\n"
        "[users.app]\nsecret = { env = 'APP' }\n"
    )
    a, b = usable(text).engine.databases
    assert (a.pool.pool_size, b.pool.pool_size) == (5, 30)
    assert a.pool.server_lifetime == b.pool.server_lifetime == 7_200_000_000


def test_a_user_overrides_only_what_it_gives(usable: Usable, minimal: str) -> None:
    user = usable(f"{minimal}pool_size = 3\nquery_timeout = '0s'\n").engine.users[0]
    assert (user.pool_size, user.query_timeout, user.pool_mode, user.query_wait_timeout) == (3, 0, None, None)


def test_the_fallback_stands_apart(usable: Usable, minimal: str) -> None:
    engine = usable(f"{minimal}[databases.'*']\nendpoints = ['/run/postgresql']\n").engine
    assert [one.name for one in engine.databases] == ["shop"]
    assert engine.fallback_database is not None
    assert engine.fallback_database.endpoints == ("/run/postgresql/.s.PGSQL.5432",)


def test_a_forced_user_brings_its_secret(usable: Usable) -> None:
    text = "[databases.a]\nendpoints = ['a']\nuser = 'app'\n[databases.b]\nendpoints = ['b']\nuser = 'app'\n"
    text += "secret = 'own'\n[users.app]\nsecret = { env = 'APP' }\n"
    secrets = [one.forced_secret for one in usable(text).engine.databases]
    assert [one and one.text for one in secrets] == ["app's secret", "own"]


def test_databases_with_one_kind_of_tls_share_a_context(usable: Usable) -> None:
    text = "".join(
        f"[databases.{name}]\nendpoints = ['a']\ntls.mode = '{mode}'\n"
        for name, mode in zip("abc", ("require", "disable", "require"), strict=True)
    )
    engine = usable(text + "[users.app]\nsecret = { env = 'APP' }\n").engine
    assert [one.mode for one in engine.server_tls] == ["require", "disable"]
    assert [one.tls for one in engine.databases] == [0, 1, 0]


def test_a_lookup_by_query_keeps_its_user_and_secret(usable: Usable, minimal: str) -> None:
    config = usable(f"[auth]\nquery = 'select $1'\nuser = 'app'\ndbname = 'shop'\n{minimal}")
    assert config.auth_query is not None
    assert (config.auth_query.user, config.auth_query.secret.text, config.auth_query.dbname) == (
        "app",
        "app's secret",
        "shop",
    )
    assert config.engine.auth.ask_unknown


def test_a_source_of_secrets_is_a_path_or_a_module(usable: Usable, minimal: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").touch()
    assert usable(f"[auth]\nsecret_source = 'hooks.py'\n{minimal}").secret_source == str(tmp_path / "hooks.py")
    assert usable(f"[auth]\nsecret_source = 'company.secrets'\n{minimal}").secret_source == "company.secrets"


def test_settings_are_listed_as_written(usable: Usable, minimal: str) -> None:
    lines = {one.key: one for one in usable(f"[limits]\nwait_bytes_max = '128KB'\n{minimal}").settings()}
    assert (lines["limits.wait_bytes_max"].value, lines["limits.wait_bytes_max"].default) == ("128KB", "64KB")
    assert lines["listen.address"].value == "[127.0.0.1]"
    assert not lines["listen.port"].is_changeable


def test_a_text_without_a_file_is_read_too() -> None:
    loaded = load_text("[databases.a]\nendpoints = ['a']\n[users.u]\nsecret = '${S}'\n", environ={"S": "x"})
    assert loaded.config is not None


CONFIG = ROOT / "crates/forebay-core/src/config"
RUST = "".join(path.read_text() for path in (CONFIG.with_suffix(".rs"), *sorted(CONFIG.glob("*.rs"))) if path.exists())


@pytest.mark.skipif(not RUST, reason="the engine's sources are not here")
@pytest.mark.parametrize(
    "struct", [one for one in vars(resolved).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)]
)
def test_each_structure_has_the_fields_of_its_twin_in_the_engine(struct: type[msgspec.Struct]) -> None:
    body = re.search(rf"pub struct {struct.__name__} \{{(.*?)\n\}}", RUST, re.DOTALL)
    assert body is not None
    assert re.findall(r"^    pub (\w+):", body[1], re.MULTILINE) == list(struct.__struct_fields__)


def test_the_engine_takes_what_is_resolved(usable: Usable, minimal: str, tmp_path: Path) -> None:
    text = (
        f"[listen]\nport = 0\nunix = '{tmp_path}'\n[metrics]\naddress = '127.0.0.1:0'\n"
        f"[engine]\nio = 'epoll'\nworkers = 1\n{minimal}query_timeout = '5s'\n"
        "[databases.'*']\nendpoints = ['[::1]:6000']\nuser = 'app'\npool_mode = 'session'\n"
    )
    engine = _engine.Engine(usable(text).engine.to_json())
    try:
        assert engine.metrics_address is not None
        assert engine.driver == "epoll"
    finally:
        engine.stop()


def test_what_crosses_is_plain_json(usable: Usable, minimal: str) -> None:
    crossed = json.loads(usable(minimal).engine.to_json())
    assert crossed["users"][0]["secret"] == "app's secret"
