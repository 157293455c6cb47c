"""Online restart: whom the running process gives its place to, and whom not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forebay._engine import state_schema
from forebay.cli import guarded, root
from forebay.config.load import load_text
from forebay.control.engine_link import Outcome
from forebay.control.succession import PROTOCOL, Predecessor, meeting_place
from forebay.failure import Exit

GOOD = {"ask": "take over", "protocol": PROTOCOL, "schema": state_schema(), "version": "0", "pid": os.getpid()}
NOTHING: dict[str, Any] = {"clients": [], "servers": [], "pools": []}


class Link:
    """Answers orders as an engine without clients does. refuses: an order that comes to nothing."""

    def __init__(self, refuses: str = "", held: dict[str, Any] = NOTHING) -> None:
        self.refuses = refuses
        self.held = held
        self.ordered: list[str] = []

    async def order(self, kind: str, _: object = None) -> Outcome:
        self.ordered.append(kind)
        return Outcome(
            done=1, snapshots=[json.dumps(self.held)], refusals=["called off"] if kind == self.refuses else []
        )


def conversation(
    *lines: dict[str, Any],
    link: Link | None = None,
    accepts: bool = True,
    held: dict[str, Any] = NOTHING,
    started_as: tuple[str, ...] = ("false",),
) -> tuple[list[dict[str, Any]], list[int]]:
    """What is answered to these lines, each said after an answer to the one before; and who was left the place."""
    left: list[int] = []
    estate = {"sockets": [], "metrics": None, "clock": 0, "prefix": "fb_", "last_statement": 0, "last_id": 0}
    engine: Any = SimpleNamespace(
        driver="epoll", estate=lambda: dict(estate), hand_over=lambda _: None, give_place=lambda: accepts
    )
    listen = SimpleNamespace(addresses=[f"127.0.0.1#{os.getpid()}"], port=1, unix=None, reuse_port=False)
    configuration: Any = SimpleNamespace(config=SimpleNamespace(engine=SimpleNamespace(listen=listen)))
    place = meeting_place(configuration.config.engine)

    async def talk() -> list[dict[str, Any]]:
        predecessor = Predecessor(
            engine, link or Link(held=held),  # type: ignore[arg-type]
            configuration=lambda: configuration, clusters=dict, is_draining=lambda: False,
            leave=left.append, is_stopping=lambda: False, started_as=started_as,
        )  # fmt: skip
        serving = asyncio.ensure_future(predecessor.serve())
        answers = []
        reader, writer = None, None
        while reader is None or writer is None:
            try:
                reader, writer = await asyncio.open_unix_connection(place)
            except OSError:
                await asyncio.sleep(0)
        for line in lines:
            writer.write(json.dumps(line).encode() + b"\n")
            if said := await asyncio.wait_for(reader.readline(), 10):
                answer = json.loads(said)
                if "bytes" in answer:
                    answer |= json.loads(await asyncio.wait_for(reader.readexactly(answer["bytes"]), 10))
                answers.append(answer)
        writer.close()
        await asyncio.sleep(0)
        serving.cancel()
        return answers

    return asyncio.run(talk()), left


@pytest.mark.parametrize(
    "wrong", [{"schema": state_schema() ^ 1}, {"protocol": PROTOCOL + 1}], ids=["another state", "another protocol"]
)
def test_who_does_not_read_the_state_is_refused(wrong: dict[str, int]) -> None:
    """It would drop what it does not know of clients that it has been given."""
    answers, left = conversation({**GOOD, **wrong})
    assert "does not read the state" in answers[0]["refused"]
    assert not left


def test_one_that_gives_up_leaves_all_as_it_was() -> None:
    link = Link()
    answers, left = conversation(GOOD, {"failed": "the port is taken"}, link=link)
    assert answers[0]["driver"] == "epoll"
    assert answers[0]["estate"]["paused"] == []
    assert answers[1]["refused"] == "the port is taken"
    assert "hand_on" not in link.ordered
    assert not left


def test_one_that_is_ready_gets_everything_and_the_place() -> None:
    link = Link()
    answers, left = conversation(GOOD, {"ready": 1}, link=link)
    assert len(answers) == 1
    assert "hand_on" in link.ordered
    assert left == [os.getpid()]


def test_one_that_dies_in_the_middle_does_not_get_the_place() -> None:
    """What it had not taken over is here, and served."""
    _, left = conversation(GOOD, {"ready": 1}, link=Link(refuses="hand_on"))
    assert not left


def test_one_that_does_not_accept_the_place_does_not_get_it() -> None:
    """It has let go of what it had by then, and ends."""
    _, left = conversation(GOOD, {"ready": 1}, accepts=False)
    assert not left


def test_what_is_told_of_a_process_may_be_longer_than_a_socket_takes_at_once() -> None:
    """With tens of thousands of databases the restart would end in the middle of a line."""
    paused = [f"a_database_with_quite_a_long_name_{number}" for number in range(30_000)]
    answers, left = conversation(GOOD, {"ready": 1}, held={**NOTHING, "paused": paused, "disabled": ["one"]})
    assert answers[0]["estate"]["paused"] == sorted(paused)
    assert answers[0]["estate"]["disabled"] == ["one"]
    assert left == [os.getpid()]


def test_who_has_given_its_place_leaves_the_name_at_which_it_is_met() -> None:
    """The new process is to be met there, and upgraded in its turn, while the old one lets go of what is left."""
    _, left = conversation(GOOD, {"ready": 1})
    again, left_again = conversation(GOOD, {"ready": 1})
    assert left == left_again == [os.getpid()]
    assert again


def test_processes_that_share_a_port_are_met_each_by_itself() -> None:
    """Else the second one has no name, and an upgrade of it asks the first."""

    def place(more: str) -> str:
        config = load_text(f'{more}[databases.a]\nendpoints = ["10.0.0.5:5432"]\n', environ={}).config
        assert config is not None
        return meeting_place(config.engine).rpartition("forebay/")[2].partition("/")[2]

    assert place("") == "127.0.0.1:6432"
    assert place('[listen]\nunix = "/run/one"\n') == "127.0.0.1:6432"
    assert place('[listen]\nunix = "/run/one"\nreuse_port = true\n') == "/run/one:6432"
    assert place("[listen]\nreuse_port = true\n") == "127.0.0.1:6432"


def test_a_program_that_is_gone_is_told_to_who_asks_for_an_upgrade() -> None:
    """An installation that was replaced under it: the one that runs goes on, and says why."""
    answers, left = conversation({"ask": "upgrade"}, started_as=("/nonexistent/python",))
    assert "can't be started: No such file or directory" in answers[0]["refused"]
    assert left == []


def test_upgrade_says_that_there_is_nothing_to_upgrade(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        text = f'[listen]\naddress = "127.0.0.1"\nport = {taken.getsockname()[1]}\n[databases.a]\nendpoints = ["h:1"]\n'
    path = tmp_path / "forebay.toml"
    path.write_text(text)
    path.chmod(0o600)
    assert guarded(lambda: root.main(["upgrade", str(path)], standalone_mode=False)) == Exit.CANNOT_REACH
    assert "no forebay of this user runs" in capsys.readouterr().err
