"""What `make drivers` runs, in order. A new piece of software is a file of `suites/` and a line here."""

from __future__ import annotations

from tests.software.shape import Software
from tests.software.suites import (
    alembic,
    asyncpg,
    django,
    node,
    pg8000,
    pgjdbc,
    pgx,
    psycopg,
    psycopg2,
    regress,
    sqlalchemy,
)

SOFTWARE: tuple[Software, ...] = (
    asyncpg.SOFTWARE,
    psycopg.SOFTWARE,
    psycopg2.SOFTWARE,
    pg8000.SOFTWARE,
    sqlalchemy.SOFTWARE,
    alembic.SOFTWARE,
    django.SOFTWARE,
    pgx.SOFTWARE,
    pgjdbc.SOFTWARE,
    node.PG,
    node.POSTGRES_JS,
    node.SEQUELIZE,
    regress.SOFTWARE,
)
