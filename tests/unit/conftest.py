"""Logging is one for the whole process: each test has it to itself."""

import logging
from collections.abc import Iterator

import pytest
from forebay.observe.log import Log


@pytest.fixture
def log() -> Iterator[Log]:
    """A log that finds nothing in the process-wide logging, and leaves nothing there."""
    logger = logging.getLogger("forebay")
    before = logger.handlers
    logger.handlers = []
    log = Log()
    yield log
    log.close()
    logger.handlers = before
