"""`forebay drill`: a failover on purpose, under load, and what clients saw of it."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from forebay.cli.console_options import console_options, console_parameters
from forebay.cli.switchover import CallOff, Stop, statement, switch_over
from forebay.control import console_link
from forebay.control.console_link import driver, first_line
from forebay.failure import Exit, Failure

if TYPE_CHECKING:
    from forebay.control.drill.ledger import Ledger
    from forebay.control.drill.report import Report
    from forebay.control.drill.run import Act, Ask, Drill

WAYS = ("switchover", "kill", "command")
# libpq's words for where something is, and how it is reached.
_WHERE: Final = ("host", "hostaddr", "port", "sslmode", "sslrootcert", "sslcert", "sslkey")


@dataclass(frozen=True, slots=True)
class Options:
    """Of the command line, but for those of the load."""

    target: str
    how: str
    command: str | None
    to: str | None
    user: str | None
    dsn: str | None
    config: str | None

    @property
    def is_dsn(self) -> bool:
        """Whether the target is a connection string, and no name of a database behind the console's forebay."""
        return "=" in self.target or "://" in self.target

    @property
    def has_console(self) -> bool:
        """Whether it is said where forebay's console is."""
        return self.dsn is not None or self.config is not None


@click.command("drill")
@click.argument("target")
@click.option("--how", type=click.Choice(WAYS), required=True, help="What is done to the primary; see below.")
@click.option("--command", "act", metavar="COMMAND", help="What --how command runs.")
@click.option("--to", metavar="ENDPOINT", help="The replica that --how switchover promotes.")
@click.option("--clients", type=click.IntRange(1, 5000), default=50, show_default=True, help="Connections.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=500, show_default=True, help="Statements a second.")
@click.option("--reads", type=click.FloatRange(0, 0.99), default=0.5, show_default=True, help="The share that reads.")
@click.option("--before", type=click.FloatRange(0.5, 600), default=5, show_default=True, help="Seconds of load first.")
@click.option("--after", type=click.FloatRange(0, 600), default=5, show_default=True, help="Seconds of load then.")
@click.option(
    "--within",
    type=click.FloatRange(1, 3600),
    default=120,
    show_default=True,
    help="Seconds from the fault until service is back.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="Whom clients log in as where TARGET is a name.",
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots; .html.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of text.")
@click.option("--yes", is_flag=True, help="Go on where the target looks like production.")
@console_options
def command(
    target: str,
    how: str,
    act: str | None,
    to: str | None,
    clients: int,
    rate: float,
    reads: float,
    before: float,
    after: float,
    within: float,
    user: str | None,
    report: Path | None,
    as_json: bool,
    yes: bool,
    dsn: str | None,
    config: str | None,
) -> int:
    """Change the primary under load, and report what clients saw.

    TARGET is a connection string of a database behind forebay, or the database's name where --config or --dsn says
    where the console is. Passwords are those of --config, or libpq's. Clients insert into a table of their own,
    forebay_drill.ledger, and read it; it is compared with what they were told, and dropped.

    switchover: as `forebay switchover` does, by the console. kill: SIGKILL to the primary, which must run on this
    machine. command: the command, without a shell; it returns when the harm is done.

    The exit status is 1 where a write was lost, was there twice, or service did not come back. Ctrl-C calls off what
    is under way.
    """
    from forebay.control.drill.ledger import Ledger
    from forebay.control.drill.run import Drill, Plan

    if report is not None and not report.parent.is_dir():
        raise Failure(f"{report} can't be written: there is no folder {report.parent}", exit=Exit.USAGE)
    options = Options(target, how, act, to, user, dsn, config)
    parameters = _parameters(options)
    plan = Plan(how=how, clients=clients, rate=rate, reads=reads, before_s=before, after_s=after, within_s=within)
    ledger = Ledger(parameters)
    database = str(parameters.get("dbname", ""))
    does, stop = _act(options, database, ledger, within_s=within)

    def call_off() -> None:
        click.echo("forebay: interrupted; what is under way is called off, and the schema is dropped", err=True)
        stop()

    drill = Drill(parameters, ledger, plan, does, _ask(options, database), stop=call_off)
    if options.is_dsn and options.has_console:
        check_cluster(options, parameters, ledger)
    signs = ledger.signs_of_production()
    if signs and not yes:
        hint = "A drill takes the primary away. If that is meant, give --yes."
        raise Failure(f"the target looks like production: {'; '.join(signs)}", hint=hint)
    found = _run(drill)
    click.echo(found.json() if as_json else found.text(), nl=as_json)
    if report is not None:
        _write(report, found)
    return 0 if found.is_sound and drill.left is None else 1


def _run(drill: Drill) -> Report:
    try:
        return drill.run()
    except KeyboardInterrupt:
        click.echo("".join(f"  {line}\n" for line in drill.steps), nl=False, err=True)
        raise
    finally:
        if drill.left is not None:
            click.echo(f"forebay: the schema is left: {drill.left.message}. {drill.left.hint}", err=True)


def _write(path: Path, report: Report) -> None:
    from forebay.control.drill.plot import page

    try:
        path.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} can't be written: {error.strerror}") from None


def _parameters(options: Options) -> dict[str, Any]:
    """libpq's, of the database as its clients reach it. Raises UsageError and Failure."""
    if options.is_dsn:
        return {key: value for key, value in console_link.from_dsn(options.target).items() if value}
    console = console_parameters(options.dsn, options.config, user=options.user)
    return {key: value for key, value in {**console, "dbname": options.target}.items() if value}


def _act(options: Options, database: str, ledger: Ledger, *, within_s: float) -> tuple[Act, Stop]:
    """What is drilled, and what calls it off. Raises UsageError where it is not said whole."""
    if options.how == "switchover":
        console = console_parameters(options.dsn, options.config)
        order, call_off = statement(database, to=options.to), CallOff()
        act = partial(switch_over, console, order, database=database, hook=None, call_off=call_off)
        return lambda tell: act(tell=tell), call_off
    if options.how == "kill":
        kill = _Kill(ledger, within_s)
        return kill.run, kill.stop
    if not options.command:
        raise click.UsageError("Say what to run: --command.")
    command = _Command(shlex.split(options.command))
    return command.run, command.stop


class _Kill:
    """--how kill. within_s: the primary has that long to say where it is."""

    def __init__(self, ledger: Ledger, within_s: float) -> None:
        self._ledger = ledger
        self._within_s = within_s
        self._is_called_off = threading.Event()

    def run(self, _tell: Callable[[str], None]) -> None:
        """Returns when it is killed. Raises Failure."""
        from forebay.control.drill.run import kill_postmaster

        try:
            place = self._ledger.place(within_s=self._within_s)
        except driver().Error as error:
            raise Failure(f"the primary can't be asked where it is: {first_line(error)}", exit=Exit.TIMEOUT) from None
        if self._is_called_off.is_set():
            raise Failure("the primary was left alone: it was called off")
        kill_postmaster(place)

    def stop(self) -> None:
        """What is not killed by now lives on."""
        self._is_called_off.set()


class _Command:
    """What --how command runs."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._process: subprocess.Popen[str] | None = None

    def run(self, tell: Callable[[str], None]) -> None:
        """Returns when it has ended. Raises Failure."""
        try:
            self._process = process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise Failure(f"the command could not be started ({error.strerror})") from None
        out, err = process.communicate()
        for line in out.splitlines():
            tell(line)
        if process.returncode != 0:
            hint = next(iter(err.strip().splitlines()[-1:]), None)
            raise Failure(f"the command ended with status {process.returncode}", hint=hint)

    def stop(self) -> None:
        """What it has begun elsewhere goes on."""
        if self._process is not None:
            self._process.terminate()


def _ask(options: Options, database: str) -> Ask:
    """What forebay says of the failover, where its console is known. Raises UsageError and Failure."""
    from forebay.control.drill.account import ask
    from forebay.control.drill.report import NOBODY_ASKED

    if not options.has_console:
        return lambda _: NOBODY_ASKED
    console = console_parameters(options.dsn, options.config)
    return lambda since_s: ask(console, database, since_s)


def check_cluster(options: Options, parameters: Mapping[str, Any], ledger: Ledger) -> None:
    """The database under load is of the cluster that is switched over, and has been looked at. Raises Failure."""
    from forebay.control.drill.ledger import Ledger

    console = console_parameters(options.dsn, options.config)
    aside = {key: value for key, value in parameters.items() if key not in _WHERE}
    there = Ledger({**aside, **{key: console[key] for key in _WHERE if console.get(key)}})
    if there.place().system != ledger.place().system:
        hint = "Let --dsn or --config lead to the forebay that TARGET is behind."
        raise Failure("TARGET is of another cluster than the one that would be switched over", hint=hint)
