"""The commands of the console: one line each."""

from __future__ import annotations

from typing import Final

from forebay.admin.command import (
    disable,
    drain,
    enable,
    kill,
    kill_client,
    pause,
    reconnect,
    reload,
    resume,
    shutdown,
    suspend,
    switchover,
    wait_close,
)
from forebay.admin.command import set as setting
from forebay.admin.registration import Command
from forebay.admin.show import (
    clients,
    config,
    databases,
    dns_hosts,
    endpoints,
    errors,
    fds,
    lists,
    mem,
    nothing,
    peers,
    pins,
    pools,
    route,
    servers,
    sockets,
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
        endpoints.COMMAND,
        errors.COMMAND,
        usage.COMMAND,
        lists.COMMAND,
        pins.COMMAND,
        pools.COMMAND,
        route.COMMAND,
        servers.COMMAND,
        state.COMMAND,
        stats.STATS,
        stats.STATS_TOTALS,
        stats.STATS_AVERAGES,
        totals.COMMAND,
        users.COMMAND,
        version.COMMAND,
        workers.COMMAND,
        sockets.SOCKETS,
        sockets.ACTIVE_SOCKETS,
        mem.COMMAND,
        fds.COMMAND,
        dns_hosts.COMMAND,
        *nothing.COMMANDS,
        peers.PEERS,
        peers.PEER_POOLS,
        disable.COMMAND,
        drain.COMMAND,
        enable.COMMAND,
        wait_close.COMMAND,
        suspend.COMMAND,
        switchover.COMMAND,
        setting.COMMAND,
        kill.COMMAND,
        kill_client.COMMAND,
        pause.COMMAND,
        reconnect.COMMAND,
        reload.COMMAND,
        resume.COMMAND,
        shutdown.COMMAND,
    )
}
