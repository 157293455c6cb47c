"""What nobody is told: no secret and nothing of a statement is in the log, in metrics, in SHOW, or in a core file."""

from __future__ import annotations

import base64
import os
import re
import resource
import signal
import struct
from dataclasses import dataclass, field

import psycopg
import pytest
from forebay.admin.registry import COMMANDS

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Forebay, Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.target import Target
from tests.harness.wire import bind, cancel, execute, parse, query, sync

USER = "scram_user"
MISTYPED = "mistyped-hush-1"
# Each stands in a statement, in a value, or in what a client sends at its start.
SPOKEN = {
    "literal": "literal-hush-2",
    "parameter": "parameter-hush-3",
    "setting": "setting-hush-4",
    "option": "option-hush-5",
    "copied": "copied-hush-6",
    "payload": "payload-hush-7",
    "prepared": "prepared-hush-8",
    "malformed": "malformed-hush-9",
}


@dataclass
class Planted:
    """What must not be found, by what it is."""

    texts: dict[str, str] = field(default_factory=dict)

    def add_key(self, kind: str, key: bytes) -> None:
        """A key, however it may be printed."""
        self.texts[f"{kind} in hexadecimal"] = key.hex()
        self.texts[f"{kind} in base64"] = base64.b64encode(key).decode().rstrip("=")
        self.texts[f"{kind} as Rust prints bytes"] = ", ".join(map(str, key))
        if len(key) == 4:
            self.texts[f"{kind} as a number"] = str(struct.unpack("!I", key)[0])
            self.texts[f"{kind} as a signed number"] = str(struct.unpack("!i", key)[0])

    def found_in(self, text: str) -> list[str]:
        """What of it stands there."""
        lower = text.lower()
        return [kind for kind, secret in self.texts.items() if secret.lower() in lower]


def planted(direct: Target) -> Planted:
    """Passwords, what PostgreSQL keeps of them, and what will be said."""
    secrets = Planted({"the password": PASSWORD.format(USER), "a wrong password": MISTYPED, **SPOKEN})
    with direct.at(user="postgres").wire() as wire:
        verifier = str(wire.value(f"select rolpassword from pg_authid where rolname = '{USER}'"))
    for name, key in zip(("StoredKey", "ServerKey"), verifier.rpartition("$")[2].split(":"), strict=True):
        secrets.add_key(name, base64.b64decode(key))
    return secrets


def provoke(forebay: Forebay, direct: Target, secrets: Planted) -> None:
    """All that a client can do wrong, and what makes forebay speak."""
    target = forebay.target.at(user=USER, password=PASSWORD.format(USER))
    for user in (USER, "nobody_knows_me"):
        with pytest.raises(psycopg.OperationalError):
            forebay.target.at(user=user, password=MISTYPED).connect().close()
    with pytest.raises(psycopg.OperationalError):
        target.connect(options=f"-c {SPOKEN['option']}").close()
    target.connect(options=f"-c app.token={SPOKEN['option']}").close()
    with target.wire() as wire:
        secrets.add_key("a cancel key", wire.key[1])
        wire.ask(query(f"select '{SPOKEN['literal']}'::int"))
        wire.ask(query(f"selec '{SPOKEN['literal']}'"))
        wire.ask(parse("", "select $1::int"), bind(values=[SPOKEN["parameter"].encode()]), execute(), sync())
        wire.ask(query(f"set app.token = '{SPOKEN['setting']}'"))
        wire.ask(query(f"set work_mem = '{SPOKEN['setting']}'"))
        wire.ask(query(f"prepare p as select '{SPOKEN['prepared']}'"))
        wire.ask(query(f"select pg_notify('news', '{SPOKEN['payload']}')"))
        data = SPOKEN["copied"].encode() + b"\n"
        copied = b"d" + struct.pack("!I", 4 + len(data)) + data + b"c" + struct.pack("!I", 4)
        wire.ask(query("create temp table t (a int); copy t from stdin"), copied)
        with target.dial() as canceller:
            canceller.send(cancel(*wire.key))
            canceller.rest()
    with target.wire() as wire:
        wire.ask(query(f"begin; create temp table t as select '{SPOKEN['literal']}' as a"))
        pid = wire.value("select pg_backend_pid()")
        wire.send(query(f"select pg_sleep(30), '{SPOKEN['literal']}'"))
        sleeps = f"from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'"
        with direct.at(user="postgres").wire() as killer:
            until(lambda: killer.value(f"select count(*) {sleeps}") == "1", within_s=10, what="it runs")
            assert killer.value(f"select pg_terminate_backend(pid) {sleeps}") == "t"
        assert [frame.fields["C"] for frame in wire.ready() if frame.tag == "E"] == ["57P01"]
    with target.wire() as wire:
        # A message of a type that there is none of, with something in it.
        wire.send(b"?" + struct.pack("!I", 4 + len(SPOKEN["malformed"])) + SPOKEN["malformed"].encode())
        wire.rest()


def shown(forebay: Forebay) -> str:
    """What all of SHOW prints."""
    names = [name for name in COMMANDS if name.startswith("show ")]
    assert len(names) > 10, names
    return "\n".join(f"{name}: {forebay.console(name)}" for name in names)


@pytest.mark.variants("uring-2", "epoll-1")
def test_log_metrics_and_show_tell_no_secret(start: Start, server: Postgres, direct: Target, variant: Variant) -> None:
    """Logs are shipped, dashboards are shared, and SHOW is pasted into tickets.

    Clients give their passwords as they are, and forebay proves itself to the server by SCRAM: it has everything.
    """
    secrets = planted(direct)
    forebay = start(
        configuration(
            server,
            variant,
            databases={"app": {"on_pin": "notice"}},
            auth={"type": "password"},
            log={"level": "debug", "connections": True, "min_duration": "1ms"},
        )
    )
    with forebay.target.at(user=USER, password=PASSWORD.format(USER)).wire() as there:
        secrets.add_key("a cancel key of one that is there", there.key[1])
        there.ask(query(f"create temp table kept as select '{SPOKEN['literal']}' as a"))
        there.ask(query(f"set app.token = '{SPOKEN['setting']}'"))
        provoke(forebay, direct, secrets)
        places = {"SHOW": shown(forebay), "metrics": forebay.metrics()}
    verifier = f"SCRAM-SHA-256$4096:{base64.b64encode(b'salt' * 4).decode()}${SPOKEN['malformed']}"
    refused = dict(forebay.sections)
    refused["users.mallory"] = {"secret": {"verifier": verifier, "bogus": 1}}
    assert forebay.reload(refused)["event"] == "reload_refused"
    names = {str(line.get("event")) for line in forebay.log()}
    assert {"login_refused", "server_lost", "pinned", "client_closed", "slow_request"} <= names, names
    places["the log"] = forebay.log_path.read_text()
    found = {place: secrets.found_in(text) for place, text in places.items()}
    assert not any(found.values()), found
    # What is searched is what was written, and a secret in it would be found.
    assert USER in places["the log"]
    assert secrets.found_in(f"reason={PASSWORD.format(USER)} key={secrets.texts['StoredKey in hexadecimal'].upper()}")


@pytest.mark.parametrize("is_on", [False, True], ids=["off", "on"])
@pytest.mark.variants("epoll-1")
def test_a_core_file_is_written_only_where_it_is_asked_for(
    start: Start, server: Postgres, variant: Variant, is_on: bool
) -> None:
    """A core file on a disk is a copy of every password; engine.core_dumps is off unless somebody turns it on."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    forebay = start(configuration(server, variant, engine={"core_dumps": is_on}))
    with forebay.target.wire() as wire:
        assert wire.value("select 1") == "1"
    resource.prlimit(forebay.pid, resource.RLIMIT_CORE, (hard, hard))
    process, forebay.process = forebay.process, None
    assert process is not None
    process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -os.WTERMSIG(status)
    assert process.returncode == -signal.SIGABRT
    # Where the system forbids core files to everybody, turning them on changes nothing.
    assert os.WCOREDUMP(status) == (is_on and hard != 0)
    files = [path for path in forebay.folder.iterdir() if re.match(r"core(\.|$)", path.name)]
    assert is_on or not files
    for path in files:
        path.unlink()
