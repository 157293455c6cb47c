"""Prints the requirements of the extras named, as pyproject.toml has them, for `pip install`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print("\n".join(line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]))
