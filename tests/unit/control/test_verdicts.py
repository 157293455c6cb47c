"""Who judges a password: the very directory or service that its rule named, in a share of the time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from forebay.config import Config, load_text
from forebay.config.access.shapes import AccessRules, Directory, PamService
from forebay.control import verdicts
from forebay.control.claim import Claim
from forebay.control.ldap import judge
from forebay.control.ldap.ber import element, integer, text
from forebay.control.ldap.connection import DirectoryFailed
from forebay.control.secrets import LookupFailed
from forebay.control.verdicts import Verdicts

HEAD = '[databases.shop]\nendpoints = ["10.0.0.5:5432"]\n[users.app]\nsecret = { env = "APP" }\n[auth]\n'


def configured(folder: Path, auth: str) -> Config:
    loaded = load_text(HEAD + auth, folder=folder, environ={"APP": "x"})
    assert loaded.config is not None, loaded.findings
    return loaded.config


def numbers(config: Config) -> list[int]:
    return [rule.service for rule in config.engine.auth.access.rules or ()]


def test_a_reload_hands_no_password_to_another_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may have been told its rule before the reload, and send its password after."""
    asked: list[str] = []

    def is_right(directory: Directory, *_: object, **__: object) -> bool:
        asked.append(directory.servers[0][0])
        return True

    monkeypatch.setattr(judge, "is_right", is_right)
    rule = "host all all all ldap ldapserver={} ldapprefix=x\n"
    services = "".join(f"local all {name} pam pamservice={name}\n" for name in ("one", "two"))
    (tmp_path / "before").write_text(rule.format("a") + rule.format("b") + services)
    (tmp_path / "after").write_text(rule.format("c") + rule.format("b") + services[services.index("\n") + 1 :])
    before, after = (configured(tmp_path, f'type = "hba"\nhba_file = "{name}"') for name in ("before", "after"))
    single = [
        configured(tmp_path, f'type = "ldap"\nldap_options = "ldapserver={name} ldapprefix=x"') for name in ("a", "d")
    ]
    a, b, one, two = numbers(before)
    c, still_b, still_two = numbers(after)
    own = [config.engine.auth.access.service for config in single]
    assert (still_b, still_two, own[0]) == (b, two, a)
    assert len({a, b, c, one, two, own[1]}) == 6
    verdict = Verdicts(after.access, authorities=None, timeout_s=10)
    assert asyncio.run(verdict.is_right(Claim("ldap", b, "shop", "app", "x", "unix")))
    for method, service in (("ldap", a), ("ldap", own[1]), ("pam", one), ("pam", b), ("ldap", two), ("pam", 0)):
        with pytest.raises(LookupFailed, match="is not configured any more"):
            asyncio.run(verdict.is_right(Claim(method, service, "shop", "app", "x", "unix")))  # type: ignore[arg-type]
    assert asked == ["b"]


@contextlib.contextmanager
def directory_saying(*answers: Sequence[bytes]) -> Iterator[int]:
    """A directory that serves one connection: to each message the next answers. Its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for number, several in enumerate(answers, 1):
                    connection.recv(1024)
                    connection.sendall(b"".join(element(0x30, integer(number), one) for one in several))
                connection.recv(1024)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def result(tag: int, code: int) -> bytes:
    return element(tag, integer(code, 0x0A), text(""), text(""))


def test_a_silent_server_leaves_time_for_the_next() -> None:
    """Each of those that are left has the same share of what is left."""
    with socket.create_server(("127.0.0.1", 0)) as silent, directory_saying([result(0x61, 0)]) as port:
        servers = tuple(("127.0.0.1", one) for one in (silent.getsockname()[1], port))
        began = time.monotonic()
        assert judge.is_right(Directory(servers, prefix="x"), "app", "x", authorities=None, timeout_s=4)
        assert 2 <= time.monotonic() - began < 4
        with pytest.raises(DirectoryFailed, match=r"a\.\.b is no name of a host"):
            judge.is_right(Directory((("a..b", 389),), prefix="x"), "app", "x", authorities=None, timeout_s=10)
        with pytest.raises(DirectoryFailed, match=f":{servers[0][1]}: it does not answer.*"):
            judge.is_right(Directory(servers[:1], prefix="x"), "app", "x", authorities=None, timeout_s=0.2)


@pytest.mark.parametrize("code", [19, 32, 34, 49, 50, 53])
def test_an_account_that_is_locked_reads_as_a_wrong_password(code: int) -> None:
    """Other words would tell which users exist."""
    with directory_saying([result(0x61, code)]) as port:
        directory = Directory((("127.0.0.1", port),), prefix="x")
        assert not judge.is_right(directory, "app", "x", authorities=None, timeout_s=10)


def test_an_entry_that_may_not_be_the_only_one_is_nobody() -> None:
    """A directory with a limit of one says so (4), and may have left out another user of that name."""
    entry, bound = element(0x64, text("uid=app"), element(0x30)), [result(0x61, 0)]
    for code, is_right in ((0, True), (4, False)):
        with directory_saying(bound, [entry, result(0x65, code)], bound) as port:
            directory = Directory((("127.0.0.1", port),), base="dc=x")
            assert judge.is_right(directory, "app", "x", authorities=None, timeout_s=10) is is_right


def test_a_question_that_can_not_begin_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have no thread to give; when it has again, logins go on."""
    monkeypatch.setattr(verdicts, "CALLS_MAX", 1)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def world() -> None:
        verdict = Verdicts(AccessRules(judges={1: PamService("x")}), authorities=None, timeout_s=1)
        monkeypatch.setattr(threading.Thread, "start", refused)
        for _ in range(3):
            with pytest.raises(LookupFailed, match="no thread"):
                await verdict.is_right(Claim("pam", 1, "shop", "app", "x", "unix"))

    asyncio.run(world())
