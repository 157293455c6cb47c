"""Configuration: from forebay.toml or pgbouncer.ini to the one value that crosses to the engine.

`load` reads, substitutes and translates (`tree`, `environment`, `importers`), checks each setting (`draft`, `kinds`)
and all of them together (`rules`), and resolves them (`resolve`). Every fault is a `Finding` with its place.
"""

from forebay.config.diff import diff
from forebay.config.finding import Finding, render
from forebay.config.load import Loaded, check, load, load_text
from forebay.config.resolve import AuthQuery, Config
from forebay.config.sample import init, sample
from forebay.config.secret import Secret
from forebay.config.setting_line import SettingLine

__all__ = [
    "AuthQuery",
    "Config",
    "Finding",
    "Loaded",
    "Secret",
    "SettingLine",
    "check",
    "diff",
    "init",
    "load",
    "load_text",
    "render",
    "sample",
]
