"""`forebay switchover`: a replica becomes the primary, and nobody sees an error."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

from forebay.cli.console_options import console_options, console_parameters
from forebay.control import console_link
from forebay.control.endpoint import host_and_port
from forebay.failure import Failure

Stop = Callable[[], None]
# What a hook may take to end when it is told to.
END_S: Final = 5.0


@click.command("switchover")
@click.argument("database")
@click.option(
    "--to", metavar="ENDPOINT", help="The replica that takes over; without it, the one that is behind the least."
)
@click.option(
    "--wait", type=click.FloatRange(0, 99999), metavar="SECONDS", help="For what is under way; 10 by default."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 99999),
    metavar="SECONDS",
    help="How long requests may be held up to the promotion, and how long that may take; 30 by default.",
)
@click.option("--cut", is_flag=True, help="End what is still under way past --wait, instead of undoing all.")
@click.option("--hook", metavar="COMMAND", help="Promotes, in place of pg_promote(); see below.")
@click.option("--back", is_flag=True, help="Let requests go to the old primary again, after a promotion in doubt.")
@console_options
def command(
    database: str,
    to: str | None,
    wait: float | None,
    timeout: float | None,
    cut: bool,
    hook: str | None,
    back: bool,
    dsn: str | None,
    config: str | None,
) -> None:
    """Make a replica of DATABASE the primary while requests wait.

    New requests for the primary wait, what is under way there ends, the replica catches up and is promoted: by
    Patroni where that tells the topology, by pg_promote() otherwise, or by the --hook. It runs once the replica has all
    of it, without a shell, with FOREBAY_DATABASE, FOREBAY_OLD_HOST, FOREBAY_OLD_PORT, FOREBAY_NEW_HOST and
    FOREBAY_NEW_PORT in its environment. If it ends with another status than 0, it must not have told the replica to be
    promoted.

    Whatever fails before the promotion is undone, and so is it by Ctrl-C. The exit status is 3 when the console can't
    be reached, 1 when it refuses.
    """
    try:
        switch_over(
            console_parameters(dsn, config),
            statement(
                database, to=to, wait=wait, timeout=timeout, is_cut=cut, is_manual=hook is not None, is_back=back
            ),
            database=database,
            hook=shlex.split(hook) if hook else None,
            tell=click.echo,
        )
    except KeyboardInterrupt:
        words = "interrupted: undone, unless the promotion had begun; SHOW ENDPOINTS tells where requests go"
        click.echo(f"forebay: {words}", err=True)
        raise


def statement(
    database: str,
    *,
    to: str | None = None,
    wait: float | None = None,
    timeout: float | None = None,
    is_cut: bool = False,
    is_manual: bool = False,
    is_back: bool = False,
) -> str:
    """What the console is told."""
    name = '"' + database.replace('"', '""') + '"'
    if is_back:
        return f"SWITCHOVER {name} BACK"
    words = [f"SWITCHOVER {name}"]
    if to is not None:
        words.append("TO '" + to.replace("'", "''") + "'")
    words += [
        f"{key} {_plain(seconds)}" for key, seconds in (("WAIT", wait), ("TIMEOUT", timeout)) if seconds is not None
    ]
    words += [word for word, is_meant in (("MANUAL", is_manual), ("CUT", is_cut)) if is_meant]
    return " ".join(words)


def _plain(seconds: float) -> str:
    """Without an exponent, which the console does not take."""
    return f"{seconds:f}".rstrip("0").rstrip(".")


class CallOff:
    """Calls a switchover off from another thread: at once, or as soon as it is under way."""

    def __init__(self) -> None:
        self._stop: Stop | None = None
        self._is_meant = False

    def __call__(self) -> None:
        self._is_meant = True
        if self._stop is not None:
            self._stop()

    def is_under_way(self, stop: Stop) -> None:
        """stop: cancels it."""
        is_first, self._stop = self._stop is None, stop
        if is_first and self._is_meant:
            # Its own thread hears what comes of that.
            threading.Thread(target=stop, daemon=True).start()


def switch_over(
    parameters: Mapping[str, Any],
    order: str,
    *,
    database: str,
    hook: list[str] | None,
    tell: Callable[[str], None],
    call_off: CallOff | None = None,
) -> None:
    """Gives the order and tells of its steps as they come. Raises Failure."""
    running: list[_Hook] = []

    def step(message: str, detail: str | None, stop: Stop) -> None:
        tell(message)
        if call_off is not None:
            call_off.is_under_way(stop)
        if hook is not None and message.startswith("promote:") and detail:
            ends = dict(word.split("=", 1) for word in detail.split())
            running.append(_Hook(hook, database, ends["old"], ends["new"], stop))

    try:
        with _interrupted_after(running):
            console_link.follow(parameters, order, step)
            for each in running:
                each.finish(tell)
    except Failure as failure:
        if running and running[0].failure:
            raise Failure(f"{running[0].failure}: {failure.message}", hint=failure.hint, exit=failure.exit) from None
        raise
    finally:
        for each in running:
            each.end()


class _Hook:
    """The user's command, while the console waits for what it does. stop: cancels that."""

    def __init__(self, hook: list[str], database: str, old: str, new: str, stop: Stop) -> None:
        self._stop = stop
        self.failure: str | None = None
        self._is_done = False
        named = {"DATABASE": database}
        for side, endpoint in (("OLD", old), ("NEW", new)):
            host, port = host_and_port(endpoint)
            named |= {f"{side}_HOST": host, f"{side}_PORT": str(port)}
        environment = os.environ | {f"FOREBAY_{key}": value for key, value in named.items()}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(hook, env=environment, start_new_session=True, stdin=subprocess.DEVNULL)
        except OSError as error:
            self.failure = f"the hook could not be started ({error.strerror})"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        if self._process is not None and (status := self._process.wait()) != 0:
            self.failure = f"the hook ended with status {status}"
        if self.failure and not self._is_done:
            self._stop()

    def finish(self, tell: Callable[[str], None]) -> None:
        """The replica is the primary; returns when the hook has done the rest."""
        self._is_done = True
        if self._process is not None and (status := self._process.wait()) != 0:
            tell(f"the hook ended with status {status}, after it had promoted")

    def end(self) -> None:
        """Nobody waits for it any more: with all that it has started, it ends. Returns when it has."""
        if self._process is None or self._process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
                return


@contextlib.contextmanager
def _interrupted_after(running: list[_Hook]) -> Iterator[None]:
    """Ctrl-C ends the hooks before it calls the switchover off: one that went on would promote all the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(_number: int, _frame: object) -> None:
        for each in running:
            each.end()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
