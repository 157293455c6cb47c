// postgres.js: its pool, pipelining, transactions, cursors, COPY, LISTEN, cancel.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { after, before, describe, test } from "node:test";

import postgres from "postgres";

import { CLIENTS, numbers, where } from "./database.mjs";

const open = (options = {}) => postgres({ ...where, username: where.user, max: CLIENTS, onnotice: () => {}, ...options });

describe("postgres.js", () => {
  let sql;
  before(async () => {
    sql = open();
    await sql`drop table if exists js_rows`;
    await sql`create table js_rows (id int primary key, name text, data jsonb, at timestamptz, tags text[])`;
  });
  after(async () => {
    await sql`drop table js_rows`;
    await sql.end();
  });

  test("inserts and selects with helpers", async () => {
    const rows = numbers(100).map((id) => ({ id, name: `name ${id}`, data: { id }, at: new Date(id * 1000), tags: ["a", `${id}`] }));
    await sql`insert into js_rows ${sql(rows)}`;
    const found = await sql`select * from js_rows where id in ${sql([3, 5])} order by id`;
    assert.deepEqual([...found], [rows[3], rows[5]]);
    await sql`update js_rows set ${sql({ name: "new" }, "name")} where id = 3`;
    assert.equal((await sql`select name from js_rows where id = ${3}`)[0].name, "new");
  });

  test("queries are pipelined on few connections", async () => {
    const few = open({ max: 2 });
    const answers = await Promise.all(numbers(500).map((number) => few`select ${number}::int as n`));
    assert.deepEqual(answers.map((rows) => rows[0].n), numbers(500));
    await few.end();
  });

  test("statements that can't be prepared", async () => {
    const plain = open({ prepare: false, max: 3 });
    const answers = await Promise.all(numbers(100).map((number) => plain`select ${number}::int as n`));
    assert.deepEqual(answers.map((rows) => rows[0].n), numbers(100));
    assert.deepEqual((await plain.unsafe("select 1 as a; select 2 as b")).map((rows) => rows[0]), [{ a: 1 }, { b: 2 }]);
    await plain.end();
  });

  test("an error in the midst of a pipeline is one query's own", async () => {
    const one = open({ max: 1 });
    const settled = await Promise.allSettled(numbers(60).map((number) => one`select 10 / ${number % 6}::int as n`));
    settled.forEach((outcome, number) => {
      if (number % 6 === 0) assert.equal(outcome.reason.code, "22012");
      else assert.equal(outcome.value[0].n, Math.trunc(10 / (number % 6)));
    });
    await one.end();
  });

  test("transactions with savepoints", async () => {
    await sql.begin(async (tx) => {
      await tx`insert into js_rows (id) values (1001)`;
      await tx.savepoint(async (point) => {
        await point`insert into js_rows (id) values (1002)`;
        await point`select 1/0`;
      }).catch((error) => assert.equal(error.code, "22012"));
      await tx`insert into js_rows (id) values (1003)`;
    });
    assert.deepEqual((await sql`select id from js_rows where id > 1000 order by id`).map((row) => row.id), [1001, 1003]);
    await assert.rejects(sql.begin((tx) => [tx`delete from js_rows`, tx`select 1/0`]), { code: "22012" });
    assert.equal((await sql`select count(*)::int n from js_rows where id > 1000`)[0].n, 2);
  });

  test("two phases", async () => {
    await sql.begin(async (tx) => {
      await tx`insert into js_rows (id) values (2001)`;
      await tx.prepare("js two");
    });
    assert.equal((await sql`select count(*)::int n from js_rows where id = 2001`)[0].n, 0);
    await sql`commit prepared 'js two'`;
    assert.equal((await sql`select count(*)::int n from js_rows where id = 2001`)[0].n, 1);
  });

  test("a reserved connection keeps its session", async () => {
    const reserved = await sql.reserve();
    await reserved`create temp table js_temp (n int)`;
    await reserved`set js.name = 'reserved'`;
    for (const number of numbers(10)) await reserved`insert into js_temp values (${number})`;
    const [row] = await reserved`select count(*)::int n, current_setting('js.name') s from js_temp`;
    assert.deepEqual(row, { n: 10, s: "reserved" });
    await reserved`drop table js_temp`;
    await reserved`reset js.name`;
    reserved.release();
  });

  test("connection parameters reach every connection", async () => {
    const zoned = open({ connection: { TimeZone: "Asia/Kathmandu", application_name: "js app", search_path: "js_schema" } });
    const answers = await Promise.all(numbers(60).map(() => zoned`
      select current_setting('timezone') z, current_setting('application_name') a, current_setting('search_path') s`));
    for (const [row] of answers) assert.deepEqual(row, { z: "Asia/Kathmandu", a: "js app", s: "js_schema" });
    await zoned.end();
  });

  test("cursors, by callback and by iteration", async () => {
    let sum = 0;
    await sql`select generate_series(1, 1000) n`.cursor(64, (rows) => { sum += rows.reduce((total, row) => total + row.n, 0); });
    assert.equal(sum, 500500);
    let count = 0;
    for await (const rows of sql`select generate_series(1, 100000) n`.cursor(10)) {
      count += rows.length;
      if (count >= 50) break;
    }
    assert.equal(count, 50);
  });

  test("COPY both ways", async () => {
    await sql`create table js_copy (n int, t text)`;
    const lines = numbers(10_000).map((number) => `${number}\tline\n`);
    await pipeline(Readable.from(lines), await sql`copy js_copy from stdin`.writable());
    // On a connection of its own: postgres.js may leave the socket paused behind a COPY, and what comes next unread.
    const copying = open({ max: 1 });
    const pieces = [];
    for await (const piece of await copying`copy (select * from js_copy order by n) to stdout`.readable()) pieces.push(piece);
    assert.equal(Buffer.concat(pieces).toString(), lines.join(""));
    await copying.end({ timeout: 0 });
    await sql`drop table js_copy`;
  });

  test("LISTEN and NOTIFY", async () => {
    const heard = [];
    let done;
    const all = new Promise((resolve) => { done = resolve; });
    const { unlisten } = await sql.listen("js_channel", (payload) => {
      heard.push(payload);
      if (payload === "29") done();
    });
    for (const number of numbers(30)) await sql.notify("js_channel", `${number}`);
    await all;
    assert.deepEqual(heard, numbers(30).map(String));
    await unlisten();
  });

  test("a query is cancelled", async () => {
    const query = sql`select pg_sleep(30)`;
    setTimeout(() => query.cancel(), 300);
    await assert.rejects(query, { code: "57014" });
    assert.equal((await sql`select 1 as n`)[0].n, 1);
  });

  test("queries are described without being run", async () => {
    const { string, columns } = await sql`select id, name from js_rows where id = ${1}`.describe();
    assert.match(string, /where id = \$1/);
    assert.deepEqual(columns.map((column) => column.name), ["id", "name"]);
  });

  test("many transactions at once", async () => {
    await sql`create table js_ledger as select n id, 100 amount from generate_series(0, 19) n`;
    await Promise.all(numbers(200).map((number) => sql.begin(async (tx) => {
      const [one, other] = [number % 20, (number * 3 + 1) % 20].sort((a, b) => a - b);
      await tx`update js_ledger set amount = amount - 1 where id = ${one}`;
      await tx`update js_ledger set amount = amount + 1 where id = ${other}`;
    })));
    assert.equal((await sql`select sum(amount)::int n from js_ledger`)[0].n, 2000);
    await sql`drop table js_ledger`;
  });

  test("a table changes under a prepared statement", async () => {
    const one = open({ max: 1 });
    await one`create table js_changed (n int)`;
    await one`insert into js_changed values (1)`;
    const ask = () => one`select * from js_changed`;
    assert.deepEqual([...(await ask())], [{ n: 1 }]);
    await one`alter table js_changed add t text default 'x'`;
    const outcome = await ask().catch((error) => error);
    assert.ok(outcome.code === "0A000" || outcome[0]?.t === "x", "refused, or asked anew by the driver");
    await one`drop table js_changed`;
    await one.end();
  });
});
