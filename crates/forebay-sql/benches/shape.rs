//! What a shape costs: found in the cache, and parsed.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use forebay_sql::cache::ShapeCache;
use forebay_sql::fingerprint::fingerprint;
use forebay_sql::grammar;
use forebay_sql::lexer::{Backslash, Lexer};

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
const UPDATE: &str = "UPDATE pgbench_accounts SET abalance = abalance + 17 WHERE aid = 4711";
const JOIN: &str = "SELECT c.region, count(*), sum(o.total) FROM orders o JOIN customers c ON c.id = o.customer_id \
    WHERE o.placed_at >= '2026-01-01' AND o.state IN ('paid', 'sent') GROUP BY c.region HAVING sum(o.total) > 1000 \
    ORDER BY 3 DESC LIMIT 20";
const QUEUE: &str = "WITH taken AS (DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE run_at <= now() \
    ORDER BY run_at LIMIT 10 FOR UPDATE SKIP LOCKED) RETURNING *) INSERT INTO done SELECT * FROM taken \
    ON CONFLICT (id) DO UPDATE SET at = excluded.at";

/// 100 bytes each: as a driver with parameters sends it, and with literals.
const WITH_PARAMETERS: &str =
    "select id, name, state, total from public.orders where customer = $1 and state = $2 order by id desc";
const WITH_LITERALS: &str =
    "select id, name, state, total from orders where customer = 470912 and state = 'paid' order by id asc";

fn hits(criterion: &mut Criterion) {
    for (name, text) in [("hit, parameters", WITH_PARAMETERS), ("hit, literals", WITH_LITERALS)] {
        assert_eq!(text.len(), 100, "{name}");
        let mut cache = ShapeCache::new(1024);
        cache.shape(text.as_bytes(), Backslash::Plain);
        criterion.bench_function(name, |b| b.iter(|| cache.shape(black_box(text.as_bytes()), Backslash::Plain)));
    }
    let text = WITH_LITERALS.as_bytes();
    criterion.bench_function("of it: tokens", |b| b.iter(|| Lexer::new(black_box(text), Backslash::Plain).count()));
    let mut bytes = Vec::new();
    criterion.bench_function("of it: fingerprint", |b| {
        b.iter(|| fingerprint(black_box(text), Backslash::Plain, &mut bytes));
    });
}

fn misses(criterion: &mut Criterion) {
    for (name, text) in [("q0 point select", POINT), ("q1 update", UPDATE), ("q2 join", JOIN), ("q3 queue", QUEUE)] {
        assert!(grammar::parse(text.as_bytes(), Backslash::Plain).is_parsed, "{name}");
        criterion.bench_function(name, |b| b.iter(|| grammar::parse(black_box(text.as_bytes()), Backslash::Plain)));
    }
}

criterion_group!(benches, hits, misses);
criterion_main!(benches);
