"""The commands of the console: one line each."""

from __future__ import annotations

from typing import Final

from forebay.admin.command import kill, kill_client, pause, reconnect, reload, resume, shutdown
from forebay.admin.registration import Command
from forebay.admin.show import (
    clients,
    config,
    databases,
    lists,
    pins,
    pools,
    servers,
    state,
    stats,
    totals,
    users,
    version,
    workers,
)
from forebay.admin.show import help as usage

COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        clients.COMMAND,
        config.COMMAND,
        databases.COMMAND,
        usage.COMMAND,
        lists.COMMAND,
        pins.COMMAND,
        pools.COMMAND,
        servers.COMMAND,
        state.COMMAND,
        stats.STATS,
        stats.STATS_TOTALS,
        stats.STATS_AVERAGES,
        totals.COMMAND,
        users.COMMAND,
        version.COMMAND,
        workers.COMMAND,
        kill.COMMAND,
        kill_client.COMMAND,
        pause.COMMAND,
        reconnect.COMMAND,
        reload.COMMAND,
        resume.COMMAND,
        shutdown.COMMAND,
    )
}
