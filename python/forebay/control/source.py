"""Where the service's configuration comes from: a file, or a text that `forebay up` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from forebay._generated.settings import SETTINGS
from forebay.config.finding import Finding
from forebay.config.importers.process import Process
from forebay.config.load import Loaded, load, load_text
from forebay.config.resolve import Config, resolve
from forebay.observe.stats import PERIOD_S

# Errors of a configuration that are told in one line.
ERRORS_TOLD_MAX: Final = 20


class ConfigurationRefused(Exception):
    """A configuration that can't be used, with what is wrong with it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        errors = [finding for finding in findings if finding.is_error]
        super().__init__(_in_one_line(errors) if errors else "the configuration can't be used")
        self.findings = tuple(findings)


def _in_one_line(errors: Sequence[Finding]) -> str:
    """All of them, as far as one line takes them: who mends a file wants to do it once."""
    told = [str(error) for error in errors[:ERRORS_TOLD_MAX]]
    more = len(errors) - len(told)
    return "; ".join([*told, f"and {more} more: see the log, or `forebay check`"] if more else told)


def _nothing() -> None:
    """For a source that has nothing to remember."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration without errors. warnings: findings that are no reason to refuse it.

    accepted: tells its source that it is in force; the source remembers nothing of a configuration before that.
    """

    config: Config
    warnings: Sequence[Finding]
    accepted: Callable[[], None] = field(default=_nothing, compare=False, repr=False)

    @property
    def log_file(self) -> Path | None:
        """Where the log goes; None: standard error."""
        written = self.config.draft.value("log", "file")
        return self.config.draft.base / str(written) if written else None

    @property
    def memory_file(self) -> Path | None:
        """Where it is kept what was seen of clusters; None: nothing is said of it."""
        written = self.config.draft.value("clusters", "file")
        return self.config.draft.base / str(written) if written else None

    @property
    def process(self) -> Process | None:
        """What `forebay-pgbouncer` itself acts on; None for everything else."""
        return self.config.draft.process

    @property
    def stats_period_s(self) -> float:
        """What averages are taken over."""
        return max(0.1, self.process.number("stats_period")) if self.process else PERIOD_S

    @property
    def logs_stats(self) -> bool:
        """Whether a line tells of each period."""
        return self.process is not None and self.process.is_on("log_stats")

    @property
    def drain_timeout_s(self) -> float | None:
        """How long a drain may take; None: as long as it takes."""
        us = self.config.engine.limits.drain_timeout
        return us / 1e6 if us else None

    @property
    def drain_notice_s(self) -> float:
        """How long load balancers are told of a drain before it begins."""
        return self.config.engine.limits.drain_notice / 1e6

    @property
    def ask_timeout_s(self) -> float:
        """How long a lookup may take."""
        return self.config.engine.auth.ask_timeout / 1e6


class ConfigurationSource(Protocol):
    """What can be read again at a reload."""

    def load(self) -> Configuration:
        """Reads everything anew, secrets of files and commands included; may block. Raises ConfigurationRefused."""


@runtime_checkable
class SettableSource(Protocol):
    """A source of which single settings can be changed without changing what it reads."""

    def load_with(self, name: str, value: str) -> Configuration:
        """What was last accepted, but for this setting; nothing else is read again.

        Once accepted, the setting is part of what `load` gives, until what that reads has one of its own.
        Raises ConfigurationRefused, and Refused for what can't be set.
        """


@dataclass(frozen=True, slots=True)
class FileSource:
    """forebay.toml, or pgbouncer.ini by its suffix. environment: where variables are looked up.

    is_fetching: secrets are fetched; not for who does not serve.
    """

    path: str
    environment: Mapping[str, str]
    is_fetching: bool = True

    def load(self) -> Configuration:
        return usable(load(self.path, environ=self.environment, is_fetching=self.is_fetching))


@dataclass(frozen=True, slots=True)
class TextSource:
    """The text of a forebay.toml that stands in no file; `folder` is where relative paths start."""

    text: str = field(repr=False)
    folder: Path

    def load(self) -> Configuration:
        return usable(load_text(self.text, folder=self.folder))


def keep_until_restart(running: Config, read: Config) -> Config:
    """What a reload puts in force: `read`, but settings that only a start reads as they have run since then."""
    live = {(setting.section, setting.name) for setting in SETTINGS if setting.is_live}
    settings = {key: given for key, given in read.draft.settings.items() if key in live}
    settings |= {key: given for key, given in running.draft.settings.items() if key not in live}
    process = read.draft.process
    if process is not None and running.draft.process is not None:
        process = running.draft.process.until_restart(process)
    return resolve(replace(read.draft, settings=settings, process=process))


def usable(loaded: Loaded) -> Configuration:
    """What was loaded. Raises ConfigurationRefused where it can't be used."""
    if loaded.config is None:
        raise ConfigurationRefused(loaded.findings)
    return Configuration(loaded.config, loaded.findings)
