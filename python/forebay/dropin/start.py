"""From the command line to a running service, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from forebay._engine import Engine
from forebay.config import render
from forebay.config.importers.process import Process
from forebay.control.service import Service
from forebay.control.source import Configuration, ConfigurationRefused
from forebay.control.succession import SUCCEED, Successor, meet, meeting_place
from forebay.dropin.manners import PgBouncerManners
from forebay.dropin.options import Options, Told, WrongUse, read
from forebay.dropin.process import (
    Background,
    HeldSignals,
    addresses_of,
    become,
    fill_standard_fds,
    inherited_sockets,
    leave_pid_file,
    pid_file,
    refuse_live_pid,
    refuse_live_socket,
    replace_pid_file,
    tell,
)
from forebay.dropin.source import IniSource
from forebay.failure import Failure, sentence_for
from forebay.observe.log import event

# Modules of our own that a reload, or a command of the console, may be the first to need.
LOADED_LATE = (
    "forebay._generated.pages",
    "forebay.config.access.directory",
    "forebay.config.access.hba",
    "forebay.config.access.ident",
    "forebay.control.verdicts",
)
NO_REBOOT = (
    "Set so_reuseport = 1 in both, and give the successor its own unix_socket_dir, pidfile and logfile; start it, then "
    "send SIGTERM to the process that runs."
)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 0, or 1 for wrong use, a failed start and a stop cut short."""
    fill_standard_fds()
    try:
        options = read(argv)
    except Told as told:
        if sys.stdout is not None:
            sys.stdout.write(str(told))
        return 0
    except WrongUse as wrong:
        tell(str(wrong))
        return 1
    try:
        return _start(options)
    except Failure as failure:
        tell(sentence_for(failure))
        return 1


def _start(options: Options) -> int:
    place = os.environ.pop(SUCCEED, None)
    is_reboot = options.is_reboot or place is not None
    inherited = [] if is_reboot else inherited_sockets()
    source = IniSource(
        options.config.absolute(),
        environment=os.environ,
        verbose=options.verbose,
        bound=addresses_of(inherited) if inherited else None,
    )
    configuration = _load(source)
    process = configuration.process
    if process is None:
        raise TypeError("an ini read for the drop-in says what the process does")
    user = options.user or process.text("user") or None
    _load_ahead(configuration, is_to_change=user is not None)
    become(user)
    path = process.path("pidfile")
    successor = None
    if place is not None or (options.is_reboot and is_met(configuration, path)):
        successor = Successor(f"\0{place}" if place else None)
    else:
        refuse_live(configuration, inherited, path)
    is_alone = options.is_reboot and successor is None
    is_daemon = options.is_daemon and place is None
    if not is_daemon:
        is_quiet = options.is_quiet or options.is_daemon
        manners = PgBouncerManners(writes_stderr=not is_quiet, inherited=inherited)
        return _serve(source, path, manners, None, successor, is_alone=is_alone)
    _refuse_silence(process, configuration)
    background = Background()
    try:
        manners = PgBouncerManners(writes_stderr=False, inherited=inherited)
        return _serve(source, path, manners, background, successor, is_alone=is_alone)
    except Failure as failure:
        background.failed(sentence_for(failure))
        return 1


def refuse_live(configuration: Configuration, inherited: Sequence[int], path: Path | None) -> None:
    """Raises Failure where a process has the place that this one is to have."""
    if not inherited:
        listen = configuration.config.engine.listen
        refuse_live_socket(listen.unix or "", listen.port)
    if path is not None:
        refuse_live_pid(path)


def is_met(configuration: Configuration, path: Path | None) -> bool:
    """Whether a forebay runs that can be taken over from. Where nobody runs, -R is a start as any other, as with
    PgBouncer. Raises Failure where somebody else has the place, with what to do about a PgBouncer."""
    try:
        meet(meeting_place(configuration.config.engine)).close()
    except Failure as unmet:
        try:
            refuse_live(configuration, (), path)
        except Failure as live:
            words = f"{unmet.message}, but somebody does: {live.message}; -R takes over from no PgBouncer"
            raise Failure(words, hint=NO_REBOOT, exit=unmet.exit) from None
        return False
    return True


def _load(source: IniSource) -> Configuration:
    try:
        return source.load()
    except ConfigurationRefused as refused:
        raise Failure(
            f"the configuration can't be used\n{render(refused.findings).rstrip()}",
            hint="`forebay check` prints the same findings.",
        ) from None


def _load_ahead(configuration: Configuration, *, is_to_change: bool) -> None:
    """What Python loads when it is first needed: the user that this process becomes need not be able to read it."""
    needed = ["concurrent.futures.thread", "encodings.idna", "logging.handlers"]
    if configuration.config.auth_query is not None or configuration.config.auth_queries:
        needed.append("forebay.control.auth_query")
    if is_to_change:
        needed += LOADED_LATE
    for name in needed:
        # What is missing is told by who needs it.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _refuse_silence(process: Process, configuration: Configuration) -> None:
    """A process in the background that nobody can find, or hear, is lost."""
    if process.path("pidfile") is None:
        raise Failure("-d needs a PID file", hint="Set pidfile.")
    if configuration.log_file is None and not process.is_on("syslog"):
        raise Failure("-d needs a log", hint="Set logfile, or syslog = 1.")


def _serve(
    source: IniSource,
    path: Path | None,
    manners: PgBouncerManners,
    background: Background | None,
    successor: Successor | None,
    *,
    is_alone: bool,
) -> int:
    async def started(_: Engine) -> None:
        held.release()
        if is_alone:
            event(logging.INFO, "reboot_alone")
        if background is not None:
            background.started()

    def settled() -> None:
        if successor is None or path is None:
            return
        try:
            replace_pid_file(path)
        except Failure as failure:
            # It serves: nobody is cut for a file.
            event(logging.ERROR, "pid_file_not_written", because=failure.message, hint=failure.hint)

    def watch() -> None:
        if source.have_users_changed(now_s=time.monotonic()):
            service.begin_read(source.load_users)

    async def serve() -> None:
        try:
            await service.run(started=started, settled=settled)
        finally:
            held.hold()

    held = HeldSignals()
    service = Service(source, manners=manners, watch=watch, successor=successor, gives_place=True)
    with held.all_along(), pid_file(path) if successor is None else contextlib.nullcontext():
        try:
            asyncio.run(serve())
        except Failure as failure:
            if successor is not None:
                successor.gives_up(failure.message)
            raise
        except ConfigurationRefused as refused:
            raise Failure(f"the configuration can't be used\n{render(refused.findings).rstrip()}") from None
        finally:
            if successor is not None and path is not None:
                leave_pid_file(path)
    return 1 if manners.is_hurried else 0
