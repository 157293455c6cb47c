"""What forebay takes a database's own objects to do, asked of real servers over real objects.

If one of these is found clean that is not, a setting or a lock of one client reaches the next.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from forebay._engine import Catalogue

from tests.harness.postgres import CHECKOUT, Postgres

DATABASE = "catalogue"

OBJECTS = """
create extension citext; create extension hstore; create extension pg_trgm; create extension ltree;
create extension dblink; create extension tablefunc; create extension postgres_fdw; create extension btree_gin;

create function plain(a int) returns int immutable language sql as 'select a + 1';
create function plain_atomic(a int) returns int language sql begin atomic; select a + plain(1); end;
create function chain(a int) returns int language sql as 'select plain_atomic(a) from generate_series(1, 3)';
create function factorial_of(n int) returns int language plpgsql as
  $$begin if n < 2 then return 1; end if; return n * factorial_of(n - 1); end$$;
create function setter(v text) returns text language sql as $$select set_config('app.user', v, false)$$;
create function stable_setter(v text) returns text stable language sql as $$select set_config('app.user', v, false)$$;
create function local_setter(v text) returns text language sql as $$select set_config('app.user', v, true)$$;
create function atomic_setter(v text) returns text language sql begin atomic; select set_config('app.x', v, false); end;
create function atomic_writer() returns void language sql begin atomic; select 1; end;
create function definer(v text) returns text language plpgsql security definer as
  $$begin set app.secret = 'x'; return v; end$$;
create function with_option() returns int language sql set search_path = public as 'select 1';
create function far_setter() returns text language sql as 'select setter(1::text) from generate_series(1, 1)';
create function dynamic(q text) returns void language plpgsql as $$begin execute q; end$$;
create function temporary() returns void language plpgsql as $$begin create temp table x (a int); end$$;
create function locker() returns void language sql as 'select pg_advisory_lock(1)';
create function with_default(a text default setter('x')) returns text language sql as 'select a';
create function total(int, int) returns int language sql as 'select $1 + $2 + length(setter(null))';
create aggregate bad_sum(int) (sfunc = total, stype = int, initcond = '0');
create aggregate good_sum(int) (sfunc = int4pl, stype = int, initcond = '0');
create operator === (leftarg = int, rightarg = int, procedure = total);
create function of_internals(cstring) returns int strict language internal as 'int4in';
create procedure proc() language plpgsql as $$begin commit; end$$;

create table bare (id int primary key, note text);
create table lone (id int primary key, note text check (length(note) < 100));
create table serials (id serial primary key, note text);
create table identities (id int generated always as identity, note text);
create table defaults (id int, note text default setter('d'));
create table generated (id int, twice int generated always as (plain(id)) stored);

create function touch() returns trigger language plpgsql as
  $$begin new.note := lower(coalesce(new.note, 'x')); return new; end$$;
create table touched (id int, note text);
create trigger t before insert or update on touched for each row execute function touch();
create function track() returns trigger language plpgsql as
  $$begin perform set_config('app.tracked', new.id::text, false); return new; end$$;
create table tracked (id int primary key, note text);
create trigger t after insert on tracked for each row execute function track();
create table referring (id int references bare on delete cascade);
create trigger t after delete on referring for each row execute function track();
create table conditional (id int);
create trigger t before insert on conditional for each row when (setter('x') is null) execute function touch();

create table parts (id int, note text) partition by range (id);
create table parts_low partition of parts for values from (0) to (10);
create table parts_high partition of parts for values from (10) to (20);
create trigger t after insert on parts_high for each row execute function track();
create table keyed (id int) partition by range (plain(id));
create table keyed_low partition of keyed for values from (0) to (10);
create table parent (id int); create table child () inherits (parent);
create trigger t before insert on child for each row execute function track();

create view clean_view as select id, plain(id) from lone;
create view setting_view as select setter(note) from bare;
create view builtin_setting_view as select set_config('app.v', note, false) from bare;
create view view_of_view as select 1 as one from setting_view;
create view of_tracked as select * from tracked;
create materialized view matter as select setter(note) from bare;
create table ruled (id int);
create rule r as on insert to ruled do also select setter('x');
create table announced (id int);
create rule r as on insert to announced do also notify rows;

create table secured (id int, owner text);
alter table secured enable row level security;
create policy p on secured using (owner = setter('x'));
create table secured_well (id int, owner text);
alter table secured_well enable row level security;
create policy p on secured_well using (owner = current_setting('app.tenant', true));
create table secured_by_view (id int);
alter table secured_by_view enable row level security;
create policy p on secured_by_view using (exists (select from setting_view));

create domain word as text check (value ~ '^[a-z]+$');
create domain set_word as text check (setter(value) is not null);
create table with_domain (id int, w word);
create table with_set_domain (id int, w set_word);
create type color as enum ('red', 'green');
create type pair as (a int, b set_word);
create type span as range (subtype = int4);
create table colored (c color, cs color[], s span);
create table paired (p pair[]);
create table checked (id int check (total(id, 1) > 0));
create function impure(a int) returns int immutable language plpgsql as
  $$begin perform set_config('app.i', a::text, false); return a; end$$;
create table indexed (id int); create index on indexed (impure(id));
create index on lone (plain(id));

create table extended (c citext, h hstore, l ltree); create index on extended using gin (c gin_trgm_ops);
create server far foreign data wrapper postgres_fdw;
create foreign table foreign_table (id int) server far;
create table foreign_parent (id int) partition by range (id);
create foreign table foreign_part partition of foreign_parent for values from (0) to (10) server far;

create type version as (major int);
create function version_cmp(version, version) returns int immutable language plpgsql as
  $$begin perform set_config('app.cmp', 'x', false); return 0; end$$;
create operator class version_ops for type version using btree as function 1 version_cmp(version, version);
create table versions (v version);
create type degree as (value int);
create function to_degree(int) returns degree language sql as $$select row(length(setter('x')))::degree$$;
create cast (int as degree) with function to_degree(int) as assignment;
create table degrees (d degree);
create function noisy_key(a int) returns int immutable language plpgsql as
  $$begin perform set_config('app.key', a::text, false); return a; end$$;
create table noisy (id int) partition by range (noisy_key(id));
create table noisy_low partition of noisy for values from (0) to (10);
create table noisy_generated (id int, twice int generated always as (noisy_key(id)) stored);
create domain span_word as set_word;

create function reader() returns bigint language sql as 'select lastval()';
create function writer() returns void language plpgsql as $$begin insert into tracked values (1); end$$;
create function log_reader() returns bigint language plpgsql as $$begin return (select count(*) from tracked); end$$;
"""

CLEAN = [
    "select 1, now(), lower('A') || 'b', 1 + 2 where 1 in (1, 2) and 'a' like 'b'",
    "select plain(1), plain_atomic(1), chain(2), factorial_of(3), with_option()",
    "select good_sum(id), span(1, 2) from bare",
    "select * from bare join serials using (id) join identities using (id) join defaults using (id)",
    "select twice from generated",
    "select * from touched, tracked, referring, conditional",
    "select * from parts, parts_low, parts_high, keyed, parent",
    "select * from clean_view, of_tracked, matter, ruled, announced",
    "select * from secured_well where id = 3",
    "select * from with_domain, colored",
    "select 'a'::word, 'red'::color, '[1,2]'::span",
    "select c, h -> 'x', l @> 'a.b', similarity(c::text, 'x') from extended",
    "select log_reader()",
    "select relname from pg_class where oid = 'bare'::regclass",
    "select * from information_schema.columns",
    "select * from pg_settings",
    "begin; commit",
]

WRITES = [
    "insert into lone values (1, 'x') on conflict (id) do update set note = 'y'",
    "update touched set note = 'x' where id = 1",
    "insert into generated (id) values (1)",
    "delete from with_domain",
    "insert into keyed values (1)",
    "insert into parts_low values (1)",
    "insert into colored values ('red', '{green}', '[1,2]')",
    "insert into extended values ('a', 'b=>c', 'd')",
    "update clean_view set id = 3",
]

TAINTED = [
    ("select setter('x')", "any setting"),
    ("select stable_setter('x')", "any setting"),
    ("select local_setter('x')", "local setting"),
    ("select atomic_setter('x')", "any setting"),
    ("select definer('x')", "any setting"),
    ("select far_setter()", "any setting"),
    ("select dynamic('x')", "opaque"),
    ("select temporary()", "opaque"),
    ("select locker()", "advisory lock"),
    ("select with_default()", "any setting"),
    ("select bad_sum(id) from bare", "any setting"),
    ("select 1 === 2", "any setting"),
    ("select of_internals('1')", "opaque"),
    ("call proc()", "opaque"),
    ("insert into serials (note) values ('x')", "sequence"),
    ("insert into identities (note) values ('x')", "sequence"),
    ("insert into defaults (id) values (1)", "any setting"),
    ("insert into tracked values (1)", "any setting"),
    ("update of_tracked set id = 1", "any setting"),
    ("delete from bare", "any setting"),
    ("insert into conditional values (1)", "any setting"),
    ("insert into parts values (1)", "any setting"),
    ("insert into parts_high values (11)", "any setting"),
    ("update parent set id = 1", "any setting"),
    ("select * from setting_view", "any setting"),
    ("select * from builtin_setting_view", "any setting"),
    ("select * from view_of_view", "any setting"),
    ("insert into ruled values (1)", "any setting"),
    ("insert into announced values (1)", "notify"),
    ("select * from secured", "any setting"),
    ("select * from secured_by_view", "any setting"),
    ("select 'a'::set_word", "any setting"),
    ("insert into with_set_domain values (1, 'x')", "any setting"),
    ("select '(1,x)'::pair", "any setting"),
    ("insert into paired values ('{}')", "any setting"),
    ("insert into checked values (1)", "any setting"),
    ("insert into indexed values (1)", "any setting"),
    ("select * from versions order by v", "any setting"),
    ("insert into degrees values (1)", "any setting"),
    ("insert into noisy_low values (1)", "any setting"),
    ("insert into noisy_generated values (1)", "any setting"),
    ("select 'a'::span_word", "any setting"),
    ("select * from foreign_table", "opaque"),
    ("select * from foreign_parent", "opaque"),
    ("select dblink_exec('x', 'y')", "opaque"),
    ("select * from crosstab('x') as (a int)", "opaque"),
    ("select reader()", "reads a sequence"),
    ("select writer()", "any setting"),
    ("update pg_settings set setting = '1' where name = 'work_mem'", "any setting"),
    ("select * from nowhere", "opaque"),
    ("select nothing()", "opaque"),
]

# In order: each is undone, or harms no other test.
CHANGES = [
    "create table changing (id int)",
    "alter table changing add column w text",
    "alter table changing alter column w type word",
    "alter table changing alter column w set default setter('x')",
    "alter table changing add check (total(id, 1) > 0)",
    "alter table changing enable row level security",
    "create policy p on changing using (setter('x') is null)",
    "create trigger t before insert on changing for each row execute function touch()",
    "alter table changing inherit parent",
    "create index on changing (impure(id))",
    "create rule r as on delete to changing do also notify changes",
    "create function changing() returns int language sql as 'select 1'",
    "create or replace function changing() returns int language sql as 'select 2'",
    "drop function changing()",
    "create domain changing_word as text",
    "alter domain changing_word add check (setter(value) is null)",
    "drop domain changing_word",
    "drop table changing",
]


def load(connection: psycopg.Connection) -> Catalogue:
    """The catalogue of a database, by the simple protocol."""
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(Catalogue.QUERY.encode())
        return Catalogue([list(row) for row in cursor.fetchall()])


@pytest.fixture(scope="module", params=["server", "server_15"])
def admin(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """A superuser in a database full of objects."""
    server: Postgres = request.getfixturevalue(request.param)
    with server.target.connect(user="postgres", autocommit=True) as cluster:
        cluster.execute(f"create database {DATABASE}")
        with server.target.connect(user="postgres", dbname=DATABASE, autocommit=True) as admin:
            admin.execute(OBJECTS)
            yield admin
        cluster.execute(f"drop database {DATABASE} with (force)")


@pytest.fixture(scope="module")
def database(admin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """The same database, seen by a user without rights."""
    with psycopg.connect(admin.info.dsn, user="app", autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def catalogue(database: psycopg.Connection) -> Catalogue:
    """What it may do."""
    return load(database)


def test_what_leaves_nothing_is_found_clean(catalogue: Catalogue) -> None:
    """Else every hand-over of a busy pool is followed by a look at all settings."""
    found = {text: catalogue.why(text) for text in CLEAN if set(catalogue.judge(text)) - {"for the primary"}}
    assert found == {}


def test_writes_that_leave_nothing_else_are_found_so(catalogue: Catalogue) -> None:
    found = {text: catalogue.why(text) for text in WRITES if catalogue.judge(text) != ["writes"]}
    assert found == {}


@pytest.mark.parametrize(("text", "trace"), TAINTED, ids=[text for text, _ in TAINTED])
def test_what_leaves_something_is_never_found_clean(catalogue: Catalogue, text: str, trace: str) -> None:
    assert trace in catalogue.judge(text), catalogue.why(text)


def test_custom_settings_of_functions_are_named(catalogue: Catalogue) -> None:
    assert catalogue.settings_named == ["app.cmp", "app.i", "app.key", "app.secret", "app.tracked", "app.user"]
    assert catalogue.reads_sequences


def test_an_event_trigger_runs_with_every_change_of_objects(
    catalogue: Catalogue, admin: psycopg.Connection, database: psycopg.Connection
) -> None:
    assert "any setting" not in catalogue.judge("create table fresh (id int)")
    admin.execute(
        "create function on_ddl() returns event_trigger language plpgsql as "
        "$$begin perform set_config('app.ddl', tg_tag, false); end$$;"
        "create event trigger on_ddl on ddl_command_end execute function on_ddl()"
    )
    try:
        assert "any setting" in load(database).judge("create table fresh (id int)")
    finally:
        admin.execute("drop event trigger on_ddl; drop function on_ddl()")


def test_the_stamp_changes_with_what_the_catalogue_is_made_from(
    admin: psycopg.Connection, database: psycopg.Connection
) -> None:
    """A change that it does not show would be judged by what was true before."""

    def stamp() -> str:
        with psycopg.ClientCursor(database) as cursor:
            cursor.execute(Catalogue.STAMP.encode())
            return str(cursor.fetchall()[0][0])

    assert stamp() == stamp()
    for change in CHANGES:
        before = stamp()
        admin.execute(change)
        assert stamp() != before, change


def test_a_cast_between_types_of_postgresql_is_met_in_any_statement(
    admin: psycopg.Connection, database: psycopg.Connection
) -> None:
    admin.execute(
        "create function to_box(int) returns box language sql as "
        "$$select (setter('x') || '(1,1),(0,0)')::box$$; create cast (int as box) with function to_box(int)"
    )
    try:
        assert "any setting" in load(database).judge("select 1::box")
    finally:
        admin.execute("drop cast (int as box); drop function to_box(int)")


def test_the_lists_hold_all_that_a_server_has(database: psycopg.Connection) -> None:
    """A function in neither list is opaque: a new release costs time, not isolation."""
    folder = CHECKOUT / "crates/forebay-sql/src/builtin"
    document = tomllib.loads((CHECKOUT / "spec/functions.toml").read_text())
    listed = set((folder / "functions.txt").read_text().split())
    excepted = {name for row in document["function"] for name in row["names"]}
    present = {name for (name,) in database.execute("select proname::text from pg_proc where oid < 16384")}
    assert listed & excepted == set()
    assert present - listed - excepted == set()
    assert Path(folder / "operators.txt").is_file()
    operators = {name for (name,) in database.execute("select oprname::text from pg_operator where oid < 16384")}
    assert operators <= set((folder / "operators.txt").read_text().split())
