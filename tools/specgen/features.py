"""features.toml and tests/cases: what works in transaction mode, which cases show it, and how others answered them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from specgen.cases import GROUPS, LEVELS, Case
from specgen.cases import load as load_cases
from specgen.tables import fields, read, refuse_duplicates, require

PAGE = "docs/explanation/transaction-mode.md"
REFERENCE = "docs/reference/cases.md"


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A row of the page's table. cases: those that name it."""

    id: str
    name: str
    does: str
    costs: str
    others: str
    measured: str | None
    tests: tuple[str, ...]
    cases: tuple[Case, ...]

    @property
    def anchor(self) -> str:
        """Of its heading in the reference."""
        return re.sub(r"[^\w\- ]", "", self.name.lower()).replace(" ", "-")


@dataclass(frozen=True, slots=True)
class PoolerRow:
    """What cases a configuration answers otherwise; forebay's are what the cases say of themselves."""

    name: str
    settings: str
    measured: str
    otherwise: frozenset[str]

    def counts(self, cases: tuple[Case, ...]) -> list[int]:
        """How many, by group."""
        return [sum(case.group == group and case.name in self.otherwise for case in cases) for group in GROUPS]


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """All of it."""

    features: tuple[FeatureRow, ...]
    poolers: tuple[PoolerRow, ...]
    cases: tuple[Case, ...]


def load(spec: Path, root: Path) -> FeatureTable:
    """Reads features.toml and the cases."""
    document = read(spec / "features.toml")
    require("features.toml", set(document) == {"feature", "pooler"}, "only [[feature]] and [[pooler]]")
    cases = load_cases(root / "tests/cases")
    features = tuple(feature_row(row, cases, root) for row in document["feature"])
    refuse_duplicates("features.toml", (row.id for row in features))
    known = {row.id for row in features}
    for case in cases:
        require(f"{case.group}.txt, {case.name}", known.issuperset(case.shows), f"shows {case.shows}: no such feature")
    own = tuple(
        PoolerRow("forebay", f"`{level}`", "", frozenset(case.name for case in cases if case.difference(level)))
        for level in LEVELS
    )
    others = tuple(pooler_row(row, cases) for row in document["pooler"])
    return FeatureTable(features, own + others, cases)


def feature_row(given: dict[str, object], cases: tuple[Case, ...], root: Path) -> FeatureRow:
    """Checks one [[feature]]."""
    required, optional = ("id", "name", "does", "costs", "others"), ("measured", "tests")
    row = fields("features.toml", given, required=required, optional=optional)
    where = f"features.toml, {row['id']}"
    tests = tuple(row.pop("tests") or ())
    shown_by = tuple(case for case in cases if row["id"] in case.shows)
    require(where, shown_by or tests, "no case shows it")
    for name in tests:
        require(where, (root / name).exists(), f"{name} is not there")
    holds = any(case.group != "isolation" and not case.difference("safe") for case in shown_by)
    require(where, holds or not row["does"].startswith("kept"), "kept, but no case shows that")
    require(where, row["measured"] or not re.search(r"\d (µs|ms|s)\b", row["costs"]), "a figure was measured somehow")
    return FeatureRow(**row, tests=tests, cases=shown_by)


def pooler_row(given: dict[str, object], cases: tuple[Case, ...]) -> PoolerRow:
    """Checks one [[pooler]]."""
    row = fields("features.toml", given, required=("name", "settings", "measured", "otherwise"), optional=())
    unknown = set(row["otherwise"]) - {case.name for case in cases}
    require(f"features.toml, {row['name']}", not unknown, f"no such cases, so measure again: {unknown}")
    return PoolerRow(row["name"], row["settings"], row["measured"], frozenset(row["otherwise"]))


def page(table: FeatureTable, text: str) -> str:
    """docs/explanation/transaction-mode.md, with what stands between its markers written anew."""
    text = between(text, "features", features(table) + costs(table))
    return between(text, "cases", counted(table))


def between(text: str, name: str, given: str) -> str:
    """Puts `given` between the markers of that name."""
    marker = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*(<!-- /{name} -->\n)", re.DOTALL)
    require(PAGE, len(marker.findall(text)) == 1, f"the markers of {name} are not there")
    return marker.sub(lambda found: found[1] + given + found[2], text)


def features(table: FeatureTable) -> str:
    """The page's table."""
    out = ["| feature | forebay | costs | other poolers | cases |\n|---|---|---|---|---|\n"]
    for row in table.features:
        shown = [f"[{len(row.cases)}](../reference/cases.md#{row.anchor})"] if row.cases else []
        shown += [f"[tests](../../{name})" for name in row.tests]
        out.append(f"| {row.name} | {row.does} | {row.costs} | {row.others} | {', '.join(shown)} |\n")
    return "".join(out)


def costs(table: FeatureTable) -> str:
    """How the figures among the costs came about."""
    told = [f"{row.costs}: {row.measured}.\n" for row in table.features if row.measured]
    return "\n" + "".join(told) if told else ""


def counted(table: FeatureTable) -> str:
    """In how many cases who answered otherwise."""
    sizes = [sum(case.group == group for case in table.cases) for group in GROUPS]
    heads = [f"{title}, of {size}" for title, size in zip(GROUPS.values(), sizes, strict=True)]
    out = [f"| configuration | {' | '.join(heads)} | all, of {len(table.cases)} |\n", "|---" * 6 + "|\n"]
    for row in table.poolers:
        counts = row.counts(table.cases)
        out.append(f"| {row.name}, {row.settings} | {' | '.join(map(str, counts))} | {sum(counts)} |\n")
    return "".join(out)


def reference(table: FeatureTable) -> str:
    """docs/reference/cases.md."""
    titles = [f"{row.name}, {row.settings}" for row in table.poolers]
    files = ", ".join(f"[{group}](../../tests/cases/{group}.txt)" for group in GROUPS)
    out = [
        "<!-- Generated by tools/gen.py from spec/features.toml and tests/cases. Do not edit. -->\n# Cases\n\n",
        f"{len(table.cases)} small programs of one or several clients, by the rows of\n",
        "[what works in transaction mode](../explanation/transaction-mode.md#feature-by-feature) that they show.\n",
        "Each is run on PostgreSQL directly and through a pool of one or two servers in transaction mode, and every\n",
        "message that its clients are told is compared. `=` stands where all are the same, `≠` where one is not, or\n",
        f"does not come. What a case does is written in the file of its group: {files}.\n\n",
        "forebay's columns are what `make test` holds it to: a case that differs without saying so fails, and so\n",
        "does one that says so and does not. The other columns are what was measured with `make cases`:\n\n",
        *(f"- {row.name}, {row.settings}: {row.measured}.\n" for row in table.poolers if row.measured),
    ]
    for feature in filter(lambda row: row.cases, table.features):
        out.append(f"\n## {feature.name}\n\n")
        out.append(f"| case | group | {' | '.join(titles)} |\n{'|---' * (len(titles) + 2)}|\n")
        for case in feature.cases:
            marks = ("`≠`" if case.name in row.otherwise else "`=`" for row in table.poolers)
            out.append(f"| {case.name} | {case.group} | {' | '.join(marks)} |\n")
        differences = dict.fromkeys(f"{case.name}: {how}" for case in feature.cases for _, how in case.differs)
        out.extend(["\nHow forebay differs:\n\n", *(f"- {one}.\n" for one in differences)] if differences else [])
    return "".join(out)
