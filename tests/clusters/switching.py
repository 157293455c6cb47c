"""SWITCHOVER on the console of a forebay under test."""

from __future__ import annotations

import threading

import psycopg

from tests.harness.deadline import until
from tests.harness.pooler import Forebay

# What it tells of, one after the other.
STEPS = ["held", "ended", "replayed", "promote", "promoted", "released"]


class Order(threading.Thread):
    """SWITCHOVER on the console, with what it told and how it ended."""

    def __init__(self, forebay: Forebay, sql: str) -> None:
        super().__init__()
        self.sql = sql
        self.told: list[str] = []
        self.error: psycopg.Error | None = None
        self.connection = forebay.target.at(dbname="forebay", user="ops").connect(autocommit=True)
        self.connection.add_notice_handler(lambda notice: self.told.append(notice.message_primary or ""))
        self.start()

    def run(self) -> None:
        with self.connection:
            try:
                self.connection.execute(self.sql.encode())
            except psycopg.Error as error:
                self.error = error

    def says(self, step: str) -> None:
        """Waits until it has come to this step."""
        until(
            lambda: any(line.startswith(step) for line in self.told) or not self.is_alive(),
            within_s=20, what=f"it comes to {step}",
        )  # fmt: skip
        assert self.error is None, self.error

    def refusal(self) -> str:
        """The words that it ended with."""
        self.join(40)
        assert self.error is not None, self.told
        return f"{self.error.sqlstate} {self.error}"
