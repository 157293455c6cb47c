"""tests/cases/*.txt: small programs of one or several clients that are answered alike directly and through a pool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from specgen.tables import SpecError, refuse_duplicates, require

# Files, in the order of the table's columns, with what stands above a column.
GROUPS = {
    "isolation": "what reaches or comes from another client",
    "shared": "shared statements",
    "persistence": "what a session keeps",
    "protocol": "protocol",
}

LEVELS = ("fast", "safe", "strict")

_STEP = re.compile(r"[a-d]: \S.*")
_FIELD = re.compile(r"(shows|counts|servers|after|conversation|differs at [a-z, ]+): (.+)")


@dataclass(frozen=True, slots=True)
class Case:
    """shows: ids of features. steps: of clients a to d, or none where `conversation` names one of the conversations.

    counts: clients whose answers are compared; empty: all. servers: of the pool. after: run directly when it is over.
    differs: at which levels of forebay's it is answered otherwise than directly, and how.
    """

    name: str
    group: str
    shows: tuple[str, ...]
    steps: tuple[str, ...]
    conversation: str = ""
    counts: str = ""
    servers: int = 1
    after: str = ""
    differs: tuple[tuple[str, str], ...] = ()

    def difference(self, level: str) -> str:
        """How it is answered otherwise at a level; empty: it is not."""
        return dict(self.differs).get(level, "")


def load(folder: Path) -> tuple[Case, ...]:
    """All cases, group by group. Raises SpecError where one is faulty."""
    there = {path.stem for path in folder.glob("*.txt")}
    require(folder.name, there == set(GROUPS), f"the files are {', '.join(GROUPS)}")
    cases = tuple(case for group in GROUPS for case in read_file(folder / f"{group}.txt"))
    refuse_duplicates("tests/cases", (case.name for case in cases))
    return cases


def read_file(path: Path) -> list[Case]:
    """The cases of a group: a heading each, fields, then a step a line. What stands before the first is for readers."""
    _, *texts = re.split(r"^# ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [case_of(path.stem, text) for text in texts]


def case_of(group: str, text: str) -> Case:
    """Checks one."""
    name, *lines = text.splitlines()
    where = f"{group}.txt, {name}"
    fields: dict[str, str] = {}
    steps = []
    for line in filter(None, lines):
        if found := _FIELD.fullmatch(line):
            require(where, not steps, "fields stand before steps")
            require(where, found[1] not in fields, f"{found[1]} stands there twice")
            fields[found[1]] = found[2]
        elif _STEP.fullmatch(line):
            steps.append(line)
        else:
            raise SpecError(f"{where}: neither a field nor a step: {line}")
    require(where, "shows" in fields, "shows is missing")
    require(where, bool(steps) != ("conversation" in fields), "either steps or a conversation")
    counts = fields.get("counts", "")
    require(where, all(any(step.startswith(f"{who}: ") for step in steps) for who in counts), "counts names clients")
    return Case(
        name=name,
        group=group,
        shows=tuple(fields["shows"].split(", ")),
        steps=tuple(steps),
        conversation=fields.get("conversation", ""),
        counts=counts,
        servers=int(fields.get("servers", "1")),
        after=fields.get("after", ""),
        differs=differences(where, fields),
    )


def differences(where: str, fields: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Of `differs at fast, safe: …`: a level and how, for each."""
    found = []
    for field, how in fields.items():
        if field.startswith("differs at "):
            for level in field.removeprefix("differs at ").split(", "):
                require(where, level in LEVELS, f"a level is of {', '.join(LEVELS)}")
                found.append((level, how))
    refuse_duplicates(where, (level for level, _ in found))
    return tuple(found)
