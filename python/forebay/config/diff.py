"""What changed between two configurations, in lines for the log. Secrets are said to have changed, never shown."""

from __future__ import annotations

from collections.abc import Iterator

from forebay._generated.settings import SETTINGS, Setting
from forebay.config.draft import Entity, Given
from forebay.config.environment import NAMED_SECTIONS
from forebay.config.resolve import Config, written_default
from forebay.config.secret import Secret

_NOT_LIVE = " (takes effect at the next start)"


def diff(old: Config, new: Config) -> tuple[str, ...]:
    """A line for each setting, database and user that changed; empty: nothing did."""
    lines = [*_settings(old, new)]
    lines += _entities("databases", old.draft.databases, new.draft.databases)
    lines += _entities("users", old.draft.users, new.draft.users)
    lines += _entities("peers", old.draft.peers, new.draft.peers)
    return tuple(lines)


def _settings(old: Config, new: Config) -> Iterator[str]:
    for setting in SETTINGS:
        if setting.section in NAMED_SECTIONS:
            continue
        before, after = old.draft.value(setting.section, setting.name), new.draft.value(setting.section, setting.name)
        if before == after:
            continue
        note = "" if setting.is_live else _NOT_LIVE
        # Who has a pgbouncer.ini knows no other names.
        name = (new.draft.process and setting.pgbouncer) or setting.key
        yield f"{name}: {_written(old, setting)} -> {_written(new, setting)}{note}"


def _written(config: Config, setting: Setting) -> str:
    given = config.draft.settings.get((setting.section, setting.name))
    return (given.written if given else written_default(setting)) or "not set"


def _entities(section: str, old: dict[str, Entity], new: dict[str, Entity]) -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"{section}.{name}: removed"
    for name, entity in new.items():
        if name not in old:
            yield f"{section}.{name}: added"
            continue
        before, after = old[name].settings, entity.settings
        for setting in dict.fromkeys((*before, *after)):
            if line := _changed(before.get(setting), after.get(setting)):
                yield f"{section}.{name}.{setting}: {line}"


def _changed(before: Given | None, after: Given | None) -> str | None:
    if before and after and before.value == after.value:
        return None
    if any(given and isinstance(given.value, Secret) for given in (before, after)):
        return "changed" if before and after else "added" if after else "removed"
    return f"{before.written if before else 'not set'} -> {after.written if after else 'not set'}"
