"""What `weights` and `zones` must be to the other settings of a database."""

from __future__ import annotations

from forebay.config.draft import Draft, Entity
from forebay.config.finding import Report
from forebay.config.preferences import Wishes, fits, pairs, preferences, wishes
from forebay.config.resolve import pool_value
from forebay.config.topology import has_source, own_value


def are_of_use(draft: Draft, report: Report) -> None:
    """Weights and zones that do nothing are a mistake that nobody would notice."""
    for database in draft.databases.values():
        given = {name: database.settings[name] for name in ("weights", "zones") if name in database.settings}
        endpoints = database.settings.get("endpoints")
        if not given or endpoints is None or not isinstance(endpoints.value, tuple):
            continue
        cause = _why_idle(draft, database, endpoints.value)
        for name, one in given.items():
            if cause:
                report.add("idle_preference", one.place, name=database.name, setting=name, cause=cause)
        if cause:
            continue
        if not has_source(database):
            for name, one in given.items():
                for key in pairs(database, name):
                    if not any(fits(key, endpoint) for endpoint in endpoints.value):
                        report.add("preference_of_nobody", one.place, name=database.name, setting=name, key=key)
        _look_at_values(wishes(draft, database), database, endpoints.value, report)


def _look_at_values(said: Wishes, database: Entity, endpoints: tuple[str, ...], report: Report) -> None:
    found = preferences(said, endpoints, {})
    if "weights" in database.settings and sum(one.weight == 0 for one in found) == len(endpoints):
        report.add("no_weight_left", database.settings["weights"].place, name=database.name)
    if "zones" not in database.settings:
        return
    place = database.settings["zones"].place
    if not said.zone:
        cause = "zone does not say where forebay is"
        report.add("idle_preference", place, name=database.name, setting="zones", cause=cause)
    elif not has_source(database) and not any(one.is_near for one in found):
        cause = f'none of its endpoints is in zone "{said.zone}", where forebay is'
        report.add("idle_preference", place, name=database.name, setting="zones", cause=cause)


def _why_idle(draft: Draft, database: Entity, endpoints: tuple[str, ...]) -> str | None:
    if len(endpoints) < 2 and not has_source(database):
        return "it has one endpoint"
    if pool_value(draft, database, "load_balance_hosts") == "disable":
        return 'load_balance_hosts is "disable"'
    is_of_primary = own_value(database, "topology") != "none" and own_value(database, "role") == "primary"
    if is_of_primary and not own_value(database, "read_write_split"):
        return "its clients are served by the primary alone"
    return None
