"""Turns the tables of spec/ into Rust, Python, reference pages and the sample configuration."""

from __future__ import annotations

from pathlib import Path

from specgen import errors as error_pages
from specgen import features, functions, metrics, pgbouncer, pins, rust, settings, show
from specgen.tables import load_errors

__all__ = ["outputs"]


def outputs(spec: Path) -> dict[str, str]:
    """Every generated file: path from the root of the repository, and its text.

    Raises SpecError where a table is faulty.
    """
    errors = load_errors(spec / "errors.toml")
    console = show.load(spec / "show.toml")
    configuration = settings.load(spec / "settings.toml")
    ini = pgbouncer.load(spec / "pgbouncer.toml", configuration)
    reasons = pins.load(spec / "pins.toml")
    own_functions = functions.load(spec / "functions.toml")
    root = spec.parent
    works = features.load(spec, root)
    statements = {
        f"crates/forebay-sql/src/generated/{path.name}": functions.query(
            path.read_text(encoding="utf-8"), own_functions
        )
        for path in sorted(spec.glob("*.sql"))
    }
    return {
        "python/forebay/_generated/errors.py": error_pages.python(errors),
        "python/forebay/_generated/pages.py": error_pages.pages(errors),
        "python/forebay/_generated/settings.py": settings.python(configuration),
        "python/forebay/_generated/forebay.toml": settings.sample(configuration),
        "docs/reference/errors.md": error_pages.page(errors),
        "docs/reference/metrics.md": metrics.page(metrics.load(spec / "metrics.toml")),
        "docs/reference/settings.md": settings.page(configuration),
        "python/forebay/_generated/pgbouncer.py": pgbouncer.python(ini),
        "docs/reference/pgbouncer.md": pgbouncer.page(ini),
        "python/forebay/_generated/show.py": show.python(console),
        "docs/reference/console.md": show.page(console),
        "crates/forebay-spec/src/generated/errors.rs": rust.errors(errors),
        "crates/forebay-sql/src/generated/functions.rs": functions.rust(own_functions),
        **statements,
        "crates/forebay-spec/src/generated/pins.rs": pins.rust(reasons),
        "python/forebay/_generated/pins.py": pins.python(reasons),
        "docs/reference/pins.md": pins.page(reasons),
        features.REFERENCE: features.reference(works),
        features.PAGE: features.page(works, (root / features.PAGE).read_text(encoding="utf-8")),
    }
