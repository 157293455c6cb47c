// Sequelize with migrations by Umzug: models, associations, transactions, hooks of the pool.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { DataTypes, Op, QueryTypes, Sequelize, Transaction } from "sequelize";
import { SequelizeStorage, Umzug } from "umzug";

import { CLIENTS, numbers, where } from "./database.mjs";

const MIGRATIONS = [
  {
    name: "01-authors",
    up: ({ context }) => context.createTable("authors", {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      name: { type: DataTypes.STRING(100), allowNull: false, unique: true },
    }),
    down: ({ context }) => context.dropTable("authors", {}),
  },
  {
    name: "02-books",
    up: async ({ context }) => {
      await context.sequelize.transaction(async (transaction) => {
        await context.createTable("books", {
          id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
          title: DataTypes.TEXT,
          kind: DataTypes.ENUM("novel", "poem"),
          data: DataTypes.JSONB,
          tags: DataTypes.ARRAY(DataTypes.STRING),
          authorId: { type: DataTypes.INTEGER, references: { model: "authors", key: "id" }, onDelete: "CASCADE" },
        }, { transaction });
        await context.addIndex("books", ["title"], { transaction });
      });
    },
    down: async ({ context }) => {
      await context.dropTable("books", {});
      await context.sequelize.query('drop type if exists "enum_books_kind"');
    },
  },
  {
    name: "03-stock",
    up: async ({ context }) => {
      await context.addColumn("books", "stock", { type: DataTypes.INTEGER, allowNull: false, defaultValue: 10 });
      await context.changeColumn("books", "title", { type: DataTypes.STRING(300), allowNull: false });
      await context.addConstraint("books", { fields: ["stock"], type: "check", name: "stock_left", where: { stock: { [Op.gte]: 0 } } });
    },
    down: async ({ context }) => {
      await context.removeConstraint("books", "stock_left");
      await context.removeColumn("books", "stock");
    },
  },
];

describe("Sequelize", () => {
  let db, umzug, Author, Book;
  before(async () => {
    db = new Sequelize(where.database, where.user, null, {
      host: where.host, port: where.port, dialect: "postgres", logging: false, pool: { max: CLIENTS },
    });
    const context = db.getQueryInterface();
    umzug = new Umzug({ migrations: MIGRATIONS, context, storage: new SequelizeStorage({ sequelize: db }), logger: undefined });
    Author = db.define("author", { name: DataTypes.STRING }, { timestamps: false });
    Book = db.define("book", {
      title: DataTypes.STRING, kind: DataTypes.ENUM("novel", "poem"), data: DataTypes.JSONB,
      tags: DataTypes.ARRAY(DataTypes.STRING), stock: DataTypes.INTEGER,
    }, { timestamps: false });
    Author.hasMany(Book);
    Book.belongsTo(Author);
  });
  after(() => db.close());

  test("migrations go up, down and up again", async () => {
    assert.deepEqual((await umzug.up()).map((migration) => migration.name), MIGRATIONS.map((migration) => migration.name));
    assert.deepEqual(await umzug.pending(), []);
    await umzug.down({ to: 0 });
    assert.equal((await umzug.pending()).length, 3);
    await umzug.up();
    const columns = await db.getQueryInterface().describeTable("books");
    assert.deepEqual(Object.keys(columns).sort(), ["authorId", "data", "id", "kind", "stock", "tags", "title"]);
    assert.equal(columns.title.type, "CHARACTER VARYING(300)");
  });

  test("rows are created with what belongs to them", async () => {
    await Promise.all(numbers(30).map((number) => Author.create(
      { name: `author ${number}`, books: [{ title: `a ${number}`, kind: "novel", data: { number }, tags: ["x"] }, { title: `b ${number}`, kind: "poem" }] },
      { include: Book },
    )));
    const found = await Author.findAll({ include: { model: Book, where: { kind: "novel" } }, order: [["id", "ASC"]] });
    assert.equal(found.length, 30);
    assert.ok(found.every((author) => author.books.length === 1));
    assert.equal(await Book.count({ where: { "data.number": { [Op.lt]: 5 } } }), 5);
  });

  test("bulk writes and upserts", async () => {
    await Book.bulkCreate(numbers(500).map((number) => ({ title: `bulk ${number}` })));
    assert.equal(await Book.count({ where: { title: { [Op.like]: "bulk %" } } }), 500);
    const [changed] = await Book.update({ kind: "poem" }, { where: { title: { [Op.like]: "bulk 1%" } } });
    assert.equal(changed, 111);
    await Author.upsert({ id: 1, name: "renamed" });
    assert.equal((await Author.findByPk(1)).name, "renamed");
    await Book.destroy({ where: { title: { [Op.like]: "bulk %" } } });
  });

  test("a transaction that fails leaves nothing", async () => {
    await assert.rejects(db.transaction(async (transaction) => {
      await Author.create({ name: "never" }, { transaction });
      await Author.create({ name: "never" }, { transaction });
    }), { name: "SequelizeUniqueConstraintError" });
    assert.equal(await Author.count({ where: { name: "never" } }), 0);
  });

  test("nested transactions are savepoints", async () => {
    await db.transaction(async (outer) => {
      await Author.create({ name: "outer" }, { transaction: outer });
      await db.transaction({ transaction: outer }, async (nested) => {
        await Author.create({ name: "nested" }, { transaction: nested });
        throw new Error("undone");
      }).catch((error) => assert.equal(error.message, "undone"));
    });
    assert.equal(await Author.count({ where: { name: ["outer", "nested"] } }), 1);
  });

  for (const level of Object.values(Transaction.ISOLATION_LEVELS)) {
    test(`isolation level ${level}`, async () => {
      await db.transaction({ isolationLevel: level }, async (transaction) => {
        const [row] = await db.query("show transaction_isolation", { type: QueryTypes.SELECT, transaction });
        assert.equal(row.transaction_isolation, level.toLowerCase());
      });
    });
  }

  test("rows are locked while their stock is sold", async () => {
    const book = await Book.create({ title: "scarce", stock: 10 });
    const outcomes = await Promise.allSettled(numbers(25).map(() => db.transaction(async (transaction) => {
      const found = await Book.findByPk(book.id, { transaction, lock: transaction.LOCK.UPDATE });
      if (found.stock === 0) throw new Error("sold out");
      await found.decrement("stock", { transaction });
    })));
    assert.equal(outcomes.filter((outcome) => outcome.status === "fulfilled").length, 10);
    await book.reload();
    assert.equal(book.stock, 0);
    await assert.rejects(book.decrement("stock"), /stock_left/);
  });

  test("the schema is taken down", async () => {
    await umzug.down({ to: 0 });
    assert.deepEqual((await db.getQueryInterface().showAllTables()).filter((name) => name === "books"), []);
  });
});
