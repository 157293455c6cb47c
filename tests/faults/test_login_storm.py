"""Row 17: whoever guesses passwords waits for his own guesses, and nobody else does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import threading
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import PASSWORD, Postgres
from tests.harness.wire import message, startup, text

# In flight at once, each from an address of its own.
GUESSERS = 40


def guess(port: int, number: int, stop: Event, answered: Synchronized[int], let_in: Synchronized[int]) -> None:
    """Guesses again and again, for a user that exists and one that does not in turn."""
    turn = number
    while not stop.is_set():
        turn += 1
        user = "scram_user" if turn % 2 else "nobody_at_all"
        source = (f"127.0.1.{1 + number}", 0)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=20, source_address=source) as wire,
        ):
            wire.sendall(startup(user=user, database="app"))
            if wire.recv(64)[:1] != b"R":
                continue
            wire.sendall(message("p", text(os.urandom(9).hex())))
            answer = wire.recv(4096)
            count = answered if answer[:1] == b"E" else let_in
            with count.get_lock():
                count.value += bool(answer)


def storm(port: int, stop: Event, answered: Synchronized[int], let_in: Synchronized[int]) -> None:
    """A process of its own: who is measured must not wait for its threads."""
    guessers = [
        threading.Thread(target=guess, args=(port, number, stop, answered, let_in)) for number in range(GUESSERS)
    ]
    for guesser in guessers:
        guesser.start()
    for guesser in guessers:
        guesser.join()


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
    good.wire().close()
    spawn = multiprocessing.get_context("spawn")
    stop, answered, let_in = spawn.Event(), spawn.Value("i", 0), spawn.Value("i", 0)
    guessers = spawn.Process(target=storm, args=(forebay.port, stop, answered, let_in))
    guessers.start()
    try:
        until(lambda: answered.value >= GUESSERS * 25, within_s=60, what="they guess")
        passed_by = []
        for _ in range(30):
            before = answered.value
            with good.wire() as wire:
                passed_by.append(answered.value - before)
                assert wire.value("select 1") == "1"
    finally:
        stop.set()
        guessers.join()
    print(sorted(passed_by))
    assert (let_in.value, guessers.exitcode) == (0, 0)
    # Guesses that were answered meanwhile: however busy the machine, all in flight are if it queues behind them.
    assert statistics.median(passed_by) < GUESSERS / 2
