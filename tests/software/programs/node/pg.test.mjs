// node-postgres: clients, its pool, prepared statements, cursors, streams, COPY, notifications, errors.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { after, before, describe, test } from "node:test";

import pg from "pg";
import copy from "pg-copy-streams";
import Cursor from "pg-cursor";
import QueryStream from "pg-query-stream";

import { CLIENTS, numbers, sleep, where } from "./database.mjs";

const connect = async (options = {}) => {
  const client = new pg.Client({ ...where, ...options });
  await client.connect();
  return client;
};

const using = (options, program) => async () => {
  const client = await connect(options);
  try {
    await program(client);
  } finally {
    await client.end();
  }
};

describe("one client", () => {
  test("parameters of many types come back", using({}, async (client) => {
    const date = new Date("2026-11-26T12:00:00.123Z");
    const { rows } = await client.query(
      "select $1::int i, $2::text t, $3::bool b, $4::timestamptz d, $5::jsonb j, $6::int[] a, $7::bytea y, $8::numeric n",
      [7, "it's", true, date, { a: [1, null] }, [1, 2], Buffer.from([0, 255, 7]), "12345678901234567890.5"],
    );
    assert.deepEqual(rows[0], {
      i: 7, t: "it's", b: true, d: date, j: { a: [1, null] }, a: [1, 2], y: Buffer.from([0, 255, 7]),
      n: "12345678901234567890.5",
    });
  }));

  test("a named statement is parsed once and run often", using({}, async (client) => {
    for (const number of numbers(40)) {
      const { rows } = await client.query({ name: "plus", text: "select $1::int + 1 as n", values: [number] });
      assert.equal(rows[0].n, number + 1);
    }
  }));

  test("a name can't mean two texts", using({}, async (client) => {
    await client.query({ name: "same", text: "select 1", values: [] });
    await assert.rejects(client.query({ name: "same", text: "select 2", values: [] }), /Prepared statements must be unique/);
    assert.equal((await client.query("select 3 as n")).rows[0].n, 3);
  }));

  test("many named statements", using({}, async (client) => {
    for (const turn of numbers(3)) {
      for (const number of numbers(120)) {
        const text = `select ${number} * $1::int as n`;
        const { rows } = await client.query({ name: `times ${number}`, text, values: [turn] });
        assert.equal(rows[0].n, number * turn);
      }
    }
  }));

  test("queries queue up behind each other", using({}, async (client) => {
    const answers = await Promise.all(numbers(200).map((number) => client.query("select $1::int as n", [number])));
    assert.deepEqual(answers.map((answer) => answer.rows[0].n), numbers(200));
  }));

  test("several statements in one text", using({}, async (client) => {
    const results = await client.query("create temp table two (n int); insert into two values (1), (2); select * from two");
    assert.deepEqual(results.map((result) => result.command), ["CREATE", "INSERT", "SELECT"]);
    assert.equal(results[2].rowCount, 2);
  }));

  test("rows as arrays, and their description", using({}, async (client) => {
    const { rows, fields } = await client.query({ text: "select 1 as a, 'x' as b", rowMode: "array" });
    assert.deepEqual(rows, [[1, "x"]]);
    assert.deepEqual(fields.map((field) => field.name), ["a", "b"]);
  }));

  test("an error tells its fields, and the client lives on", using({}, async (client) => {
    await client.query("drop table if exists node_error");
    await client.query("create table node_error (n int constraint positive check (n > 0))");
    await assert.rejects(client.query("insert into node_error values ($1)", [-1]), (error) => {
      assert.deepEqual([error.code, error.constraint, error.table], ["23514", "positive", "node_error"]);
      return true;
    });
    await assert.rejects(client.query("select 1 frm x"), { code: "42601" });
    await client.query("drop table node_error");
  }));

  test("a failed transaction wants a rollback", using({}, async (client) => {
    await client.query("begin");
    await assert.rejects(client.query("select 1/0"), { code: "22012" });
    await assert.rejects(client.query("select 1"), { code: "25P02" });
    await client.query("rollback");
    assert.equal((await client.query("select 1 as n")).rows[0].n, 1);
  }));

  test("savepoints", using({}, async (client) => {
    await client.query("begin");
    await client.query("create temp table node_points (n int) on commit drop");
    await client.query("insert into node_points values (1)");
    await client.query("savepoint a");
    await assert.rejects(client.query("insert into node_points values ('x')"));
    await client.query("rollback to a");
    await client.query("insert into node_points values (2)");
    assert.equal((await client.query("select sum(n)::int n from node_points")).rows[0].n, 3);
    await client.query("commit");
  }));

  test("settings last, and those of a transaction do not", using({}, async (client) => {
    await client.query("set timezone = 'Asia/Kathmandu'");
    await client.query("select set_config('node.tenant', $1, false)", ["seven"]);
    await client.query("begin; set local timezone = 'Asia/Tokyo'; commit");
    for (const _ of numbers(20)) {
      const { rows } = await client.query("select current_setting('timezone') z, current_setting('node.tenant') t");
      assert.deepEqual(rows[0], { z: "Asia/Kathmandu", t: "seven" });
    }
  }));

  const startup = { application_name: "node app", options: "-c search_path=node_a -c work_mem=5MB" };
  test("startup parameters last", using(startup, async (client) => {
    for (const _ of numbers(10)) {
      const { rows } = await client.query(
        "select current_setting('application_name') a, current_setting('search_path') s, current_setting('work_mem') w",
      );
      assert.deepEqual(rows[0], { a: "node app", s: "node_a", w: "5MB" });
    }
  }));

  test("a temporary table lasts", using({}, async (client) => {
    await client.query("create temp table node_temp (n int)");
    for (const number of numbers(10)) {
      await client.query("insert into node_temp values ($1)", [number]);
    }
    assert.equal((await client.query("select count(*)::int n from node_temp")).rows[0].n, 10);
  }));

  test("a statement timeout", using({ statement_timeout: 200 }, async (client) => {
    await assert.rejects(client.query("select pg_sleep(20)"), { code: "57014" });
    assert.equal((await client.query("select 1 as n")).rows[0].n, 1);
  }));

  test("notices", using({}, async (client) => {
    const heard = [];
    client.on("notice", (notice) => heard.push(notice.message));
    await client.query("do $$begin raise notice 'one'; raise notice 'two'; end$$");
    assert.deepEqual(heard, ["one", "two"]);
  }));

  test("large values both ways", using({}, async (client) => {
    const text = "é".repeat(2_000_000);
    const { rows } = await client.query("select $1::text as t", [text]);
    assert.equal(rows[0].t, text);
  }));

  test("a description goes stale: the statement is refused", using({}, async (client) => {
    await client.query("drop table if exists node_stale");
    await client.query("create table node_stale (n int)");
    await client.query("insert into node_stale values (1)");
    const ask = { name: "stale", text: "select * from node_stale", values: [] };
    await client.query(ask);
    await client.query("alter table node_stale alter n type text");
    await assert.rejects(client.query(ask), { code: "0A000" });
    await client.query("drop table node_stale");
  }));
});

describe("cursors, streams and COPY", () => {
  test("a cursor reads in pieces", using({}, async (client) => {
    const cursor = client.query(new Cursor("select generate_series(1, $1) n", [1000]));
    let sum = 0;
    for (let rows = await cursor.read(70); rows.length > 0; rows = await cursor.read(70)) {
      sum += rows.reduce((total, row) => total + row.n, 0);
    }
    assert.equal(sum, 500500);
    await cursor.close();
  }));

  test("a cursor is closed early", using({}, async (client) => {
    const cursor = client.query(new Cursor("select generate_series(1, 100000) n"));
    assert.equal((await cursor.read(5)).length, 5);
    await cursor.close();
    assert.equal((await client.query("select 1 as n")).rows[0].n, 1);
  }));

  test("a stream with a slow reader", using({}, async (client) => {
    const stream = client.query(new QueryStream("select n, repeat('x', 1000) from generate_series(1, 3000) n", [], { batchSize: 50 }));
    let count = 0;
    for await (const row of stream) {
      count += 1;
      if (row.n % 500 === 0) await sleep(5);
    }
    assert.equal(count, 3000);
  }));

  test("COPY in and out", using({}, async (client) => {
    await client.query("create temp table node_copy (n int, t text)");
    const lines = numbers(20_000).map((number) => `${number}\tline ${number}\n`);
    await pipeline(Readable.from(lines), client.query(copy.from("copy node_copy from stdin")));
    assert.equal((await client.query("select count(*)::int n from node_copy")).rows[0].n, 20_000);
    const pieces = [];
    for await (const piece of client.query(copy.to("copy (select * from node_copy order by n) to stdout"))) pieces.push(piece);
    assert.equal(Buffer.concat(pieces).toString(), lines.join(""));
  }));

  test("COPY of bad data", using({}, async (client) => {
    await client.query("create temp table node_bad (n int)");
    const into = client.query(copy.from("copy node_bad from stdin"));
    await assert.rejects(pipeline(Readable.from(["x\n"]), into), { code: "22P02" });
    assert.equal((await client.query("select 1 as n")).rows[0].n, 1);
  }));
});

describe("many clients", () => {
  let pool;
  before(async () => {
    pool = new pg.Pool({ ...where, max: CLIENTS });
    await pool.query("drop table if exists node_ledger");
    await pool.query("create table node_ledger as select n id, 100 amount from generate_series(0, 49) n");
  });
  after(async () => {
    await pool.query("drop table node_ledger");
    await pool.end();
  });

  test("a pool moves money", async () => {
    await Promise.all(numbers(400).map(async (number) => {
      const client = await pool.connect();
      try {
        const [one, other] = [(number * 7) % 50, (number * 13 + 1) % 50].sort((a, b) => a - b);
        if (one === other) return;
        await client.query("begin");
        await client.query("update node_ledger set amount = amount - $2 where id = $1", [one, number % 9]);
        await client.query("update node_ledger set amount = amount + $2 where id = $1", [other, number % 9]);
        await client.query(number % 10 === 0 ? "rollback" : "commit");
      } finally {
        client.release();
      }
    }));
    assert.equal((await pool.query("select sum(amount)::int n from node_ledger")).rows[0].n, 5000);
  });

  test("every client keeps its own settings and statements", async () => {
    await Promise.all(numbers(CLIENTS).map((number) => using({}, async (client) => {
      await client.query(`set node.number = '${number}'`);
      for (const turn of numbers(30)) {
        const text = `select current_setting('node.number')::int + $1::int as n, ${number} as own`;
        const { rows } = await client.query({ name: "own", text, values: [turn] });
        assert.deepEqual(rows[0], { n: number + turn, own: number });
      }
    })()));
  });

  test("notifications reach who listens, once and in order", async () => {
    const listener = await connect();
    const heard = [];
    const done = new Promise((resolve) => {
      listener.on("notification", ({ channel, payload }) => {
        heard.push([channel, payload]);
        if (payload === "49") resolve();
      });
    });
    await listener.query("listen node_channel");
    for (const number of numbers(50)) await pool.query("select pg_notify('node_channel', $1)", [`${number}`]);
    await done;
    assert.deepEqual(heard, numbers(50).map((number) => ["node_channel", `${number}`]));
    await listener.end();
  });

  test("advisory locks exclude", async () => {
    const [one, two] = await Promise.all([connect(), connect()]);
    await one.query("select pg_advisory_lock(815)");
    assert.equal((await two.query("select pg_try_advisory_lock(815) l")).rows[0].l, false);
    await one.end();
    for (let turn = 0; !(await two.query("select pg_try_advisory_lock(815) l")).rows[0].l; turn += 1) {
      assert.ok(turn < 400);
      await sleep(10);
    }
    await two.end();
  });

  test("a client that is cut off in a transaction leaves nothing", async () => {
    const client = await connect();
    client.on("error", () => {});
    await client.query("begin");
    await client.query("update node_ledger set amount = 0");
    client.connection.stream.destroy();
    for (let turn = 0; ; turn += 1) {
      const { rows } = await pool.query("select id from node_ledger where id = 0 for update skip locked");
      if (rows.length === 1) break;
      assert.ok(turn < 400);
      await sleep(10);
    }
    assert.equal((await pool.query("select sum(amount)::int n from node_ledger")).rows[0].n, 5000);
  });
});
