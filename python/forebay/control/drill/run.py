"""The course of a drill: load, the fault, load until all is as before, and what is true afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forebay.control.drill.client import Outcome
from forebay.control.drill.ledger import AGAIN_S, LATE_S, Ledger, Place
from forebay.control.drill.load import Load
from forebay.control.drill.report import NOBODY_ASKED, Account, Fault, Report, report_of
from forebay.failure import Exit, Failure

# Service is back when there was no longer gap than this in as long a time; where few writes come, than some take.
CALM_S: Final = 0.5
BACK_S: Final = 2.0
CALM_WRITES: Final = 8
BACK_CALMS: Final = 2
# Between a server's note of when it began and what it says of it.
START_S: Final = 10.0
LOOK_S: Final = 0.05
# What answers may take when the load has ended.
LAST_S: Final = 15.0
# What is drilled may take as long to end when it is called off.
STOP_S: Final = 60.0

# Does what is drilled, and returns when that is done; tells of steps. Raises Failure.
Act = Callable[[Callable[[str], None]], None]
# What forebay says of a failover that began so many seconds ago.
Ask = Callable[[float], Account]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """rate: statements a second; reads: the share of them that read. Times are seconds: of load before the fault and
    after it, and from the fault until the service has to be back."""

    how: str
    clients: int
    rate: float
    reads: float
    before_s: float
    after_s: float
    within_s: float


class Drill:
    """parameters: libpq's, of the database as its clients reach it. ask: what forebay itself says of it.

    stop: calls off what `act` does, on Ctrl-C and where that takes too long.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        ledger: Ledger,
        plan: Plan,
        act: Act,
        ask: Ask = lambda _: NOBODY_ASKED,
        *,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._act = act
        self._ask = ask
        self._stop = stop
        self._load: Load | None = None
        self._acting: threading.Thread | None = None
        self._ledger = ledger
        self._conninfo = _conninfo(parameters)
        self._lines: list[tuple[float, str]] = []
        self._failed: BaseException | None = None
        self._is_late = False
        # Why the table is still there, and what to do.
        self.left: Failure | None = None

    def run(self) -> Report:
        """Raises Failure, and KeyboardInterrupt when what is drilled is called off.

        The table is dropped either way, or `left` tells why not.
        """
        plan = self._plan
        if max(calm_of(plan)) > plan.within_s:
            hint = f"Raise --rate, or --within above {max(calm_of(plan)):.0f}."
            raise Failure("there are too few writes to tell whether service is back", hint=hint, exit=Exit.USAGE)
        self._ledger.create()
        try:
            self._load = load = Load(self._conninfo, clients=plan.clients, rate=plan.rate, reads=plan.reads)
            load.begin()
            time.sleep(plan.before_s)
            fault = self._fault(load)
            outcomes = load.end(wait_s=LAST_S if fault.is_back else 0)
            if load.failure is not None:
                raise Failure(f"the load ended with {type(load.failure).__name__}: {load.failure}")
            account = self._ask(time.monotonic() - fault.began)
            truth = self._ledger.compare(outcomes, is_back=fault.is_back)
            return report_of(plan.how, outcomes, truth, fault, plan.clients, load.logins_failed, load.sessions_lost,
                             account)  # fmt: skip
        except KeyboardInterrupt:
            self._call_off()
            raise
        finally:
            try:
                self._ledger.drop(within_s=LATE_S if self._is_late else AGAIN_S)
            except Failure as failure:
                self.left = failure

    @property
    def steps(self) -> list[str]:
        """What was told of what is drilled, and why that failed."""
        failed = [str(self._failed)] if self._failed is not None else []
        return [*(line for _, line in self._lines), *failed]

    def _call_off(self) -> None:
        """Returns when what is drilled has ended: a switchover that went on would go on without anybody."""
        self._stop()
        if self._load is not None:
            self._load.end(wait_s=0)
        if self._acting is not None:
            self._acting.join(STOP_S)

    def _fault(self, load: Load) -> Fault:
        """The fault, and load until the service is back, or until there is no time left."""
        began, began_at = time.monotonic(), time.time()
        self._acting = acting = threading.Thread(target=self._acts, name="fault", daemon=True)
        acting.start()
        acting.join(self._plan.within_s)
        if acting.is_alive():
            self._is_late = True
            # It must not go on when nobody looks any more.
            self._call_off()
            raise Failure(f"what was drilled is not done within {self._plan.within_s:g} s", exit=Exit.TIMEOUT)
        ended = time.monotonic()
        if self._failed is not None:
            raise self._failed
        is_back, after = False, ended + self._plan.after_s
        over = began + self._plan.within_s
        while load.is_alive():
            # Whoever was back in time has load until the time after it is over.
            if time.monotonic() >= (after if is_back else over):
                break
            time.sleep(LOOK_S)
            is_back = is_served(load.outcomes, began, *calm_of(self._plan))
        self._is_late = not is_back
        return Fault(began, began_at, ended, tuple(self._lines), is_back)

    def _acts(self) -> None:
        try:
            self._act(lambda line: self._lines.append((time.monotonic(), line)))
        except BaseException as failed:
            self._failed = failed


def calm_of(plan: Plan) -> tuple[float, float]:
    """The longest gap between two writes of a service that is back, and for how long there has to be none."""
    calm_s = max(CALM_S, CALM_WRITES / (plan.rate * (1 - plan.reads)))
    return calm_s, max(BACK_S, BACK_CALMS * calm_s)


def is_served(outcomes: Sequence[Outcome], began: float, calm_s: float, back_s: float) -> bool:
    """Whether writes that were sent after the fault are acknowledged, one after the other, up to now."""
    now = last = time.monotonic()
    for outcome in reversed(outcomes):
        if outcome.error is not None or not outcome.is_write or outcome.sent < began:
            if outcome.ended < began:
                return False
            continue
        if last - outcome.ended > calm_s:
            return False
        last = outcome.ended
        if now - last >= back_s:
            return True
    return False


def kill_postmaster(place: Place) -> None:
    """SIGKILL to the server that a session of this machine belongs to, and to all its processes. Raises Failure."""
    postmaster = _parent(place.pid)
    is_here = postmaster is not None and _name(place.pid) == _name(postmaster) == "postgres"
    if postmaster is None or not is_here:
        hint = "Kill it there: --how command --command 'ssh db1 pkill -9 postgres'."
        raise Failure("the primary does not run on this machine, or not as postgres", hint=hint)
    try:
        is_meant = _is_of(postmaster, place)
    except (OSError, ValueError, IndexError, struct.error) as error:
        hint = "Run it as root, or as the server's own user."
        raise Failure(f"can't see whose process {postmaster} is: {error}", hint=hint) from None
    if not is_meant:
        hint = "Drill on the machine that the primary runs on, or kill it there: --how command."
        raise Failure(f"process {postmaster} of this machine is another server than the primary", hint=hint)
    try:
        _kill_family(postmaster)
    except OSError as error:
        raise Failure(f"the primary can't be killed: {error.strerror}", hint="Run it as a user who may.") from None


def _kill_family(postmaster: int) -> None:
    # Stopped first, so that none is born after the count.
    os.kill(postmaster, signal.SIGSTOP)
    try:
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
        os.kill(postmaster, signal.SIGKILL)
    except BaseException:
        os.kill(postmaster, signal.SIGCONT)
        raise
    for pid in map(int, children.split()):
        # It may end by itself, now that its parent has.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_of(postmaster: int, place: Place) -> bool:
    """Whether a server of this machine is the one that was asked, and none that has its process ids elsewhere."""
    # A postmaster works in its data directory.
    data = Path(f"/proc/{postmaster}/cwd")
    lines = (data / "postmaster.pid").read_text().splitlines()
    with (data / "global/pg_control").open("rb") as control:
        (system,) = struct.unpack("q", control.read(8))
    is_same_start = abs(int(lines[2]) - place.started) < START_S
    return int(lines[0]) == postmaster and is_same_start and system == place.system


def _name(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def _parent(pid: int) -> int | None:
    try:
        # Behind the name, which may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _conninfo(parameters: Mapping[str, Any]) -> bytes:
    from psycopg.conninfo import make_conninfo

    return make_conninfo(**{"application_name": "forebay drill", **parameters}).encode()
