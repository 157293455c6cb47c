"""Cases: small programs of one or several clients, whose answers are the same directly and through a pool.

A file a group. A case is a heading, fields, and a step a line for one of the clients a to d, in one order:

| field | says |
|---|---|
| `shows` | rows of the table of features (spec/features.toml) that it stands for |
| `counts` | clients whose answers are compared; without it all |
| `servers` | how many the pool has; without it one |
| `after` | SQL that is run directly when the case is over |
| `conversation` | one of tests/scenarios/conversations, in place of steps |
| `differs at safe, fast` | how forebay answers otherwise at these levels; a case that does not fails |

| step | does |
|---|---|
| SQL | a simple query |
| `starts NAME=VALUE …` | logs in with parameters; without it a client logs in at its first step, as `app` |
| `greets VERSION NAME=VALUE …` | the same, and all that the server says is compared |
| `prepares NAME (TYPE, …) as SQL` | Parse, Describe, Sync; the name `unnamed` is the empty one |
| `runs NAME with VALUE, …` | Bind, Describe, Execute, Sync |
| `closes NAME` | Close, Sync |
| `sends SQL`, `reads` | a simple query without waiting for its answer; the answer |
| `cancels` | a CancelRequest for this client, once what others or it have sent is running |
| `hears N` | waits for N notifications of others |
| `leaves`, `vanishes` | Terminate and close; close without a word |
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tools") not in sys.path:
    sys.path.insert(0, str(ROOT / "tools"))

from specgen.cases import GROUPS, LEVELS, Case, load  # noqa: E402  (the path above comes first)

CASES = load(Path(__file__).parent)
OBJECTS = (Path(__file__).parent / "objects.sql").read_text(encoding="utf-8")

__all__ = ["CASES", "GROUPS", "LEVELS", "OBJECTS", "Case"]
