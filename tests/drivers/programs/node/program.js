// What a Node service does with node-postgres: prints a line for each thing it tries.
"use strict";
const { Client, Pool } = require("pg");

const [host, port, database, user] = process.argv.slice(2);
const config = { host, port: Number(port), database, user, ssl: false };

async function session() {
  const client = new Client(config);
  await client.connect();
  for (let id = 1; id <= 4; id++) {
    const simple = await client.query("select name from people where id = $1", [id]);
    const named = await client.query({ name: "by-id", text: "select name from people where id = $1", values: [id] });
    console.log("row", simple.rows[0].name, named.rows[0].name);
  }
  await client.query("begin");
  await client.query("insert into scratch values ($1, $2)", [6000, "js"]);
  const count = await client.query("select count(*) from scratch where a = 6000");
  console.log("count", count.rows[0].count);
  await client.query("rollback");
  for (const text of ["select 1/0", "select * from nowhere", "selct 1"]) {
    try {
      await client.query(text);
    } catch (error) {
      console.log("error", error.code, error.message);
    }
  }
  const several = await client.query("select 1 as a; select 2 as b");
  console.log("several", several.map((result) => result.rows[0]));
  const ahead = await Promise.all([1, 2, 3, 4, 5].map((n) => client.query("select $1::int as n", [n])));
  console.log("ahead", ahead.map((result) => result.rows[0].n));
  await client.end();
}

async function pooled() {
  const pool = new Pool({ ...config, max: 8 });
  const answers = await Promise.all(
    Array.from({ length: 64 }, (_, n) => pool.query({ name: `n${n % 5}`, text: `select $1::int + ${n % 5} as n`, values: [n] })),
  );
  console.log("pool", answers.map((result) => result.rows[0].n).join(" "));
  await pool.end();
}

session()
  .then(pooled)
  .then(() => console.log("end"))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
