// Where the database is: in libpq's own variables.
export const where = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  database: process.env.PGDATABASE,
};

// Clients at once: more than the pool of the database has servers.
export const CLIENTS = 16;

export const numbers = (count) => Array.from({ length: count }, (_, number) => number);
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
