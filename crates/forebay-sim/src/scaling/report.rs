//! Figures as a table in Markdown, and as JSON lines.

use std::fmt::Write;

use super::figures::{Fairness, Figures};
use super::{Case, Plan};

/// A run of one case.
pub(super) struct Row {
    /// `None`: one queue, without workers.
    pub(super) workers: Option<usize>,
    pub(super) figures: Figures,
}

const HEAD: &str = "\
| workers | tx/s | of one queue | servers busy | workers busy, mean / most | wait p50 / p99 / p99.9, µs | p99/p50 | p99.9/p50 \
| messages a tx | lent tx | servers at its worker | tx a client, least / mean / most | Jain: clients | Jain: workers |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// A table; its first row is that of one queue.
pub(super) fn table(case: Case, rows: &[Row]) -> String {
    let mut out = format!("{}:\n\n{HEAD}\n", case.name());
    let best = rows.first().map_or(0.0, |row| row.figures.rate);
    for Row { workers, figures } in rows {
        let name = workers.map_or_else(|| "one queue".to_owned(), |n| n.to_string());
        let Figures { rate, busy, worked, wait_us: [median, high, highest], lent_share, company, .. } = figures;
        let ratios = figures.ratios().map_or(["–".to_owned(), "–".to_owned()], |r| r.map(|r| format!("{r:.3}")));
        let Fairness { min, mean, max, jain } = figures.per_client;
        let of = |value: String| if workers.is_some() { value } else { "–".to_owned() };
        let _ = writeln!(
            out,
            "| {name} | {rate:.0} | {:.3} | {:.1} % | {} | {median:.0} / {high:.0} / {highest:.0} | {} | {} | {} | {} | {} \
             | {min:.0} / {mean:.1} / {max:.0} | {jain:.4} | {} |",
            rate / best,
            busy * 100.0,
            of(format!("{:.0} / {:.0} %", worked.0 * 100.0, worked.1 * 100.0)),
            ratios[0],
            ratios[1],
            of(format!("{:.3}", figures.messages.all() as f64 / figures.transactions.max(1) as f64)),
            of(format!("{:.1} %", lent_share * 100.0)),
            of(format!("{company:.1}")),
            of(format!("{:.4}", figures.per_worker.jain)),
        );
    }
    out
}

/// One run as a JSON object on one line. Times are microseconds.
pub(super) fn json_line(case: Case, plan: &Plan, Row { workers, figures }: &Row) -> String {
    let workers = workers.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let [median, high, highest] = figures.wait_us;
    let ratios = figures.ratios().map_or(["null".to_owned(), "null".to_owned()], |r| r.map(|r| format!("{r:.4}")));
    let fair = |f: &Fairness| {
        format!(r#"{{"min":{:.3},"mean":{:.3},"max":{:.3},"jain":{:.6}}}"#, f.min, f.mean, f.max, f.jain)
    };
    let messages = &figures.messages;
    let mut out = format!(
        r#"{{"case":"{}","workers":{workers},"clients":{},"servers":{},"seed":{}"#,
        case.name(),
        figures.clients,
        plan.servers,
        plan.seed
    );
    let _ = write!(
        out,
        r#","transactions":{},"tx_per_second":{:.1},"servers_busy":{:.4},"workers_busy_mean":{:.4},"workers_busy_max":{:.4}"#,
        figures.transactions, figures.rate, figures.busy, figures.worked.0, figures.worked.1
    );
    let _ = write!(
        out,
        r#","wait_us":{{"mean":{:.1},"p50":{median:.1},"p99":{high:.1},"p99.9":{highest:.1}}},"p99/p50":{},"p99.9/p50":{}"#,
        figures.wait_mean_us, ratios[0], ratios[1]
    );
    let _ = write!(
        out,
        r#","messages":{{"lend":{},"want":{},"none_idle":{},"other":{}}},"lent_share":{:.5},"servers_at_worker":{:.2}"#,
        messages.lend, messages.want, messages.none_idle, messages.other, figures.lent_share, figures.company
    );
    let _ = write!(out, r#","per_client":{},"per_worker":{}}}"#, fair(&figures.per_client), fair(&figures.per_worker));
    out
}
