"""The extension module: the Rust engine behind a few functions and one class."""

from typing import ClassVar, Literal, Self, TypeAlias, TypedDict, final, type_check_only

__all__ = [
    "Batch",
    "Catalogue",
    "Cluster",
    "Engine",
    "EngineError",
    "check_pattern",
    "classify",
    "parse_ini",
    "parse_toml",
    "parse_userlist",
    "scram_verifier",
    "state_schema",
    "version",
]

def state_schema() -> int:
    """What the state that moves between processes consists of, as a number: who has another can't read it."""

def version() -> str:
    """The package's version."""

def parse_toml(text: str) -> str:
    """forebay.toml as JSON, with the place of every key and value; see crates/forebay-config."""

def parse_ini(text: str) -> str:
    """pgbouncer.ini as the same."""

def parse_userlist(text: str) -> str:
    """userlist.txt as the same."""

def check_pattern(text: str, *, needs_group: bool = False) -> str | None:
    """Why a text is no regular expression that access rules and ident maps may hold; None: it is one.

    needs_group: it must have a group, which \\1 of an ident map stands for.
    """

def scram_verifier(password: str, *, salt: bytes, iterations: int = 4096) -> str:
    """The SCRAM-SHA-256 verifier, as pg_authid.rolpassword holds it. Releases the interpreter lock.

    Raises ValueError for a salt or a number of iterations outside the limits.
    """

def classify(text: str) -> str:
    """What a text does, as JSON. Releases the interpreter lock.

    is_parsed: false if PostgreSQL's grammar refuses the text, or it is too long to be looked at: it may do anything.
    bytes_max: how long it may be, as it is (text) and without what differs in literals alone (shortened).
    statements: verb, name (or null), traces (names as in crates/forebay-sql/src/traces.rs), settings, in order.
    functions, operators, relations, types: last parts of the names in it; maybe_functions: names that call a function
    only where the database has one of that name. needs_catalogue: those of the functions (operators among them),
    relations and types that are not PostgreSQL's own. asks_for: what a comment at its beginning says, or null: primary,
    replica or auto.
    """

class EngineError(Exception):
    """The engine can't start, or can't take a configuration; it never holds a secret.

    args: a sentence that says why, and its kind: `config` (the configuration can't be used), `address_in_use`,
    `address` (it can't be listened on for another reason), `io` (the driver can't be had), `system`.
    """

    args: tuple[str, str]

@final
class Batch:
    """What came out of the engine since the last `Engine.take`."""

    # seconds since 1970, level 0 to 3, name, code, worker, fields in the order to print
    events: list[tuple[float, int, str, str | None, int, list[tuple[str, str | int]]]]
    events_dropped: int
    # worker, question, database, user
    secrets: list[tuple[int, int, str, str]]
    # worker, question, ldap or pam, number of the directory or service, database, user, password, address
    verdicts: list[tuple[int, int, Literal["ldap", "pam"], int, str, str, str, str]]
    # worker, question, user, whether it is the user that forebay runs as, text, what of its answer is wanted, formats
    # of columns
    consoles: list[tuple[int, int, str, bool, str, Literal["query", "describe", "execute"], list[int]]]
    # databases that lost a server of their cluster
    suspects: list[str]
    called_off: list[tuple[int, int]]
    # command, kind (done, refused, snapshot), reason or JSON
    replies: list[tuple[int, str, str | None]]

# What an endpoint said: whether it is in recovery, its timeline, whether a replica is on no later one, LSN, system.
_Said: TypeAlias = tuple[bool, int, bool, int, int]

# The system; system, timeline and LSN of its primary when that was heard first; endpoint, what it said, when it was
# asked, questions missed since, whether it is beyond the primary.
_ClusterLegacy: TypeAlias = tuple[
    int | None, tuple[int, int, int] | None, list[tuple[str, _Said | None, int, int, bool]]
]

@final
class Cluster:
    """The endpoints of a cluster, and their roles by what they say of themselves.

    What follows from what is in crates/forebay-core/src/cluster.
    """

    def __new__(cls, endpoints: list[str], misses_max: int, lag_max: int) -> Self:
        """Nothing is known of them. misses_max: probes on end; lag_max: bytes, 0 for no limit."""

    def succeed(self, before: Cluster) -> None:
        """Goes on from what that one knows; called before anything is heard."""

    def memory(self) -> tuple[int, int] | None:
        """The system's identifier, and the highest timeline that was seen to write of it."""

    def remember(self, system: int, floor: int) -> None:
        """Takes over another process's memory; called before anything is heard."""

    def recall(self, system: int, timeline: int) -> None:
        """Takes over that a system was seen to write on a timeline, this cluster's or not; before anything is heard."""

    def written(self) -> list[tuple[int, int]]:
        """What was seen to write: systems, and the highest timeline of each."""

    def legacy(self) -> _ClusterLegacy:
        """What a process that takes this one's place is to know of the endpoints."""

    def inherit(self, legacy: _ClusterLegacy, since_us: int) -> None:
        """Goes on from that, and concludes; what was asked before then is not believed. After `remember`."""

    def name(self, endpoints: list[str] | None) -> None:
        """Somebody else says that these may write, and no others; None: nobody says so."""

    def trust_lease(self, is_enough: bool) -> None:
        """Whether the one that is named of two that can write on one timeline gets writes."""

    def hold(self, endpoint: str, is_relieved: bool) -> bool:
        """A switchover begins: it gets nothing new; is_relieved: what is under way ends. False: it can't write."""

    def release(self) -> None:
        """It is over, or undone."""

    def heard(self, index: int, said: _Said, asked_us: int) -> None:
        """An endpoint has answered. asked_us: of the monotonic clock, before it was asked."""

    def missed(self, index: int) -> None:
        """It has not."""

    def confirm(self, endpoint: str, is_confirming: bool | None) -> None:
        """How a write canary fared there; None: none is sent."""

    def expose(self, index: int, seconds: int | None) -> None:
        """How much of the primary's work it may not have replayed."""

    def delay(self, index: int, is_late: bool) -> None:
        """Whether what it has not replayed is older than it may be."""

    def decide(self) -> bool:
        """Concludes; whether some role is another one than before."""

    def is_behind(self) -> bool:
        """Whether the replicas are not known to have replayed all that the primary has told of."""

    def nodes(self) -> list[tuple[str, str, str, int | None, int | None, int | None]]:
        """Endpoint, role, reason, timeline, LSN, lag in bytes."""

@type_check_only
class Estate(TypedDict):
    """What a process leaves to its successor beside its connections."""

    sockets: list[int]
    metrics: int | None
    # Zero of its clock, in microseconds of CLOCK_MONOTONIC.
    clock: int
    # What names of statements begin with; the last number of one, and of a client or server.
    prefix: str
    last_statement: int
    last_id: int
    # Servers that it holds: database, user, how many. Filled in by who passes it on.
    held: list[tuple[str, str, int]]
    # Databases that are paused ("*": all) or disabled, likewise.
    paused: list[str]
    disabled: list[str]

@type_check_only
class BudgetFigures(TypedDict):
    """Of one database's budget, in servers."""

    database: str
    total: int
    # To this node, to others that are there, to those that are not.
    lent: tuple[int, int, int]
    kept: int
    wanted: int
    open: int
    changes: int

@type_check_only
class FleetFigures(TypedDict):
    """What a node tells of its fleet. Times are microseconds of the monotonic clock; 0: never."""

    until_us: int
    looked_us: int
    here: int
    absent: int
    registrations: int
    failures: int
    written: int
    refused: int
    # Database, endpoint, timeline.
    primaries: list[tuple[str, str, int]]
    budgets: list[BudgetFigures]

@final
class Engine:
    """A running engine: threads that serve clients without ever calling Python."""

    def __new__(cls, config: bytes, inherited: list[int] = ...) -> Self:
        """Starts it with a resolved configuration (forebay_core::config::EngineConfig as JSON). Raises EngineError.

        inherited: descriptors of sockets that listen, taken over in place of the addresses of the configuration.
        """

    @staticmethod
    def succeed(config: bytes, estate: Estate) -> Engine:
        """Starts it in the place of another process, on its sockets. Raises EngineError."""

    def estate(self) -> Estate:
        """What a process needs to begin in the place of this one; descriptors are this process's own."""

    def hand_over(self, socket: int) -> None:
        """Passes connections on through a copy of this socket, once `hand_on` is ordered. Raises EngineError."""

    def tell_held(self, held: list[tuple[str, str, int]]) -> None:
        """Tells that process how many servers there still are here: database, user, count."""

    def give_place(self) -> bool:
        """Offers the place to that process; returns whether it has accepted it. Blocks for up to ten seconds."""

    @property
    def place(self) -> str:
        """How it stands to the place it listens at: ours, coming, giving, given, lost."""

    def end_hand_over(self) -> None:
        """Tells the other process that all has been passed on."""

    def take_over(self, socket: int) -> None:
        """Takes connections that come through a copy of this socket. Raises EngineError."""

    def reload(self, config: bytes) -> None:
        """Puts another configuration in force as a whole, or changes nothing. Raises EngineError. May take a while."""

    def set_leaving(self, is_leaving: bool) -> None:
        """Says on /readyz that load balancers are to send nobody here, or takes it back."""

    def fileno(self) -> int:
        """A descriptor that is readable while something waits in the outbox that is to be taken at once."""

    def log_fileno(self) -> int:
        """A descriptor that is readable while events of the levels 0 and 1 wait: they may wait for more of them."""

    def take(self) -> Batch:
        """Empties the outbox. Never blocks."""

    def command(self, kind: str, argument: str | int | None = None) -> tuple[int, int]:
        """Orders every worker; returns the command's id and how many replies will come.

        kind: pause, resume, kill, reconnect, wait_close (argument: a database; None for all but kill), disable, enable
        (argument: a database), kill_client (argument: its id), drain, close, shed, cut, hand_on,
        let_go, stay, snapshot. Raises ValueError for
        another kind or a wrong argument.
        """

    def was_refused(self, endpoint: str, dbname: str, text: str) -> bool:
        """Whether a replica has refused a text that the catalogue takes for a reading one. endpoint: the first."""

    def set_roles(self, database: str, cluster: Cluster) -> tuple[int, int]:
        """Tells all workers the roles of a database's endpoints. Returns the command, and how many replies come."""

    def share(self, database: str, servers: int, until_us: int, after: int) -> tuple[int, int]:
        """So many servers of a database that has a budget may be open until then, and at most `after` from there on.

        until_us: of the monotonic clock. Holds at once; returns the command by which workers act on it.
        """

    def tell_fleet(self, figures: FleetFigures) -> None:
        """From here on the metrics tell this of the fleet."""

    def servers_of(self, database: str) -> int:
        """Servers of a database that are open, or opening, over all its pools."""

    def answer_secret(self, worker: int, question: int, secret: str | None) -> None:
        """Answers with a password, md5 hash or SCRAM verifier; None: no such user. Derives what logins need.

        Raises ValueError for a malformed secret, and then the question is still open.
        """

    def answer_verdict(self, worker: int, question: int, is_right: bool) -> None:
        """Answers whether a password is right."""

    def answer_console(self, worker: int, question: int, messages: bytes) -> None:
        """Answers with encoded messages, without ReadyForQuery."""

    def tell_console(self, worker: int, question: int, messages: bytes) -> None:
        """Sends encoded messages before those that answer."""

    def extend_question(self, worker: int, question: int) -> None:
        """Says that the console is still at work for an answer: the engine waits for it anew, 30 s."""

    def answer_failed(self, worker: int, question: int, because: str) -> None:
        """Says that there is no answer; the words go to the log."""

    def stats(self) -> str:
        """Counters as JSON: a list of pools, summed over workers (forebay.observe.stats.PoolCounters)."""

    def hosts(self) -> tuple[list[tuple[str, int, list[str]]], int, int]:
        """Names of servers: seconds until each is looked up again, addresses. And how many lookups run, and wait."""

    def worker_stats(self) -> str:
        """Counters as JSON: a list of workers in their order (forebay.observe.stats.WorkerCounters)."""

    def stop(self) -> None:
        """Closes everything at once and ends the threads. Safe to call twice."""

    @property
    def listeners(self) -> list[str]:
        """Where clients connect: `address:port`, or the path of a Unix socket."""

    @property
    def metrics_address(self) -> str | None:
        """Where /metrics is served."""

    @property
    def driver(self) -> str:
        """The I/O driver in use: `io_uring` or `epoll`."""

    @property
    def driver_reason(self) -> str | None:
        """Why it is not io_uring, where the configuration left the choice."""

    @property
    def workers(self) -> int:
        """Threads that serve clients."""

@final
class Catalogue:
    """What a database's own objects may do, made from the rows of `QUERY`, column by column as text.

    judge, judge_type: names of traces, as in crates/forebay-sql/src/traces.rs, that a text or a value of the type with
    that number may leave; why: what of the database makes it so; route: whether a replica may be asked, and why or why
    not, completing "it …", outside of a transaction block. settings_named: custom settings that bodies of functions
    name. reads_sequences: whether currval or lastval is asked for anywhere.
    """

    QUERY: ClassVar[str]
    STAMP: ClassVar[str]

    def __new__(cls, rows: list[list[str | None]]) -> Catalogue: ...
    def judge(self, text: str) -> list[str]: ...
    def route(self, text: str) -> tuple[bool, str]: ...
    def why(self, text: str) -> list[str]: ...
    def judge_type(self, oid: int) -> list[str]: ...
    @property
    def settings_named(self) -> list[str]: ...
    @property
    def reads_sequences(self) -> bool: ...
