"""What `forebay check` can say of topologies' sources and the fleet's etcd: each is made, and not asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from forebay.config.finding import Finding, Report
from forebay.config.load import Loaded
from forebay.control.discover import build_source
from forebay.control.fleet.joining import gateway_of
from forebay.failure import Exit, Failure


def judge(loaded: Loaded) -> Sequence[Finding]:
    """An error for each address that can be used nowhere, a warning for what is missing here."""
    report = Report()
    if loaded.config is None or loaded.draft is None:
        return ()
    for topology in loaded.config.topologies:
        if topology.source is None:
            continue
        try:
            source = build_source(topology, topology.source, os.environ)
        except Failure as failure:
            place = loaded.draft.databases[topology.database].settings["topology_source"].place
            row = "unusable_topology_source" if failure.exit == Exit.USAGE else "source_not_usable_here"
            report.add(row, place, name=topology.database, cause=failure.message, hint=failure.hint or "")
        else:
            asyncio.run(source.close())
    if loaded.config.fleet is not None:
        try:
            gateway = gateway_of(loaded.config.fleet)
        except Failure as failure:
            place = loaded.draft.place("fleet", "etcd")
            report.add("fleet_not_usable_here", place, cause=failure.message, hint=failure.hint or "")
        else:
            asyncio.run(gateway.close())
    return report.findings
