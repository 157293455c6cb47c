"""`forebay check`: every finding of a configuration."""

from __future__ import annotations

import json

import click

from forebay.config import check as findings_of
from forebay.config import render
from forebay.failure import Exit


@click.command("check")
@click.argument("config", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of text.")
def command(config: str, as_json: bool) -> int:
    """Check a configuration (forebay.toml or pgbouncer.ini).

    Prints every finding with line and column. The exit status is 1 when there is an error, 0 otherwise; warnings alone
    do not fail.
    """
    findings = findings_of(config)
    has_errors = any(finding.is_error for finding in findings)
    if as_json:
        rows = [
            {name: getattr(finding, name) for name in ("code", "severity", "path", "line", "column", "message", "hint")}
            for finding in findings
        ]
        click.echo(json.dumps({"version": 1, "ok": not has_errors, "findings": rows}, indent=2))
    else:
        click.echo(render(findings), nl=False)
        click.echo(_summary(config, errors=sum(one.is_error for one in findings), findings=len(findings)))
    return Exit.FINDINGS if has_errors else Exit.OK


def _summary(config: str, *, errors: int, findings: int) -> str:
    if not findings:
        return f"{config}: no findings"
    return f"{config}: {_counted(errors, 'error')}, {_counted(findings - errors, 'warning')}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
