"""Writes the licences of all that is compiled into the engine: `python tools/notices.py OUT`, as `make wheel` does.

What is linked is asked of cargo; the texts are those that each crate carries, with those of the C code inside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CRATE = "forebay-py"
PLATFORM = "x86_64-unknown-linux-gnu"

# How files are named that hold a licence or what it asks to be repeated.
NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def linked() -> list[dict[str, str]]:
    """Crates of others whose code is in the engine, by name and version."""
    line = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM]
    known = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in known["packages"]}
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    waiting = [key for key, package in packages.items() if package["name"] == CRATE]
    reached = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            # What runs at compile time only is in no wheel.
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            is_macro = "proc-macro" in packages[dependency["pkg"]]["targets"][0]["kind"]
            if is_linked and not is_macro and dependency["pkg"] not in reached:
                reached.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    found = [packages[key] for key in reached if packages[key]["source"]]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(folder: Path) -> list[Path]:
    """Licence files of a crate, its own first."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name.upper().startswith(NAMES))
    return sorted(files, key=lambda path: (len(path.parts), path))


def main() -> int:
    """The command line."""
    out = ["forebay's engine holds code of these projects, under these licences.\n"]
    seen: dict[str, str] = {}
    for package in linked():
        title = f"{package['name']} {package['version']} ({package['license']})"
        out.append(f"{'=' * 80}\n{title}\n{package['repository'] or ''}\n")
        folder = Path(package["manifest_path"]).parent
        files = texts(folder)
        if not files:
            print(f"notices: {title} carries no licence text", file=sys.stderr)
            return 1
        for path in files:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            name = path.relative_to(folder)
            # Most carry the same Apache licence; once is enough.
            where = seen.setdefault(text, f"{title}, {name}")
            same = where != f"{title}, {name}"
            out.append(f"--- {name}\n\n{f'As of {where}, above.' if same else text}\n")
    Path(sys.argv[1]).write_text("\n".join(out), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
