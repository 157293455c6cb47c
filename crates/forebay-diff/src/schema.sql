-- What programs find in their database. It belongs to the administrator; clients log in as app.
CREATE SCHEMA work AUTHORIZATION app;
CREATE SCHEMA north;
CREATE SCHEMA south;
GRANT USAGE ON SCHEMA north, south TO PUBLIC;
GRANT ALL ON SCHEMA work TO PUBLIC;

CREATE TABLE items (id int PRIMARY KEY, owner int NOT NULL, name text, at timestamptz, amount numeric(10,2));
CREATE TABLE real1 (v text);
CREATE TABLE knobs (id int PRIMARY KEY, name text, value text);
CREATE TABLE secrets (id int PRIMARY KEY, owner text, who text);
CREATE TABLE stream (id int, note text CHECK (note <> 'bad'));
CREATE TABLE pledges (who int, gid text);
CREATE TABLE north.place (v text);
CREATE TABLE south.place (v text, w int);
CREATE SEQUENCE numbers;
CREATE SEQUENCE others INCREMENT 10;

CREATE FUNCTION put(n text, v text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM set_config(n, v, false); RETURN v; END$$;
CREATE FUNCTION put_local(n text, v text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM set_config(n, v, true); RETURN v; END$$;
CREATE FUNCTION put_stable(n text, v text) RETURNS text STABLE LANGUAGE sql AS $$SELECT set_config(n, v, false)$$;
CREATE FUNCTION put_definer(n text, v text) RETURNS text SECURITY DEFINER LANGUAGE plpgsql SET search_path = pg_catalog AS
  $$BEGIN PERFORM set_config(n, v, false); RETURN v; END$$;
CREATE FUNCTION put_by_set(v text) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE format('SET app.a = %L', v); END$$;
CREATE FUNCTION lock_inside(k int) RETURNS boolean LANGUAGE sql AS $$SELECT pg_try_advisory_lock(k)$$;
CREATE FUNCTION temp_inside() RETURNS void LANGUAGE plpgsql AS
  $$BEGIN CREATE TEMP TABLE inner1 (a int); INSERT INTO inner1 VALUES (7); END$$;
CREATE FUNCTION prepare_inside() RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE 'PREPARE inner2 AS SELECT 22'; END$$;
CREATE FUNCTION listen_inside(c text) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE format('LISTEN %I', c); END$$;
CREATE FUNCTION role_inside() RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE 'SET ROLE beta'; END$$;
CREATE FUNCTION next_inside() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('others')$$;
CREATE FUNCTION complain(t text) RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'first %', t; RAISE WARNING 'second'; RETURN 7; END$$;
CREATE FUNCTION fail(t text) RETURNS int LANGUAGE plpgsql AS
  $$BEGIN PERFORM set_config('work_mem', '3MB', false); RAISE EXCEPTION 'failed on purpose: %', t USING HINT = 'none', ERRCODE = 'FA001'; END$$;
CREATE PROCEDURE put_and_commit(n text, v text) LANGUAGE plpgsql AS
  $$BEGIN PERFORM set_config(n, v, false); COMMIT; PERFORM set_config('app.b', 'after commit', false); END$$;

CREATE FUNCTION turn_knob() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM set_config(new.name, new.value, false); RETURN new; END$$;
CREATE TRIGGER turn BEFORE INSERT OR UPDATE ON knobs FOR EACH ROW EXECUTE FUNCTION turn_knob();

ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets USING (owner = current_setting('app.a', true) OR who = current_user);
CREATE VIEW visible AS SELECT id, current_setting('app.b', true) AS b, current_user::text AS who FROM items WHERE id < 12;

GRANT ALL ON ALL TABLES IN SCHEMA public, north, south TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;

-- Fills the named tables as they were. Rows are deleted, as TRUNCATE costs milliseconds for files of a few rows.
CREATE FUNCTION restore(VARIADIC names text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF 'items' = ANY (names) THEN
    DELETE FROM items;
    INSERT INTO items SELECT c * 10 + i, c, 'item ' || i, timestamptz '2024-05-06 07:08:09+00' + i * interval '1 day', c + i / 4.0
      FROM generate_series(0, 5) c, generate_series(0, 3) i;
    -- No client's: to insert it again fails at once, whatever transactions are under way.
    INSERT INTO items VALUES (90, 9);
  END IF;
  IF 'real1' = ANY (names) THEN
    DELETE FROM real1;
    INSERT INTO real1 VALUES ('real');
  END IF;
  IF 'knobs' = ANY (names) THEN
    DELETE FROM knobs;
    -- The same, and who inserts it again waits for nobody.
    INSERT INTO knobs VALUES (90, 'app.b', 'there');
  END IF;
  IF 'secrets' = ANY (names) THEN
    DELETE FROM secrets;
    INSERT INTO secrets VALUES (1, 'one', 'nobody'), (2, 'two', 'nobody'), (3, 'none', 'alpha'), (4, 'none', 'app');
  END IF;
  IF 'stream' = ANY (names) THEN
    DELETE FROM stream;
  END IF;
  IF 'pledges' = ANY (names) THEN
    DELETE FROM pledges;
  END IF;
  IF 'large objects' = ANY (names) THEN
    PERFORM lo_unlink(oid) FROM pg_largeobject_metadata;
  END IF;
  IF 'place' = ANY (names) THEN
    DELETE FROM north.place;
    DELETE FROM south.place;
    INSERT INTO north.place VALUES ('north');
    INSERT INTO south.place VALUES ('south', 1);
  END IF;
  IF 'numbers' = ANY (names) THEN
    PERFORM setval('numbers', 1, false);
  END IF;
  IF 'others' = ANY (names) THEN
    PERFORM setval('others', 1, false);
  END IF;
END$$;

-- One row a table: its name and what it holds, in an order of its own.
CREATE FUNCTION contents() RETURNS TABLE (name text, held text) LANGUAGE plpgsql AS $$
DECLARE one regclass;
BEGIN
  RETURN QUERY SELECT 'items', string_agg(t::text, ';' ORDER BY id) FROM items t
    UNION ALL SELECT 'real1', string_agg(t::text, ';' ORDER BY v) FROM real1 t
    UNION ALL SELECT 'knobs', string_agg(t::text, ';' ORDER BY id) FROM knobs t
    UNION ALL SELECT 'secrets', string_agg(t::text, ';' ORDER BY id) FROM secrets t
    UNION ALL SELECT 'stream', string_agg(t::text, ';' ORDER BY t::text) FROM stream t
    UNION ALL SELECT 'pledges', string_agg(t::text, ';' ORDER BY t::text) FROM pledges t
    UNION ALL SELECT 'large objects', string_agg(oid || encode(lo_get(oid), 'escape'), ';' ORDER BY oid) FROM pg_largeobject_metadata
    UNION ALL SELECT 'place', string_agg(t::text, ';' ORDER BY t::text) FROM (TABLE north.place UNION ALL SELECT v FROM south.place) t
    UNION ALL SELECT 'numbers', last_value || ' ' || is_called FROM numbers
    UNION ALL SELECT 'others', last_value || ' ' || is_called FROM others;
  FOR one IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'work'::regnamespace AND relkind = 'r' ORDER BY relname LOOP
    RETURN QUERY EXECUTE format('SELECT %L, string_agg(t::text, '';'' ORDER BY t::text) FROM %s t', one, one);
  END LOOP;
END$$;

CREATE FUNCTION sweep() RETURNS void LANGUAGE plpgsql AS $$
DECLARE one record;
BEGIN
  FOR one IN SELECT oid::regclass AS name, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
    FROM pg_class WHERE relnamespace = 'work'::regnamespace AND relkind IN ('r', 'v', 'S') LOOP
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', one.kind, one.name);
  END LOOP;
  FOR one IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'work'::regnamespace LOOP
    EXECUTE format('DROP FUNCTION %s', one.name);
  END LOOP;
END$$;
SELECT restore('items', 'real1', 'knobs', 'secrets', 'stream', 'place', 'numbers', 'others');

-- Somebody asks for lastval here: clients that advance a sequence keep their servers from the first one on.
CREATE FUNCTION last_inside() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()';
