"""How a verb fails: a sentence, a hint, and an exit code that scripts can act on."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; scripts rely on them."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    CANNOT_REACH = 3
    TIMEOUT = 4


class Failure(Exception):
    """What a user can mend. Raised anywhere below the command line; printed without a traceback.

    message: a sentence that names its subject.
    hint: the next step, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None, exit: Exit = Exit.FINDINGS) -> None:  # noqa: A002
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit = exit


def sentence_for(failure: Failure) -> str:
    """The text for standard error."""
    text = f"forebay: {failure.message}"
    return f"{text}\n  hint: {failure.hint}" if failure.hint else text
