"""`forebay check`: every finding of a configuration."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, replace

import click

from forebay.config import Config, Finding, render
from forebay.config.advice.facts import Facts
from forebay.config.finding import in_order
from forebay.config.load import Loaded, advised, load
from forebay.config.recovery import Recovery, rendered
from forebay.failure import Exit


@click.command("check")
@click.argument("config", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of text.")
@click.option("--ask", is_flag=True, help="Ask the servers what they accept, and add up failovers; needs psycopg.")
@click.option(
    "--max-connections",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="max_connections of the servers that are not asked.",
)
@click.option(
    "--instances",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes that run with this configuration, on all machines.",
)
def command(config: str, as_json: bool, ask: bool, max_connections: int | None, instances: int) -> int:
    """Check a configuration (forebay.toml or pgbouncer.ini).

    Prints every finding with line and column: errors, warnings of what works and is a mistake all the same, and infos.
    Pools are compared with what servers accept when --ask or --max-connections tells that. With --ask it also says how
    long a failover takes, at worst and on average, by the settings and by what Patroni says of its own. The exit
    status is 1 when there is an error, 3 when --ask met somebody that can't be asked, 0 otherwise; warnings alone do
    not fail.
    """
    loaded = load(config)
    facts, recoveries = Facts(instances, max_connections, _descriptors()), None
    if ask and loaded.config is not None:
        facts, recoveries = _asked(loaded.config, facts), _recoveries(loaded.config)
    findings = in_order((*advised(loaded, facts), *_of_sources(loaded)))
    _print(config, findings, recoveries, as_json=as_json)
    if any(finding.is_error for finding in findings):
        return Exit.FINDINGS
    is_unknown = any(one.unknown is not None for one in recoveries or ())
    return Exit.CANNOT_REACH if facts.failures or is_unknown else Exit.OK


def _asked(config: Config, facts: Facts) -> Facts:
    """What is known, with what the servers say."""
    from forebay.control.server_facts import ask

    asked = ask(config)
    return replace(facts, servers=asked.servers, failures=asked.failures)


def _recoveries(config: Config) -> Sequence[Recovery]:
    """How long failovers take: by the settings, and by what sources of topologies say."""
    if not config.topologies:
        return ()
    from forebay.control.discover.recovery import recoveries

    return recoveries(config)


def _of_sources(loaded: Loaded) -> Sequence[Finding]:
    """What is wrong with whom topologies and the fleet are asked of, as far as that can be told without asking."""
    config = loaded.config
    if config is None or not (config.fleet or any(each.source for each in config.topologies)):
        return ()
    from forebay.control.discover.judge import judge

    return judge(loaded)


def _descriptors() -> int | None:
    """Open files that this process may have; the engine raises the soft limit to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _print(config: str, findings: Sequence[Finding], asked: Sequence[Recovery] | None, *, as_json: bool) -> None:
    if as_json:
        names = ("code", "severity", "path", "line", "column", "message", "hint")
        rows = [{name: getattr(finding, name) for name in names} for finding in findings]
        has_errors = any(finding.is_error for finding in findings)
        document: dict[str, object] = {"version": 1, "ok": not has_errors, "findings": rows}
        if asked is not None:
            document["failovers"] = [asdict(one) for one in asked]
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(render(findings), nl=False)
    click.echo(rendered(asked or ()), nl=False)
    click.echo(_summary(config, findings))


def _summary(config: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"{config}: no findings"
    counts = {kind: sum(one.severity == kind for one in findings) for kind in ("error", "warning", "info")}
    return f"{config}: " + ", ".join(
        _counted(count, kind) for kind, count in counts.items() if count or kind in ("error", "warning")
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
