"""Whether a password is right, by the word of a directory or of PAM.

Each question has a thread of its own, for either may hang. Those of one directory have a limit, behind which others
wait: one that hangs costs those who log in by it their deadline, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from typing import Final

from forebay.config.access.shapes import AccessRules, Directory, PamService
from forebay.control.claim import CALLED, Claim
from forebay.control.ldap import filter as filters
from forebay.control.ldap import judge
from forebay.control.ldap.connection import DirectoryFailed
from forebay.control.pam import Pam, PamFailed
from forebay.control.secrets import LookupFailed
from forebay.failure import Failure

# Questions under way at once with one directory or service.
CALLS_MAX: Final = 64


class Verdicts:
    """Asks those of one configuration; the next makes another."""

    def __init__(self, access: AccessRules, *, authorities: str | None, timeout_s: float) -> None:
        self._access = access
        self._authorities = authorities
        self._timeout_s = timeout_s
        self._gates: dict[Hashable, asyncio.Semaphore] = {}
        self._pam: Pam | None = None
        for one in access.judges.values():
            if isinstance(one, Directory):
                _check_filter(one)

    async def is_right(self, claim: Claim) -> bool:
        """The verdict. Raises LookupFailed where there is none in time."""
        act = self._act(claim)
        gate = self._gates.setdefault((claim.method, claim.service), asyncio.Semaphore(CALLS_MAX))
        try:
            async with asyncio.timeout(self._timeout_s):
                await gate.acquire()
                return await asyncio.wrap_future(_begin(act, gate))
        except TimeoutError:
            raise LookupFailed(f"no answer within {self._timeout_s:g} s") from None
        except (DirectoryFailed, PamFailed) as failed:
            raise LookupFailed(str(failed)) from failed

    def _act(self, claim: Claim) -> Callable[[], bool]:
        # A client may hold the number of one that a reload has removed since.
        asked = self._access.judges.get(claim.service)
        if claim.method == "ldap" and isinstance(asked, Directory):
            return lambda: judge.is_right(
                asked, claim.user, claim.password, authorities=self._authorities, timeout_s=self._timeout_s
            )
        if claim.method == "pam" and isinstance(asked, PamService):
            return lambda: self._system().is_right(
                asked.name, claim.user, claim.password, host=_host(claim.address, is_named=asked.names_host)
            )
        raise LookupFailed(f"the {CALLED[claim.method]} is not configured any more")

    def _system(self) -> Pam:
        if self._pam is None:
            self._pam = Pam()
        return self._pam


def _check_filter(directory: Directory) -> None:
    try:
        if directory.filter:
            filters.encode(directory.filter.replace("$username", "x"))
    except filters.BadFilter as error:
        raise Failure(f"the search filter of a directory can't be read: {error}", hint="Correct it.") from None


def _begin(act: Callable[[], bool], gate: asyncio.Semaphore) -> Future[bool]:
    """Runs `act` on a thread; the gate has a place again when that ends, however long it takes."""
    loop = asyncio.get_running_loop()
    future: Future[bool] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            verdict, failure = act(), None
        except BaseException as error:
            verdict, failure = False, error
        # Nobody waits for it any more where the deadline has passed, and the loop may be gone.
        with contextlib.suppress(InvalidStateError):
            future.set_result(verdict) if failure is None else future.set_exception(failure)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(gate.release)

    try:
        threading.Thread(target=run, name="forebay-verdict", daemon=True).start()
    except RuntimeError:
        gate.release()
        raise LookupFailed("the system gives no thread to ask with") from None
    return future


def _host(address: str, *, is_named: bool) -> str:
    """What a service is told of where a client comes from: its address, or the name that belongs to it."""
    if not is_named or address == "unix":
        return "localhost" if address == "unix" else address
    try:
        return socket.gethostbyaddr(address)[0]
    except OSError:
        return address
