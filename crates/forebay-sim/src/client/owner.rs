//! What a client does with its session: it sets, makes and holds things there, looks at them later, and at what others
//! may have left behind.
//!
//! Names are few and the same for all clients, so that what leaks is met.

use crate::client::program::{Step, Writer};
use crate::rng::Rng;
use crate::server::belongings::SEEDS;

const TABLES: [&str; 2] = ["t1", "t2"];
const CURSORS: [&str; 2] = ["k1", "k2"];
const CHANNELS: [&str; 2] = ["n1", "n2"];
const SEQUENCES: [&str; 2] = ["q1", "q2"];
// The last looks like one of the pooler's own.
const STATEMENTS: [&str; 3] = ["s1", "s2", "fb_none"];
const LOCKS: [u64; 3] = [1, 2, 3];
const SETTINGS: [&str; 7] = ["app.a", "app.b", "search_path", "work_mem", "TimeZone", "DateStyle", "application_name"];

/// What [`within`] picks from.
pub(crate) const TOPICS: u64 = 11;

/// One thing, alone or as part of a transaction block.
pub(super) fn act(writer: &mut Writer<'_>, luck: &mut Rng) {
    if !writer.tastes.has_blocks || !luck.one_in(3) {
        return alone(writer, luck);
    }
    let tag = writer.tag();
    writer.query(format!("begin /* {tag} */"));
    for _ in 0..luck.between(1, 4) {
        match luck.below(6) {
            0 => one(writer, luck, "savepoint a"),
            1 => one(writer, luck, "rollback to a"),
            2 => one(writer, luck, "release a"),
            _ => within(writer, luck),
        }
    }
    if writer.tastes.leaves && luck.one_in(4) {
        return writer.leave();
    }
    let end = *luck.pick(&["commit", "commit", "rollback"]);
    one(writer, luck, end);
}

fn one(writer: &mut Writer<'_>, _: &mut Rng, text: &str) {
    let tag = writer.tag();
    writer.query(format!("{text} /* {tag} */"));
}

/// What must not stand in a block, or is worth a pause.
fn alone(writer: &mut Writer<'_>, luck: &mut Rng) {
    match luck.below(12) {
        0 if writer.tastes.owning.has_resets => one(writer, luck, "discard all"),
        1 => one(writer, luck, "discard temp"),
        2 => one(writer, luck, "discard sequences"),
        3 => one(writer, luck, "deallocate all"),
        4 => writer.steps.push(Step::Think(luck.below(60_000))),
        _ => within(writer, luck),
    }
}

fn within(writer: &mut Writer<'_>, luck: &mut Rng) {
    let topic = if luck.one_in(2) { writer.tastes.owning.topic } else { luck.below(TOPICS) };
    let text = match topic {
        0 => table(writer, luck),
        1 => lock(luck),
        2 => cursor(writer, luck),
        3 => channel(writer, luck),
        4 => statement(writer, luck),
        5..=7 => setting(writer, luck),
        8 => sequence(luck),
        9 => seed(writer, luck),
        _ => identity(writer, luck),
    };
    one(writer, luck, &text);
}

fn table(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let name = *luck.pick(&TABLES);
    match luck.below(7) {
        0 | 1 => {
            let (tag, drops) = (writer.tag(), if luck.one_in(3) { "on commit drop " } else { "" });
            format!("create temp table {name} {drops}as select '{tag}'")
        }
        2 => format!("drop table {name}"),
        3 => "select exists(select from pg_catalog.pg_depend where refobjid = pg_my_temp_schema())".to_owned(),
        _ => format!("select content from {name}"),
    }
}

fn lock(luck: &mut Rng) -> String {
    let key = *luck.pick(&LOCKS);
    match luck.below(5) {
        0 => format!("select pg_try_advisory_lock({key})"),
        1 => "select pg_advisory_unlock_all()".to_owned(),
        2 => "select exists(select from pg_catalog.pg_locks where pid = pg_backend_pid())".to_owned(),
        _ => format!("select pg_advisory_unlock({key})"),
    }
}

fn cursor(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let name = *luck.pick(&CURSORS);
    match luck.below(6) {
        0 | 1 => format!("declare {name} scroll cursor with hold for select '{}'", writer.tag()),
        2 => format!("close {name}"),
        3 => "close all".to_owned(),
        4 => "select exists(select from pg_catalog.pg_cursors)".to_owned(),
        _ => format!("fetch absolute 1 from {name}"),
    }
}

fn channel(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let name = *luck.pick(&CHANNELS);
    match luck.below(12) {
        0..=2 => format!("listen {name}"),
        3 => format!("unlisten {name}"),
        4 if luck.one_in(2) => "unlisten *".to_owned(),
        4..=8 => format!("notify {name}, '{}'", writer.tag()),
        9 => format!("select pg_notify('{name}', '{}')", writer.tag()),
        _ => "select exists(select from pg_catalog.pg_listening_channels())".to_owned(),
    }
}

/// Names are those of [`Writer`]'s statements of the extended protocol: there is one namespace.
fn statement(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let name = *luck.pick(&STATEMENTS);
    match luck.below(8) {
        6 | 7 => format!("prepare {name} as select content from {}", luck.pick(&TABLES)),
        0 => format!("prepare {name} (text) as select $1 as rows_1"),
        1 => format!("prepare {name} as select '{}' as rows_2", writer.tag()),
        2 => format!("deallocate {name}"),
        3 => format!("execute {name}('{}')", writer.tag()),
        _ => format!("execute {name}"),
    }
}

fn setting(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let name = *luck.pick(&SETTINGS);
    let value = format!("v{} of {}", luck.below(3), writer.tastes.client);
    let (unseen, resets) = (writer.tastes.owning.has_unseen, writer.tastes.owning.has_resets);
    match luck.below(12) {
        0 => format!("set {name} to '{value}'"),
        1 => format!("set local {name} to '{value}'"),
        2 => format!("select set_config('{name}', '{value}', false)"),
        3 => format!("select set_config('{name}', '{value}', true)"),
        4 if resets => format!("reset {name}"),
        5 if resets && luck.one_in(2) => "reset all".to_owned(),
        6 if unseen => format!("do 'begin perform set_config(''{name}'', ''{value}'', false); end'"),
        // No list of settings names one with a dot.
        7 if unseen && !name.contains('.') => format!("select set_unseen('{name}', '{value}')"),
        _ => format!("select coalesce(current_setting('{name}', true), '')"),
    }
}

fn sequence(luck: &mut Rng) -> String {
    let name = *luck.pick(&SEQUENCES);
    match luck.below(3) {
        0 => format!("select setval('{name}', {})", luck.below(1000)),
        _ => format!("select currval('{name}')"),
    }
}

fn seed(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    match luck.below(3) {
        0 if writer.tastes.owning.has_seeds => format!("select setseed({})", luck.pick(&SEEDS)),
        // In session mode it stays for the next client, as with any pooler.
        1 if writer.tastes.owning.has_seeds && luck.aside(1).one_in(3) => "load 'auto_explain'".to_owned(),
        _ => "select random()".to_owned(),
    }
}

fn identity(writer: &mut Writer<'_>, luck: &mut Rng) -> String {
    let client = writer.tastes.client;
    match luck.below(12) {
        0..=2 => format!("set role clerk{client}"),
        3 => "reset role".to_owned(),
        4 => format!("set session authorization other{client}"),
        5 | 6 => "set session authorization default".to_owned(),
        _ => "select current_setting('role', true), current_user".to_owned(),
    }
}
