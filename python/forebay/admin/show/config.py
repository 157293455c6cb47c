"""SHOW CONFIG."""

from __future__ import annotations

from forebay.admin.answer import Value
from forebay.admin.backend import Backend
from forebay.admin.registration import Role, show


async def rows(backend: Backend) -> list[tuple[Value, ...]]:
    """A row for each setting, by key. Admins only: paths of keys and commands for secrets stand here.

    Exporters count the columns: there is no room for one more.
    """
    return [
        (row.key, row.value, row.default, "yes" if row.is_changeable else "no")
        for row in sorted(backend.settings(), key=lambda row: row.key)
    ]


# In a pgbouncer.ini no command for a secret can stand, and exporters read it as one of stats_users.
COMMAND = show("config", rows, role=Role.ADMIN, stand_in_role=Role.VIEWER)
