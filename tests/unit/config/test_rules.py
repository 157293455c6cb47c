"""Settings that do not go together are found at the check, not by the first client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from forebay.config import Loaded

USER = '[users.app]\nsecret = { env = "APP" }\n'
FLEET = "[fleet]\nname = 'x'\netcd = 'etcd://a'\n"
DATABASE = '[databases.shop]\nendpoints = ["a:1"]\n'
TOLD = "topology = 'patroni'\npoll_user = 'app'\n"
AT = "topology_source = 'patroni://a:8008'\n"
AMAZON = "topology = 'aurora'\ntopology_source = 'aurora://a.cluster-b1.eu-west-1.rds.amazonaws.com'\n"
SPLIT = "topology = 'poll'\npoll_user = 'app'\nread_write_split = true\n"
PROXIED = "[listen]\npeer_id = 1\nproxy_from = ['10.1.0.0/16', '2001:db8::/64']\n"
SCRAM = f"SCRAM-SHA-256$4096:c2FsdA==${'A' * 43}=:{'B' * 43}="


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"{DATABASE}min_pool_size = 30\nuser = 'app'\n{USER}", "FBC050"),
        (f"[listen]\naddress = '0.0.0.0'\n[auth]\ntype = 'trust'\n{DATABASE}{USER}", "FBC051"),
        (f"[listen]\naddress = '10.0.0.1'\n[auth]\ntype = 'password'\n{DATABASE}{USER}", "FBC052"),
        (USER, "FBC053"),
        (f"[databases.shop]\ndbname = 'x'\n{USER}", "FBC054"),
        (f"[databases.shop]\nendpoints = []\n{USER}", "FBC054"),
        (f"[metrics]\naddress = '127.0.0.1:6432'\n{DATABASE}{USER}", "FBC055"),
        (f"[metrics]\naddress = '0.0.0.0:6432'\n{DATABASE}{USER}", "FBC055"),
        (f"[console]\nadmins = ['ops']\n{DATABASE}{USER}", "FBC056"),
        (f"{DATABASE}min_pool_size = 3\n{USER}", "FBC057"),
        (f"[listen]\naddress = []\n{DATABASE}{USER}", "FBC058"),
        (f"{PROXIED}[peers.2]\nendpoint = '10.1.2.3:6432'\n{DATABASE}{USER}", "FBC085"),
        (f"{PROXIED}[peers.2]\nendpoint = '[2001:db8::7]:6432'\n{DATABASE}{USER}", "FBC085"),
        (f"{DATABASE}pool_size = 30\nmax_db_connections = 20\n{USER}", "FBC060"),
        (DATABASE, "FBC061"),
        (f"[auth]\nquery = 'select 1'\n{DATABASE}{USER}", "FBC062"),
        (f"[auth]\nquery = 'select 1'\nuser = 'x'\n{DATABASE}{USER}", "FBC062"),
        (f"{DATABASE}[users.app]\npool_size = 3\n", "FBC063"),
        (f"[auth]\nquery = 'q'\nuser = 'app'\ndbname = 'x'\n{DATABASE}{USER}", "FBC064"),
        (f"[limits]\nwait_bytes_max = '8KB'\n{DATABASE}{USER}", "FBC066"),
        (f"{DATABASE}secret = {{ env = 'APP' }}\n{USER}", "FBC067"),
        (f"{DATABASE}user = 'app'\nsecret = '{SCRAM}'\n{USER}", "FBC068"),
        (f"[databases.'*']\nendpoints = ['a:1']\ndbname = 'x'\n{USER}", "FBC069"),
        (f"{DATABASE}topology = 'poll'\n{USER}", "FBC170"),
        (f"{DATABASE}topology = 'poll'\npoll_user = 'md5'\n{USER}[users.md5]\nsecret = 'md5{'0' * 32}'\n", "FBC171"),
        (f"[databases.'*']\nendpoints = ['a:1']\ntopology = 'poll'\npoll_user = 'app'\n{USER}", "FBC172"),
        (f"{DATABASE}role = 'replica'\n{USER}", "FBC173"),
        (f"{DATABASE}read_write_split = true\n{USER}", "FBC173"),
        (f"{DATABASE}{SPLIT}pool_mode = 'session'\n{USER}", "FBC178"),
        (f"{DATABASE}{SPLIT}role = 'any'\n{USER}", "FBC174"),
        (f"{DATABASE}topology = 'patroni'\npoll_user = 'app'\n{USER}", "FBC175"),
        (f"{DATABASE}{TOLD}topology_source = 'etcd://a/b'\n{USER}", "FBC176"),
        (f"{DATABASE}{TOLD}topology_source = 'patroni://a b'\n{USER}", "FBC176"),
        (f"{DATABASE}{TOLD}topology_source = 'patroni://u:p@a'\n{USER}", "FBC176"),
        (f"{DATABASE}{TOLD}{AT}topology_source_user = 'x'\n{USER}", "FBC176"),
        (f"{DATABASE}{TOLD}{AT}topology_source_secret = {{ env = 'APP' }}\n{USER}", "FBC176"),
        (f"{DATABASE}{AMAZON}{USER}", "FBC170"),
        (f"{DATABASE}topology = 'aurora'\npoll_user = 'app'\n{USER}", "FBC175"),
        (f"{DATABASE}{AMAZON}poll_user = 'app'\ntopology_source_user = 'x'\n{USER}", "FBC176"),
        (
            f"{DATABASE}{AMAZON}poll_user = 'app'\ntopology_source_user = 'x'\n"
            f"topology_source_secret = {{ env = 'APP' }}\n{USER}",
            "FBC176",
        ),
        (f"{DATABASE}{AT}{USER}", "FBC177"),
        (f"{DATABASE}{SPLIT}{AT}{USER}", "FBC177"),
        (f"{DATABASE}role = 'replica'\n{AT}{USER}", "FBC177"),
        (f"{DATABASE}topology = 'none'\nrole = 'replica'\n{AT}{USER}", "FBC177"),
        (f"[fleet]\nname = 'x'\n{DATABASE}{USER}", "FBC190"),
        (f"[fleet]\netcd = 'etcd://a'\n{DATABASE}{USER}", "FBC190"),
        (f"[fleet]\nname = 'a/b'\netcd = 'etcd://a'\nnode = 'n'\n{DATABASE}{USER}", "FBC191"),
        (f"{FLEET}node = 'n m'\n{DATABASE}{USER}", "FBC191"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'http://a'\n{DATABASE}{USER}", "FBC192"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'etcd://a/b'\n{DATABASE}{USER}", "FBC192"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'etcd://u:p@a'\n{DATABASE}{USER}", "FBC192"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'etcd://a?tls=1'\n{DATABASE}{USER}", "FBC192"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'etcd://a?ca=/ca.crt'\n{DATABASE}{USER}", "FBC192"),
        (f"[fleet]\nname = 'x'\nnode = 'n'\netcd = 'etcd+https://a?key=/a.key'\n{DATABASE}{USER}", "FBC192"),
        (f"{FLEET}node = 'n'\nuser = 'u'\n{DATABASE}{USER}", "FBC192"),
        (f"{DATABASE}server_budget = 9\n{USER}", "FBC193"),
        (f"{FLEET}node = 'n'\n[databases.'*']\nendpoints = ['a:1']\nserver_budget = 9\n{USER}", "FBC194"),
        (f"{DATABASE}level = 'fast'\n{USER}", "FBC071"),
        (f"[server_defaults]\nlevel = 'fast'\n{DATABASE}{USER}", "FBC071"),
        (f"{DATABASE}level = 'fast'\npool_mode = 'session'\n{USER}pool_mode = 'transaction'\n", "FBC071"),
        (f"[listen]\ntls.certificate = '/etc/hostname'\n{DATABASE}{USER}", "FBC041"),
        (f"[listen]\ntls.mode = 'require'\n{DATABASE}{USER}", "FBC042"),
        (f"{DATABASE}tls.mode = 'verify-ca'\n{USER}", "FBC043"),
        (f"{DATABASE}tls.ca = 'nope.crt'\n{USER}", "FBC040"),
        (f"[auth]\nsecret_source = 'nope.py'\n{DATABASE}{USER}", "FBC040"),
    ],
)
def test_a_rule_that_is_broken_is_the_only_finding(load: Callable[..., Loaded], text: str, code: str) -> None:
    assert [one.code for one in load(text).findings] == [code]


@pytest.mark.parametrize(
    "text",
    [
        f"[auth]\ntype = 'trust'\n{DATABASE}[users.app]\n",
        f"[listen]\naddress = '0.0.0.0'\n{DATABASE}{USER}",
        f"[server_defaults]\nlevel = 'fast'\n{DATABASE}level = 'strict'\n{USER}",
        f"{DATABASE}level = 'fast'\npool_mode = 'session'\n{USER}",
        f"[listen]\naddress = []\nunix = '/run/forebay'\n{DATABASE}{USER}",
        f"{DATABASE}user = 'app'\nmin_pool_size = 3\n{USER}",
        f"[auth]\nquery = 'select 1'\nuser = 'app'\n{DATABASE}{USER}",
        f"{DATABASE}{TOLD}{AT}topology_source_user = 'x'\ntopology_source_secret = {{ env = 'APP' }}\n{USER}",
        f"{DATABASE}{AMAZON}poll_user = 'app'\n{USER}",
        f"[metrics]\naddress = ''\n{DATABASE}{USER}",
        f"{PROXIED}[peers.2]\nendpoint = '10.2.2.3:6432'\n[peers.3]\nendpoint = 'other:6432'\n{DATABASE}{USER}",
        f"[listen]\nport = 0\n[metrics]\naddress = '127.0.0.1:0'\n{DATABASE}{USER}",
        f"[server_defaults]\npool_size = 30\nmin_pool_size = 25\n{DATABASE}{USER}",
    ],
)
def test_what_goes_together_is_no_finding(load: Callable[..., Loaded], text: str) -> None:
    assert load(text).findings == ()


def test_a_private_key_that_others_can_read_is_refused(load: Callable[..., Loaded], tmp_path: Path) -> None:
    for name, mode in (("a.crt", 0o644), ("a.key", 0o644)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    text = f"[listen]\ntls = {{ certificate = 'a.crt', key = 'a.key' }}\n{DATABASE}{USER}"
    assert [one.code for one in load(text).findings] == ["FBC044"]
    (tmp_path / "a.key").chmod(0o600)
    assert load(text).findings == ()


def test_a_faulty_value_is_not_reported_as_missing_too(load: Callable[..., Loaded]) -> None:
    text = "[databases.shop]\nendpoints = ['a b']\n[users.app]\nsecret = { env = 'NOPE' }\n"
    assert [one.code for one in load(text).findings] == ["FBC016", "FBC020"]
    # Two hints of what to set it to would be one too many.
    text = f"{DATABASE}topology = 'patron'\nrole = 'replica'\n{AT}{USER}"
    assert [one.code for one in load(text).findings] == ["FBC014"]
