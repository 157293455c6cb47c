"""Row 17: whoever guesses passwords waits for his own guesses, and nobody else does."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import threading
import time

import pytest

from tests.conftest import Start
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.wire import message, startup, text

# In flight at once, each from an address of its own.
GUESSERS = 40


def guess(port: int, number: int, stop: threading.Event, took: list[float], let_in: list[int]) -> None:
    """Guesses again and again, for a user that exists and one that does not in turn."""
    turn = number
    while not stop.is_set():
        turn += 1
        user = "scram_user" if turn % 2 else "nobody_at_all"
        began = time.monotonic()
        source = (f"127.0.0.{2 + number}", 0)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=20, source_address=source) as wire,
        ):
            wire.sendall(startup(user=user, database="app"))
            if wire.recv(64)[:1] != b"R":
                continue
            wire.sendall(message("p", text(os.urandom(9).hex())))
            answer = wire.recv(4096)
            if answer[:1] == b"E":
                took.append(time.monotonic() - began)
            elif answer:
                let_in.append(turn)


@pytest.mark.variants("uring-2", "epoll-1")
def test_a_good_login_does_not_queue_behind_guesses(start: Start, server: Postgres, variant: Variant) -> None:
    """A plain password against a SCRAM verifier costs a PBKDF2, which one thread does: without turns a storm of guesses
    from everywhere locks everybody out."""
    with server.target.at(user="postgres").wire() as admin:
        verifier = admin.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    sections = configuration(server, variant, auth={"type": "password"})
    sections["users.scram_user"] = {"secret": {"verifier": verifier}}
    forebay = start(sections)
    good = forebay.target.at(user="scram_user", password=PASSWORD.format("scram_user"))
    stop, guesses, let_in = threading.Event(), list[float](), list[int]()
    threads = [
        threading.Thread(target=guess, args=(forebay.port, number, stop, guesses, let_in)) for number in range(GUESSERS)
    ]
    good.wire().close()
    for thread in threads:
        thread.start()
    try:
        while len(guesses) < GUESSERS * 25 and all(thread.is_alive() for thread in threads):
            stop.wait(0.01)
        del guesses[:]
        mine = []
        for _ in range(30):
            began = time.monotonic()
            with good.wire() as wire:
                mine.append(time.monotonic() - began)
                assert wire.value("select 1") == "1"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert let_in == []
    assert statistics.median(mine) < statistics.median(guesses) / 2
