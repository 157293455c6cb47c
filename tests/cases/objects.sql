-- What the cases use. Made by the superuser, past the pooler, before it starts.
do $$ begin create role clerk; exception when duplicate_object then null; end $$;
grant clerk to app;
create schema elsewhere;
grant usage on schema elsewhere to public;
create table thing (a text);
insert into thing values ('public');
create table elsewhere.thing (a text);
insert into elsewhere.thing values ('elsewhere');
create table kept (a int, b text);
create table numbered (id serial primary key, a text);
create table fired (a int);
create function set_unseen(n text, v text) returns text language plpgsql as
  $$ begin perform set_config(n, v, false); return v; end $$;
create function set_stable(n text, v text) returns text stable language sql as
  $$ select set_config(n, v, false) $$;
create procedure set_by_call(n text, v text) language plpgsql as
  $$ begin perform set_config(n, v, false); commit; end $$;
create function fire() returns trigger language plpgsql as
  $$ begin perform set_config('work_mem', new.a::text, false); return new; end $$;
create trigger fire before insert on fired for each row execute function fire();
create function make_temporary() returns int language plpgsql as
  $$ begin create temp table made as select 1 as a; return 1; end $$;
grant select, insert on thing, elsewhere.thing, kept, numbered, fired to public;
grant usage on sequence numbered_id_seq to public;
