"""forebay before another pooler: what that keeps on its servers is nobody's of this one."""

from __future__ import annotations

import pytest

from tests.conftest import Start
from tests.harness.deadline import until
from tests.harness.pooler import Variant, configuration
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.variants("uring-2", "epoll-1")

# What a function does whose text is made as it runs, nobody can tell: a look at the server must.
OPAQUE = """create or replace function behind_another() returns int language plpgsql as
    $$ begin execute 'select 1'; return 1; end $$"""


def test_prepared_statements_of_the_other_pooler_pin_nobody(server: Postgres, variant: Variant, start: Start) -> None:
    """The inner one has prepared statements on its servers, for all of its clients; the first would keep the server."""
    with server.target.connect(user="postgres", dbname="app", autocommit=True) as admin:
        admin.execute(OPAQUE)
    inner = start(configuration(server, variant, server_defaults={"pool_size": 1}))
    outer = start(configuration(inner.port, variant, server_defaults={"pool_size": 1}))
    with outer.target.connect(autocommit=True) as one, outer.target.connect(autocommit=True) as other:
        for _ in range(3):
            assert one.execute("select 1 + %s::int", (1,), prepare=True).fetchone() == (2,)
        assert one.execute("select behind_another()").fetchone() == (1,)
        assert outer.console("show pins") == []
        assert other.execute("select 1 + %s::int", (2,), prepare=True).fetchone() == (3,)
        # What a client's own SQL has prepared is seen through the other one all the same.
        one.execute("do $$ begin execute 'prepare mine as select 3'; end $$")
        until(lambda: outer.console("show pins"), within_s=10, what="it is pinned")
        assert one.execute("execute mine").fetchone() == (3,)
