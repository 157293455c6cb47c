"""What `forebay init` writes."""

from __future__ import annotations

from pathlib import Path


def sample() -> str:
    """A forebay.toml with every setting, its default and its meaning as comments."""
    from importlib.resources import files

    text = files("forebay._generated").joinpath("forebay.toml").read_text(encoding="utf-8")
    return text.split("\n", 1)[1]


def init(path: str | Path) -> None:
    """Writes the sample to a file that does not exist yet, readable by its owner alone.

    Raises FileExistsError where it does, and OSError where it can't be written.
    """
    target = Path(path)
    with target.open("x", encoding="utf-8") as file:
        target.chmod(0o600)
        file.write(sample())
