"""What settings must be to each other. A rule takes the draft and a report; `RULES` is the registration."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

from forebay._generated.settings import SETTINGS
from forebay.config.draft import BY_KEY, Draft, Entity
from forebay.config.finding import Report
from forebay.config.fleet import fleets_can_be_joined
from forebay.config.preference_rules import are_of_use
from forebay.config.resolve import FALLBACK, auth_query, forced_secret, group_number, pool_value, source_path
from forebay.config.secret import Secret, exposure
from forebay.config.source_address import parse
from forebay.config.tls_offers import NothingLeft, offers, wanted_of
from forebay.config.topology import (
    SOURCE_EXAMPLES,
    SOURCE_SETTINGS,
    has_source,
    has_topology,
    own_value,
    poll_login,
    topology_source,
)
from forebay.failure import Failure

_CHECKING = ("verify-ca", "verify-full")
# Methods by which clients send their password as it is.
_SHOWING = ("password", "ldap", "pam")


def somewhere_to_listen(draft: Draft, report: Report) -> None:
    """Nobody can connect to a forebay that does not listen."""
    if draft.bound is None and not draft.value("listen", "address") and not draft.value("listen", "unix"):
        report.add("nowhere_to_listen", draft.place("listen", "address"))


def the_sockets_group_exists(draft: Draft, report: Report) -> None:
    """A socket that its users can't open is found at the check."""
    name = draft.value("listen", "unix_group")
    if name and group_number(str(name)) is None:
        report.add("unknown_group", draft.place("listen", "unix_group"), name=name)


def doors_are_guarded(draft: Draft, report: Report) -> None:
    """Who listens to a network must ask for a proof that may be shown to a network."""
    method = draft.value("auth", "type")
    addresses = draft.value("listen", "address") if draft.bound is None else draft.bound
    open_ones = [one for one in addresses if not _is_loopback(one)] if isinstance(addresses, tuple) else []
    if not open_ones:
        return
    place = next(
        (one for one in (draft.place("auth", "type"), draft.place("listen", "address")) if one != draft.whole),
        draft.whole,
    )
    needs_tls = draft.value("listen", "tls.mode") in ("require", *_CHECKING)
    if method == "hba":
        _look_at_open_rules(draft, open_ones[0], report, needs_tls=needs_tls)
    elif method in ("trust", "any"):
        report.add("open_trust", place, method=method, address=open_ones[0])
    elif method in _SHOWING and not needs_tls:
        report.add("open_password", place, method=method, address=open_ones[0])


def nobody_chooses_his_address(draft: Draft, report: Report) -> None:
    """Whose PROXY header is believed says where clients come from."""
    networks = draft.value("listen", "proxy_from")
    for network in networks if isinstance(networks, tuple) else ():
        if network.endswith("/0"):
            report.add("everybody_may_proxy", draft.place("listen", "proxy_from"), network=network)


def _look_at_open_rules(draft: Draft, address: str, report: Report, *, needs_tls: bool) -> None:
    """Lines of rules that hold for all addresses."""
    place = draft.place("auth", "hba_file")
    for rule in draft.access.engine.rules or ():
        is_wide = rule.network is None or int(ipaddress.ip_address(rule.network[1])) == 0
        if rule.kind == "local" or not is_wide:
            continue
        if rule.method == "trust" and rule.certificate == "none":
            report.add("open_trust_rule", place, rule=rule.place, address=address)
        elif rule.method in _SHOWING and rule.kind != "hostssl" and not needs_tls:
            report.add("open_password_rule", place, rule=rule.place, method=rule.method, address=address)


def listener_has_its_files(draft: Draft, report: Report) -> None:
    """TLS towards clients needs a certificate, its key, and an authority to check clients against."""
    if any(name.startswith("listen.tls.") for name in draft.faulty):
        return
    certificate, key, authority, mode = (
        draft.value("listen", f"tls.{name}") for name in ("certificate", "key", "ca", "mode")
    )
    place = draft.place("listen", "tls.mode")
    if bool(certificate) != bool(key):
        given, missing = ("certificate", "key") if certificate else ("key", "certificate")
        report.add(
            "certificate_without_key",
            draft.place("listen", f"tls.{given}"),
            given=f"listen.tls.{given}",
            missing=f"listen.tls.{missing}",
        )
    elif mode in ("require", *_CHECKING) and not certificate:
        report.add("tls_without_certificate", place, name="listen.tls.mode", mode=mode)
    elif mode in _CHECKING and not authority:
        report.add("tls_without_authority", place, name="listen.tls.mode", mode=mode, missing="listen.tls.ca")


def servers_have_their_files(draft: Draft, report: Report) -> None:
    """A server's certificate is checked against an authority; ours needs its key."""
    for database in draft.databases.values():
        names = ("certificate", "key", "ca", "mode")
        certificate, key, authority, mode = (pool_value(draft, database, f"tls.{name}") for name in names)
        own = database.settings.get("tls.mode")
        place = own.place if own else draft.place("server_defaults", "tls.mode")
        if bool(certificate) != bool(key):
            given, missing = ("tls.certificate", "tls.key") if certificate else ("tls.key", "tls.certificate")
            report.add("certificate_without_key", place, given=given, missing=missing)
        if mode == "verify-ca" and not authority:
            report.add("tls_without_authority", place, name="tls.mode", mode=mode, missing="tls.ca")


def tls_has_something_to_offer(draft: Draft, report: Report) -> None:
    """What a list names and is not there is said; a list of which nothing is left is refused."""
    for section in ("listen", "server_defaults"):
        own = {name: given for (of, name), given in draft.settings.items() if of == section}
        _look_at_offers(Entity(section, draft.whole, own), lambda name, of=section: draft.value(of, name), report)  # type: ignore[misc]
    for database in draft.databases.values():
        shown = Entity(f"databases.{database.name}", database.place, database.settings)
        _look_at_offers(shown, lambda name, one=database: pool_value(draft, one, name), report)  # type: ignore[misc]


def _look_at_offers(scope: Entity, value: Callable[[str], object], report: Report) -> None:
    def value_of(name: str) -> object:
        return value(f"tls.{name}") if name != "curve" or scope.name == "listen" else None

    try:
        _, passed_over = offers(wanted_of(value_of))
    except NothingLeft as nothing:
        given = scope.settings.get(f"tls.{nothing.setting}")
        place = given.place if given else scope.place
        report.add("tls_nothing_left", place, name=f"{scope.name}.tls.{nothing.setting}", cause=nothing)
        return
    for name, word in passed_over:
        if given := scope.settings.get(f"tls.{name}"):
            report.add("tls_not_offered", given.place, name=f"{scope.name}.tls.{name}", word=word)


def files_can_be_read(draft: Draft, report: Report) -> None:
    """A missing certificate is found at the check, not at the first login."""
    paths = {setting.name for setting in SETTINGS if setting.kind == "path" and setting.name.startswith("tls.")}
    scopes = [("listen", "", {name: one for (section, name), one in draft.settings.items() if section == "listen"})]
    defaults = {name: one for (section, name), one in draft.settings.items() if section == "server_defaults"}
    scopes.append(("server_defaults", "", defaults))
    scopes += [("databases", f".{one.name}", one.settings) for one in draft.databases.values()]
    scopes.append(("auth", "", {name: one for (section, name), one in draft.settings.items() if section == "auth"}))
    for section, entity, settings in scopes:
        for name in sorted({*paths, "ldap_ca"} & set(settings)):
            given = settings[name]
            if not given.value:
                continue
            path = Path(str(given.value))
            try:
                with path.open("rb") as file:
                    refused = exposure(file.fileno()) if name == "tls.key" else None
            except OSError as error:
                shown = f"{section}{entity}.{name}"
                report.add("missing_file", given.place, name=shown, path=path, cause=error.strerror or error)
                continue
            if refused:
                report.add("exposed_key", given.place, path=path, mode=refused)


def databases_lead_somewhere(draft: Draft, report: Report) -> None:
    """A database needs endpoints; the fallback's name on the server is the asked one."""
    if not draft.databases:
        is_ini = draft.whole.source.is_ini or draft.process is not None
        report.add("no_databases_yet" if is_ini else "no_databases", draft.whole)
    for database in draft.databases.values():
        given = database.settings.get("endpoints")
        if (given is None or not given.value) and f"databases.{database.name}.endpoints" not in draft.faulty:
            report.add("no_endpoints", given.place if given else database.place, name=database.name)
        if database.name == FALLBACK and "dbname" in database.settings:
            report.add("fallback_dbname", database.settings["dbname"].place)


def topologies_can_be_found(draft: Draft, report: Report) -> None:
    """Endpoints are asked for their roles by somebody that they let in."""
    for database in draft.databases.values():
        given = database.settings.get("topology")
        if _is_topology_faulty(database, draft) or (not has_topology(database) and _names_source(database)):
            # What it is to be is told already, here or where its source is named.
            continue
        if given is None or not has_topology(database):
            for name, default in (
                ("role", "primary"),
                ("read_write_split", False),
                ("read_consistency", "read_your_writes"),
                ("retry_reads", True),
            ):
                if own_value(database, name) != default:
                    place = database.settings[name].place
                    report.add("role_without_topology", place, name=database.name, setting=name)
            continue
        if own_value(database, "read_write_split") and pool_value(draft, database, "pool_mode") == "session":
            report.add("split_of_sessions", database.settings["read_write_split"].place, name=database.name)
        login = poll_login(draft, database)
        role = own_value(database, "role")
        if database.name == FALLBACK:
            report.add("topology_of_any", given.place)
        elif role != "primary" and own_value(database, "read_write_split"):
            place = database.settings["read_write_split"].place
            report.add("split_of_one_role", place, name=database.name, role=role)
        elif login is None:
            report.add("nobody_polls", given.place, name=database.name)
        elif login[1] is not None and login[1].is_verifier:
            report.add("unusable_poll_secret", given.place, name=database.name, user=login[0])


def _is_topology_faulty(database: Entity, draft: Draft) -> bool:
    """Whether it has one that could not be read, of which a finding tells by itself."""
    return f"databases.{database.name}.topology" in draft.faulty


def _names_source(database: Entity) -> bool:
    return any(name in database.settings for name in SOURCE_SETTINGS)


def sources_can_be_asked(draft: Draft, report: Report) -> None:
    """A topology that somebody tells of has an address of its kind, without a login in it."""
    for database in draft.databases.values():
        kind, given = str(own_value(database, "topology")), database.settings.get("topology_source")
        if _is_topology_faulty(database, draft):
            continue
        if not has_source(database):
            for name in SOURCE_SETTINGS:
                if name in database.settings:
                    place = database.settings[name].place
                    report.add("source_without_topology", place, name=database.name, setting=name)
            continue
        place = (given or database.settings["topology"]).place
        if given is None:
            example = f'"{SOURCE_EXAMPLES[kind]}"'
            report.add("topology_without_source", place, name=database.name, kind=kind, example=example)
        elif wrong := _wrong_source(kind, database):
            cause, hint = wrong
            report.add("unusable_topology_source", place, name=database.name, cause=cause, hint=hint)


def _wrong_source(kind: str, database: Entity) -> tuple[str, str] | None:
    """What is wrong with where and as whom a source is asked, and what to do about it; holds no password."""
    source = topology_source(database)
    if source is None:
        return None
    try:
        address = parse(source.address, example=SOURCE_EXAMPLES[kind])
    except Failure as failure:
        return str(failure), failure.hint or ""
    if address.scheme.partition("+")[0] != kind:
        return f'topology = "{kind}", and the source is {address.scheme}://', f"write {SOURCE_EXAMPLES[kind]}"
    if address.user is not None:
        return "topology_source holds a login", "set topology_source_user and topology_source_secret instead"
    if (source.user is None) != (source.secret is None):
        return "topology_source_user and topology_source_secret go together", "set both, or none of them"
    if source.user is not None and kind not in ("patroni", "etcd"):
        return f"a source of the kind {kind} takes no user", "leave topology_source_user and its secret out"
    if source.secret is not None and source.secret.is_verifier:
        return "topology_source_secret can't be shown to anybody", "give it the plain password"
    return None


def pools_fit(draft: Draft, report: Report) -> None:
    """Sizes of pools against each other."""
    for database in draft.databases.values():
        size, least, limit = (
            pool_value(draft, database, name) for name in ("pool_size", "min_pool_size", "max_db_connections")
        )
        place = next(
            (database.settings[name].place for name in ("min_pool_size", "pool_size") if name in database.settings),
            draft.place("server_defaults", "min_pool_size"),
        )
        if least > size:
            report.add("min_above_size", place, least=least, size=size)
        if limit and size > limit and {"pool_size", "max_db_connections"} & set(database.settings):
            own = [name for name in ("pool_size", "max_db_connections") if name in database.settings]
            at = database.settings[own[0]].place
            report.add("pool_above_limit", at, size=size, name=database.name, limit=limit)
        if "min_pool_size" in database.settings and least and "user" not in database.settings:
            report.add("idle_minimum", place, name=database.name)


def levels_isolate(draft: Draft, report: Report) -> None:
    """Whoever gives isolation up for speed should know that they did."""
    overrides = {one.settings["pool_mode"].value for one in draft.users.values() if "pool_mode" in one.settings}
    for database in draft.databases.values():
        is_shared = {pool_value(draft, database, "pool_mode"), *overrides} != {"session"}
        if not is_shared or pool_value(draft, database, "level") != "fast":
            continue
        own = database.settings.get("level")
        place = own.place if own else draft.place("server_defaults", "level")
        report.add("leaky_level", place, name=database.name)


def forced_users_can_log_in(draft: Draft, report: Report) -> None:
    """A forced user's secret must be one that can be shown to a server."""
    for database in draft.databases.values():
        own = database.settings.get("secret")
        if own and "user" not in database.settings:
            report.add("secret_without_user", own.place, name=database.name)
        secret = forced_secret(draft, database)
        if secret and secret.is_verifier and secret.text.startswith("SCRAM-"):
            place = own.place if own else database.settings["user"].place
            report.add("unusable_verifier", place, name=database.name)


def somebody_can_log_in(draft: Draft, report: Report) -> None:
    """A pooler that nobody can log in to is a mistake found late."""
    looked_up = _is_looked_up(draft)
    if not draft.users and not looked_up and not _is_judged_elsewhere(draft):
        report.add("nobody_can_log_in", draft.whole)
    if draft.value("auth", "type") in ("trust", "cert", "hba") or _is_judged_elsewhere(draft):
        return
    for user in draft.users.values():
        if "secret" not in user.settings and f"users.{user.name}.secret" not in draft.faulty and not looked_up:
            report.add("user_without_secret", user.place, name=user.name)


def lookups_are_complete(draft: Draft, report: Report) -> None:
    """A query for secrets needs someone to run it."""
    source = draft.value("auth", "secret_source")
    if draft.value("auth", "query") and source:
        report.add("two_queries", draft.place("auth", "query"))
    named = [draft.settings.get(("auth", "dbname"))]
    named += [database.settings.get("auth_dbname") for database in draft.databases.values()]
    for given in named:
        if given and given.value and given.value not in draft.databases and FALLBACK not in draft.databases:
            report.add("unknown_auth_database", given.place, name=given.value)
    _lookups_have_users(draft, report)
    if source and source_path(draft).endswith(".py") and not Path(source_path(draft)).is_file():
        place, path = draft.place("auth", "secret_source"), source_path(draft)
        report.add("missing_file", place, name="auth.secret_source", path=path, cause="no such file")


def _lookups_have_users(draft: Draft, report: Report) -> None:
    """Who runs a query must be able to log in; in an ini without a secret, as servers may trust it."""
    query = draft.value("auth", "query")
    asked = [(draft.value("auth", "user"), draft.place("auth", "query"))] if query else []
    for database in draft.databases.values():
        own = next((database.settings[name] for name in ("auth_user", "auth_query") if name in database.settings), None)
        if own is not None:
            found = auth_query(draft, database)
            asked.append((found.user if found else None, own.place))
    if query and not draft.value("auth", "user") and len(asked) > 1:
        del asked[0]
    for user, place in asked:
        known = draft.users.get(str(user))
        is_trusted = bool(user) and place.source.is_ini
        if not is_trusted and (known is None or not _has_secret(draft, known)):
            report.add("query_without_user", place)


def forced_users_stand_for_anybody(draft: Draft, report: Report) -> None:
    """With auth.type = "any" a client is nobody but the forced user."""
    if draft.value("auth", "type") != "any":
        return
    for database in draft.databases.values():
        if "user" not in database.settings:
            report.add("any_without_user", database.place, name=database.name)


def certificates_can_be_shown(draft: Draft, report: Report) -> None:
    """Who is to show a certificate needs TLS, and an authority that it is checked against."""
    rules = draft.access.engine.rules or ()
    asked = draft.value("auth", "type") == "cert" or any(
        rule.method == "cert" or rule.certificate != "none" for rule in rules
    )
    missing = next((name for name in ("certificate", "key", "ca") if not draft.value("listen", f"tls.{name}")), None)
    if asked and missing:
        report.add("cert_without_authority", draft.place("auth", "type"), missing=missing)


def console_users_are_known(draft: Draft, report: Report) -> None:
    """An operator who can't log in finds out at the worst time."""
    if _is_looked_up(draft) or _is_judged_elsewhere(draft):
        return
    for name in ("admins", "viewers"):
        users = draft.value("console", name)
        for user in users if isinstance(users, tuple) else ():
            if user not in draft.users:
                place = draft.place("console", name)
                shown = BY_KEY["console", name].pgbouncer if place.source.is_ini else f"console.{name}"
                report.add("unknown_admin", place, name=shown, user=user)


def peers_lead_somewhere(draft: Draft, report: Report) -> None:
    """A peer needs an endpoint, and its clients' keys a number to tell them from ours."""
    for peer in draft.peers.values():
        if "endpoint" not in peer.settings and f"peers.{peer.name}.endpoint" not in draft.faulty:
            report.add("peer_without_endpoint", peer.place, name=peer.name)
    if draft.peers and not draft.value("listen", "peer_id"):
        report.add("peers_without_number", next(iter(draft.peers.values())).place)


def peers_are_no_load_balancers(draft: Draft, report: Report) -> None:
    """A peer sends no header of the PROXY protocol before a cancel request that it passes on."""
    written = draft.value("listen", "proxy_from")
    networks = [ipaddress.ip_network(one) for one in written] if isinstance(written, tuple) else []
    for peer in draft.peers.values():
        endpoint = peer.settings.get("endpoint")
        address = _address(str(endpoint.value)) if endpoint else None
        network = next((one for one in networks if address and address in one), None)
        if endpoint and network:
            report.add("peer_behind_proxy", endpoint.place, name=peer.name, address=address, network=network)


def ports_differ(draft: Draft, report: Report) -> None:
    """Two listeners can't share an address."""
    host, _, port = str(draft.value("metrics", "address") or "").rpartition(":")
    addresses = draft.value("listen", "address")
    if port in ("", "0") or port != str(draft.value("listen", "port")) or not isinstance(addresses, tuple):
        return
    bare = host.strip("[]")
    if bare in addresses or {bare, *addresses} & {"0.0.0.0", "::"}:  # noqa: S104  (compared, not bound)
        report.add("same_port", draft.place("metrics", "address"), address=f"{host}:{port}")


def limits_hold_a_buffer(draft: Draft, report: Report) -> None:
    """A limit below one buffer would stop every connection at its first read."""
    size = draft.value("engine", "buffer_size")
    for name in ("relay_bytes_max", "wait_bytes_max"):
        limit = draft.value("limits", name)
        if isinstance(limit, int) and isinstance(size, int) and limit < size:
            place = draft.place("limits", name)
            report.add("buffers_above_limit", place, name=f"limits.{name}", limit=limit, size=size)


RULES: Final[tuple[Callable[[Draft, Report], None], ...]] = (
    somewhere_to_listen,
    the_sockets_group_exists,
    doors_are_guarded,
    nobody_chooses_his_address,
    listener_has_its_files,
    servers_have_their_files,
    tls_has_something_to_offer,
    files_can_be_read,
    databases_lead_somewhere,
    topologies_can_be_found,
    sources_can_be_asked,
    are_of_use,
    pools_fit,
    levels_isolate,
    forced_users_can_log_in,
    somebody_can_log_in,
    lookups_are_complete,
    forced_users_stand_for_anybody,
    certificates_can_be_shown,
    console_users_are_known,
    peers_lead_somewhere,
    peers_are_no_load_balancers,
    fleets_can_be_joined,
    ports_differ,
    limits_hold_a_buffer,
)


def _address(endpoint: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in an endpoint; none in a host's name or a socket's path."""
    try:
        return ipaddress.ip_address(endpoint.rpartition(":")[0].strip("[]"))
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _is_looked_up(draft: Draft) -> bool:
    """Whether users need not be in the configuration."""
    has_query = draft.value("auth", "query") or any("auth_user" in one.settings for one in draft.databases.values())
    return bool(has_query or draft.value("auth", "secret_source"))


def _is_judged_elsewhere(draft: Draft) -> bool:
    """Whether someone who is not in the configuration may be let in: by a directory, by PAM, or as a forced user."""
    rules = draft.access.engine.rules or ()
    return draft.value("auth", "type") in ("ldap", "pam", "any") or any(one.method in ("ldap", "pam") for one in rules)


def _has_secret(draft: Draft, user: Entity) -> bool:
    given = user.settings.get("secret")
    faulty = f"users.{user.name}.secret" in draft.faulty
    return faulty or (given is not None and isinstance(given.value, Secret))
