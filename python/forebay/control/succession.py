"""Online restart: a new process takes the place of a running one, and the connections with it.

| step | running process | new process |
|---|---|---|
| 1 | waits at a Unix socket that is named after where it listens | has read its configuration, and asks |
| 2 | refuses, or passes on its sockets, names and numbers, and what is paused | |
| 3 | | starts its engine on those sockets: it serves new clients |
| 4 | accepts nobody any more; connections follow, see crates/forebay-runtime/src/succession.rs | takes them over |
| 5 | offers its place, and leaves the name where it is met | accepts it: files, metrics, that name are its own |
| 6 | lets go of those that can't move as their transactions end, and ends | serves |

Whatever fails before the end of step 5 leaves the running process where it was, with all that has not moved, and the
new one lets go of what it has, and ends; unless the running one has ended, whose place it has then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from forebay import __version__
from forebay._engine import Engine, EngineError, state_schema
from forebay.admin.snapshot import Snapshot, decode, merge
from forebay.config.resolved import EngineConfig
from forebay.control.engine_link import EngineLink
from forebay.control.source import Configuration
from forebay.failure import Exit, Failure
from forebay.observe.log import event

if TYPE_CHECKING:
    from forebay._engine import Estate

# Of the conversation, not of the state: see `state_schema`.
PROTOCOL: Final = 2
# Set for a process that is started to succeed its parent.
SUCCEED: Final = "FOREBAY_SUCCEED"
# How long each side may take over its part of the conversation.
STEP_S: Final = 30.0
# How long a name may be taken by the process before, which leaves it with its place.
NAME_S: Final = 5.0
# Time between two looks at whether the place is ours.
PLACE_LOOK_S: Final = 0.01
# Time between two looks at whether a new process is still there.
CHILD_LOOK_S: Final = 0.02
# Descriptors beside those of connections.
FDS_SPARE: Final = 128
FDS_MAX: Final = 253
_LINE_BYTES_MAX: Final = 1 << 16
# What is said of a process that has tens of thousands of pools.
_TEXT_BYTES_MAX: Final = 1 << 26
_CREDENTIALS: Final = struct.Struct("3i")

Words = Mapping[str, Any]


class Declined(Exception):
    """The other process, or this one, does not go along; because: a sentence."""


def meeting_place(config: EngineConfig) -> str:
    """The name at which the process with this configuration can be met, in the abstract namespace."""
    listen = config.listen
    # Processes that share a port have a Unix socket each.
    has_port = bool(listen.addresses) and not (listen.reuse_port and listen.unix)
    where = f"{listen.addresses[0]}:{listen.port}" if has_port else f"{listen.unix}:{listen.port}"
    return f"\0forebay/{os.geteuid()}/{where}"


def meet(place: str) -> socket.socket:
    """A connection to the process that runs there, if it is ours. Raises Failure."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(STEP_S)
    try:
        channel.connect(place)
        if _uid_behind(channel) != os.geteuid():
            raise ConnectionRefusedError
    except OSError:
        channel.close()
        raise Failure(
            "no forebay of this user runs with this configuration",
            hint="It is found by the first address and the port of the configuration, or with listen.reuse_port by its "
            "Unix socket. Is it the same file, in the same network namespace?",
            exit=Exit.CANNOT_REACH,
        ) from None
    return channel


class Successor:
    """The new process's part."""

    def __init__(self, place: str | None = None) -> None:
        self._place = place
        self._channel: socket.socket | None = None
        # Whether load balancers were told to send nobody.
        self.was_draining = False

    def start_engine(self, configuration: Configuration, inherit: Callable[[Words], EngineConfig]) -> Engine:
        """Asks the running process for its place, and starts the engine in it. Raises Failure.

        inherit: takes what that knows of its clusters, and gives what to start with.
        """
        config = configuration.config.engine
        self._channel = channel = meet(self._place or meeting_place(config))
        _say(channel, {"ask": "take over", "protocol": PROTOCOL, "version": __version__, "schema": state_schema(),
                       "pid": os.getpid()})  # fmt: skip
        answer, fds = _hear_with_fds(channel)
        if "refused" in answer:
            raise Failure(f"the running process does not give its place: {answer['refused']}", hint=answer.get("hint"))
        answer |= _hear_text(channel, answer["bytes"])
        _refuse_other_listeners(answer, config)
        estate: Estate = answer["estate"]
        estate["held"] = [(database, user, count) for database, user, count in estate["held"]]
        # A release before this one did not say.
        self.was_draining = bool(answer.get("draining", False))
        count = len(estate["sockets"])
        estate["sockets"], estate["metrics"] = fds[:count], fds[count] if len(fds) > count else None
        # Sockets are made for one driver: they block, or do not.
        io = answer["driver"].removeprefix("io_")
        if config.engine.io not in ("auto", io):
            raise Failure(f'engine.io is changed from "{io}": that needs a restart', hint="Put it back.")
        config = inherit(answer.get("clusters", {}))
        config = replace(config, engine=replace(config.engine, io=io))
        try:
            return Engine.succeed(config.to_json(), estate)
        except EngineError as error:
            raise Failure(str(error.args[0])) from None
        finally:
            # The engine has a copy of its own.
            if estate["metrics"] is not None:
                os.close(estate["metrics"])

    async def take_over(self, engine: Engine) -> None:
        """The engine serves: the connections may come."""
        channel = self._channel
        if channel is None:
            raise TypeError("the engine of a successor is started by it")
        # The engine's thread waits without a limit: the other side may have nothing to pass on for long.
        channel.settimeout(None)
        engine.take_over(channel.fileno())
        _say(channel, {"ready": os.getpid()})
        channel.close()
        self._channel = None

    async def settle(self, engine: Engine) -> bool:
        """Waits until the place is this process's, or can't be any more: whether it is."""
        while True:
            place = engine.place
            if place != "coming":
                return place == "ours"
            await asyncio.sleep(PLACE_LOOK_S)

    def gives_up(self, because: str) -> None:
        """Tells the running process why nothing comes of it."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                _say(self._channel, {"failed": because})
            self._channel.close()
            self._channel = None


def _refuse_other_listeners(answer: Words, config: EngineConfig) -> None:
    """The sockets are those of the running process: a configuration that names others would not be in force."""
    listen = config.listen
    wanted = [list(listen.addresses), listen.port, listen.unix]
    if answer["listen"] != wanted:
        raise Failure(
            "listen.address, listen.port or listen.unix is changed: that needs a restart",
            hint=f"The running process listens on {answer['listen']}.",
        )


class Predecessor:
    """The running process's part: waits to be asked, by `forebay upgrade` or a new process.

    clusters: what is known of them. is_draining: whether load balancers are told to send nobody. leave: called with
    another process's id when that has all that could move. is_stopping: whether there is nothing to be asked for any
    more.
    """

    def __init__(
        self,
        engine: Engine,
        link: EngineLink,
        *,
        configuration: Callable[[], Configuration],
        clusters: Callable[[], Words],
        is_draining: Callable[[], bool],
        leave: Callable[[int], None],
        is_stopping: Callable[[], bool],
        started_as: Sequence[str],
    ) -> None:
        self._engine = engine
        self._link = link
        self._configuration = configuration
        self._clusters = clusters
        self._is_draining = is_draining
        self._leave = leave
        self._is_stopping = is_stopping
        self._started_as = tuple(started_as)
        self._place = meeting_place(configuration().config.engine)
        # Another process has asked for the place, and has it, or has not failed yet.
        self.is_under_way = False
        self._has_given_place = asyncio.Event()
        self._outcome: asyncio.Future[Words] | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answers whoever asks, for as long as this process has its place."""
        with contextlib.ExitStack() as stack:
            door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            if not await self._take_name(door):
                return
            door.listen(8)
            answering = asyncio.ensure_future(self._answer(door))
            # Whoever has the place answers at its door.
            given = asyncio.ensure_future(self._has_given_place.wait())
            try:
                await asyncio.wait({answering, given}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                given.cancel()
                answering.cancel()

    async def _answer(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            channel, _ = await loop.sock_accept(door)
            talk = asyncio.ensure_future(self._talk(channel))
            self._talks.add(talk)
            talk.add_done_callback(self._talks.discard)

    async def _take_name(self, door: socket.socket) -> bool:
        deadline = time.monotonic() + NAME_S
        while True:
            try:
                door.bind(self._place)
            except OSError as error:
                if time.monotonic() > deadline:
                    event(logging.ERROR, "upgrade_unavailable", because=str(error),
                          hint="Another process has the name at which this one is to be met: end it, or start this one "
                          "anew; until then `forebay upgrade` can't reach it.")  # fmt: skip
                    return False
                await asyncio.sleep(0.05)
            else:
                return True

    async def _talk(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        try:
            if _uid_behind(channel) != os.geteuid():
                return
            asked = await asyncio.wait_for(_heard(channel), STEP_S)
            if asked.get("ask") == "upgrade":
                await self._upgrade(channel)
            elif asked.get("ask") == "take over":
                await self._give_place(channel, asked)
        except (OSError, ValueError, TimeoutError) as error:
            event(logging.WARNING, "upgrade_conversation_failed", because=str(error) or type(error).__name__)
        finally:
            channel.close()

    async def _upgrade(self, channel: socket.socket) -> None:
        """Starts the program anew, as this process was started, and says what became of it."""
        if self.is_under_way or self._is_stopping() or self._outcome is not None:
            _say(channel, {"refused": "a restart, a stop or a switchover is under way"})
            return
        self._outcome = asyncio.get_running_loop().create_future()
        self._asker = channel
        try:
            environment = {**os.environ, SUCCEED: self._place[1:]}
            try:
                child = await asyncio.to_thread(
                    subprocess.Popen, self._started_as, env=environment, stdin=subprocess.DEVNULL
                )
            except OSError as error:
                because = f"{error.filename or self._started_as[0]} can't be started: {error.strerror}"
                event(logging.ERROR, "upgrade_refused", because=because)
                self._tell({"refused": because, "hint": "It was this process's own program when that was started."})
                return
            # Looked at, not waited for: a thread that waits for the child would keep this process from its end.
            asks_by = time.monotonic() + 2 * STEP_S
            while not self._outcome.done() and child.poll() is None:
                await asyncio.wait({self._outcome}, timeout=CHILD_LOOK_S)
                if not self.is_under_way and time.monotonic() > asks_by:
                    child.kill()
            if not self._outcome.done():
                self._tell({"refused": f"the new process has ended with status {child.returncode}",
                            "hint": "Its words are in the log, or on this process's standard error."})  # fmt: skip
        finally:
            self._outcome = None

    async def _give_place(self, channel: socket.socket, asked: Words) -> None:
        if self.is_under_way or self._is_stopping():
            _say(channel, {"refused": "a restart, a stop or a switchover is under way"})
            return
        self.is_under_way = True
        began = time.monotonic()
        try:
            await self._prepare(channel, asked)
            moved = await self._hand_on(channel)
            await self._leave_place()
        except Declined as declined:
            event(logging.ERROR, "upgrade_refused", because=str(declined), version=asked.get("version"))
            with contextlib.suppress(OSError):
                _say(channel, {"refused": str(declined)})
            self._tell({"refused": str(declined)})
            self.is_under_way = False
            return
        except BaseException as error:
            self._tell({"refused": str(error) or type(error).__name__})
            self.is_under_way = False
            raise
        seconds = round(time.monotonic() - began, 3)
        self._has_given_place.set()
        left = merge(decode(part) for part in (await self._link.order("snapshot")).snapshots)
        event(logging.INFO, "upgraded", version=asked.get("version"), pid=asked.get("pid"), seconds=seconds,
              clients=moved, clients_left=len(left.clients))  # fmt: skip
        self._tell({"pid": asked.get("pid"), "version": asked.get("version"), "seconds": seconds, "clients": moved,
                    "left": len(left.clients)})  # fmt: skip
        self._leave(int(asked["pid"]))

    async def _prepare(self, channel: socket.socket, asked: Words) -> None:
        if asked.get("protocol") != PROTOCOL or asked.get("schema") != state_schema():
            raise Declined(
                f"version {asked.get('version')} does not read the state of version {__version__}: "
                "start it beside this one (listen.reuse_port) or restart"
            )
        held = merge(decode(part) for part in (await self._link.order("snapshot")).snapshots)
        _refuse_small_limit(held, int(asked["pid"]))
        self._clients = len(held.clients)
        estate = self._engine.estate()
        estate["held"] = servers_by_pool(held)
        estate["paused"], estate["disabled"] = held.paused, held.disabled
        fds = [*estate["sockets"], *([] if estate["metrics"] is None else [estate["metrics"]])]
        if len(fds) > FDS_MAX:
            raise Declined(f"there are {len(fds)} sockets that listen, and {FDS_MAX} can be passed on")
        listen = self._configuration().config.engine.listen
        words = {"estate": estate, "listen": [list(listen.addresses), listen.port, listen.unix],
                 "clusters": self._clusters(), "draining": self._is_draining()}  # fmt: skip
        text = json.dumps(words).encode()
        _say(channel, {"version": __version__, "driver": self._engine.driver, "bytes": len(text)}, fds)
        # Pools without number make it longer than what a socket takes at once.
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(channel, text), STEP_S)
        heard = await asyncio.wait_for(_heard(channel), STEP_S)
        if "ready" not in heard:
            raise Declined(str(heard.get("failed") or "the new process has ended before it was ready"))

    async def _hand_on(self, channel: socket.socket) -> int:
        """Passes on all that can move; returns how many clients that were."""
        channel.setblocking(True)
        self._engine.hand_over(channel.fileno())
        channel.close()
        outcome = await self._link.order("hand_on")
        if outcome.refusals:
            raise Declined("the new process has ended, or does not answer: this one goes on")
        left = merge(decode(part) for part in (await self._link.order("snapshot")).snapshots)
        return max(0, self._clients - len(left.clients))

    async def _leave_place(self) -> None:
        if not await asyncio.to_thread(self._engine.give_place):
            raise Declined("the new process did not accept the place: this one goes on")

    def _tell(self, words: Words) -> None:
        """Says what became of it to who asked for it, while there is time: this process may end in the next moment."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(words)
            with contextlib.suppress(OSError):
                _say(self._asker, words)


def ask_upgrade(place: str) -> Words:
    """Has the running process start its successor; returns its words: pid, version, seconds, clients, left.

    Raises Failure.
    """
    deadline = time.monotonic() + STEP_S
    while True:
        try:
            channel = meet(place)
            break
        except Failure:
            # One that has just taken over may not have its name yet.
            if time.monotonic() > deadline - STEP_S + 2.0:
                raise
            time.sleep(0.05)
    with channel:
        channel.settimeout(None)
        _say(channel, {"ask": "upgrade"})
        answer, _ = _hear_with_fds(channel)
    if "refused" in answer:
        raise Failure(f"the running process goes on as it was: {answer['refused']}", hint=answer.get("hint"))
    return answer


def _refuse_small_limit(held: Snapshot, pid: int) -> None:
    """The new process must be able to hold all that it is to get."""
    needed = len(held.clients) + len(held.servers) + FDS_SPARE
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise Declined(f"{needed} descriptors are needed, and the new process may have {hard} (ulimit -n)")


def servers_by_pool(held: Snapshot) -> list[tuple[str, str, int]]:
    """Servers that take room in their pool: the pool's listener does not, nor a reader of the catalogue."""
    counted = [one for one in held.servers if one.state not in ("listening", "reading") and one.replication == "none"]
    count = Counter((one.database, one.user) for one in counted)
    return [(database, user, number) for (database, user), number in count.items()]


def _uid_behind(channel: socket.socket) -> int:
    _, uid, _ = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _say(channel: socket.socket, words: Words, fds: Sequence[int] = ()) -> None:
    """A line; short, so that it never waits for the other side."""
    line = json.dumps(words).encode() + b"\n"
    sent = channel.sendmsg([line], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else [])
    while sent < len(line):
        sent += channel.send(line[sent:])


def _hear_with_fds(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A line and the descriptors that came with it, to be closed on exec. Raises Failure at the end of the stream."""
    line, fds = bytearray(), array("i")
    while not line.endswith(b"\n"):
        try:
            # Byte by byte: what comes behind the line is not ours.
            room = socket.CMSG_SPACE(FDS_MAX * fds.itemsize)
            part, extra, flags, _ = channel.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Failure(f"the running process does not answer: {error}") from None
        if not part or len(line) > _LINE_BYTES_MAX:
            raise Failure("the running process has ended the conversation", hint="Its log says why.")
        for level, kind, data in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:
            raise Failure("not all sockets of the running process can be had", hint="Raise the limit of open files.")
        line += part
    words: dict[str, Any] = json.loads(line)
    return words, list(fds)


def _hear_text(channel: socket.socket, count: int) -> dict[str, Any]:
    """What is too long for a line. Raises Failure at the end of the stream."""
    text = bytearray()
    while len(text) < min(count, _TEXT_BYTES_MAX):
        try:
            part = channel.recv(min(count - len(text), 1 << 16))
        except OSError as error:
            raise Failure(f"the running process does not answer: {error}") from None
        if not part:
            raise Failure("the running process has ended the conversation", hint="Its log says why.")
        text += part
    words: dict[str, Any] = json.loads(text)
    return words


async def _heard(channel: socket.socket) -> Words:
    """A line, byte by byte: what comes behind it is not ours."""
    loop, line = asyncio.get_running_loop(), bytearray()
    while not line.endswith(b"\n"):
        part = await loop.sock_recv(channel, 1)
        if not part:
            return {}
        if len(line) > _LINE_BYTES_MAX:
            raise ValueError("a line without an end")
        line += part
    words: Words = json.loads(line)
    return words


def started_as() -> Sequence[str]:
    """The command line of this process, as the system was given it."""
    return (sys.executable, *sys.orig_argv[1:])
