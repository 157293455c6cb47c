//! What a seed stands for where databases are clusters: their endpoints, and what becomes of those.

use std::sync::Arc;

use forebay_core::auth::{Credential, Secret};
use forebay_core::config::{AuthMethod, ClusterConfig, Consistency, DatabaseConfig, PoolMode, Preference, Role};

use super::{ClientPlan, Faults, LocalSocket, SECOND, Scenario, Target, engine_config};
use crate::client::actor::Identity;
use crate::client::ledger::{self, Habits};
use crate::rng::Rng;
use crate::secrets::PASSWORD;

/// Later requests that may be served before one: some servers are opened sooner than others.
const OVERTAKES_MAX: u32 = 12;

/// What happens to the endpoints of the cluster. Which of them it is shows when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The primary ends: with a word, or as if its power were cut.
    Crash { is_told: bool },
    /// The same as soon as it has committed something, of which nobody has heard.
    CrashInCommit,
    /// A replica begins to write on the next timeline. `is_whole`: it has got all that the last one wrote.
    Promote { is_whole: bool },
    /// Another replica does so on the same timeline.
    Twin,
    /// The primary is there again, as it was.
    Restart,
    /// One that is down and was deposed meanwhile is there again, and can write as before.
    ReturnWritable,
    /// The same, as a replica of the primary.
    ReturnReplica,
    /// In the place of one that is down there is a server of another cluster: one that can write, or a replica.
    ReturnStranger { is_in_recovery: bool },
    /// What can write beside the primary is made a replica of it.
    Demote,
    /// Nothing gets to one of them, or back, for so long.
    Partition(u64),
    /// One of the replicas replays nothing for so long.
    Lag(u64),
    /// A back end is ended.
    Terminate,
    /// RELOAD of the same configuration.
    Reload,
    /// A worker gets no processor for so long.
    Starve(u64),
    /// All is as it should be from here on.
    Heal,
}

/// The cluster of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// In the order of their times.
    pub(crate) acts: Vec<(u64, Act)>,
    /// How often endpoints are asked, how long they have to answer, and how many misses make one that is down.
    pub(crate) interval_us: u64,
    pub(crate) timeout_us: u64,
    pub(crate) misses_max: u32,
    /// Time between two fetches of a replica at most.
    pub(crate) fetch_us_max: u64,
    /// How much later the last of the endpoints fetches, while it is a replica.
    pub(crate) slow_us: u64,
    /// How much later one worker may be told of roles than another.
    pub(crate) told_late_us_max: u64,
    /// One answer in so many takes longer than it may; 0: none.
    pub(crate) late_one_in: u64,
    /// One probe in so many is refused; 0: none.
    pub(crate) refused_one_in: u64,
    /// Connections move between workers, as they do at an online restart.
    pub(crate) is_moving: bool,
    /// Lost COMMITs are looked for.
    pub(crate) commits: Option<CommitPlan>,
}

/// By what a primary ends that is to end in a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doom {
    /// It was carried out.
    Commit,
    /// It has come, and nothing of it was done.
    BeforeCommit,
    /// What it can be found by was written.
    Anchor,
    /// It has come, and its connection is cut: it goes on, does not end, and is committed some time later.
    Severed(u64),
}

/// What is to become of COMMITs that are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitPlan {
    pub(crate) doom: Doom,
    /// One question in so many by what a transaction can be found fails.
    pub(crate) failing_one_in: u64,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Plan {
        let nodes = *rng.pick(&[2, 2, 3, 3, 4]);
        let mut acts = Vec::new();
        let mut at = rng.between(20_000, 400_000);
        for _ in 0..rng.between(1, 3) {
            at = story(rng, nodes, at, &mut acts) + rng.below(500_000);
        }
        for _ in 0..rng.below(4) {
            let when = rng.below(at);
            let noise = [
                Act::Partition(rng.between(1_000, 1_500_000)),
                Act::Lag(rng.between(10_000, 1_500_000)),
                Act::Terminate,
            ];
            acts.push((when, *rng.pick(&noise)));
        }
        for noise in [Act::Reload, Act::Starve(rng.between(1_000, 300_000))] {
            if rng.one_in(3) {
                acts.push((rng.below(at), noise));
            }
        }
        acts.push((at + rng.between(1_000, 600_000), Act::Heal));
        acts.sort_by_key(|(when, _)| *when);
        Plan {
            nodes,
            acts,
            interval_us: *rng.pick(&[100_000, 500_000]),
            timeout_us: *rng.pick(&[200_000, SECOND]),
            misses_max: *rng.pick(&[1, 2, 2]) as u32,
            fetch_us_max: *rng.pick(&[500, 5_000, 100_000]),
            told_late_us_max: *rng.pick(&[100, 2_000, 100_000]),
            late_one_in: *rng.pick(&[0, 30, 8]),
            refused_one_in: *rng.pick(&[0, 0, 20]),
            is_moving: rng.one_in(5),
            slow_us: *rng.pick(&[0, 150_000, 700_000]),
            commits: None,
        }
    }
}

/// One change of the cluster, from its beginning at `at`. Returns its end.
fn story(rng: &mut Rng, nodes: usize, at: u64, acts: &mut Vec<(u64, Act)>) -> u64 {
    let crash = *rng.pick(&[Act::Crash { is_told: true }, Act::Crash { is_told: false }, Act::CrashInCommit]);
    let mut pause = || *rng.pick(&[500, 15_000, 150_000, 450_000]) + rng.below(50_000);
    let first = at + pause();
    let second = first + pause();
    let third = second + pause();
    let stranger = Act::ReturnStranger { is_in_recovery: rng.one_in(2) };
    let back = *rng.pick(&[Act::ReturnWritable, Act::ReturnWritable, Act::ReturnReplica, stranger]);
    let promote = Act::Promote { is_whole: rng.one_in(2) };
    match rng.below(7) {
        0..=2 => acts.extend([(at, crash), (first, promote), (second, back), (third, Act::Demote)]),
        3 => acts.extend([(at, promote), (third, Act::Demote)]),
        4 if nodes > 2 => acts.extend([(at, crash), (first, promote), (second, Act::Twin), (third, Act::Demote)]),
        4 | 5 => acts.extend([(at, crash), (first, Act::Restart)]),
        // A planned one.
        _ => {
            let steps = [
                (at, Act::Crash { is_told: true }),
                (first, Act::Promote { is_whole: true }),
                (second, Act::ReturnReplica),
            ];
            acts.extend(steps);
        }
    }
    third
}

impl Scenario {
    /// Draws the scenario of a seed with a cluster in it.
    pub(crate) fn draw_cluster(rng: &mut Rng, commit_check: Option<bool>) -> Scenario {
        let mut checking = rng.aside(13);
        let is_drawn = checking.one_in(3);
        let mut plan = Plan::draw(&mut rng.fork(1));
        let workers = *rng.pick(&[1, 1, 2, 2, 3]);
        let chunk_max = *rng.pick(&[20, 600, 5000, 5000]);
        let (first, second) = (role_of_first(rng), rng.one_in(2).then(|| *rng.pick(&[Role::Replica, Role::Any])));
        let wait = if rng.one_in(6) { rng.between(200, 2_000) * 1000 } else { 0 };
        let mut databases = vec![database(rng, &plan, 0, wait, first)];
        let reading = |role| ClusterConfig {
            role,
            is_split: false,
            read_consistency: Consistency::Session,
            retries_reads: false,
            holds_per_hour_max: 30,
        };
        databases.extend(second.map(|role| database(rng, &plan, 1, wait, reading(role))));
        // Of a split database some wait for the primary, others for a replica.
        let overtakes_max = if first.is_split { 10_000 } else { OVERTAKES_MAX };
        let targets: Vec<Target> = databases.iter().map(target_of).collect();
        let mut clients = clients(rng, &databases);
        if commit_check.unwrap_or(is_drawn) {
            check_commits(&mut plan, &mut databases, &mut clients, &mut checking);
        }
        let buffer_size = *rng.pick(&[64, 300, 2048]);
        let buffers = rng.between(16, 64) as usize + clients.len() * 4;
        let mut config = engine_config(workers, databases, AuthMethod::Trust, PASSWORD, buffers, buffer_size);
        // Nobody proves anything: what is derived of the password is shown to nobody, and need not be costly.
        config.auth.access.scram_iterations = 1;
        Scenario {
            workers,
            targets,
            clients,
            faults: Faults { is_failover: true, ..Faults::default() },
            heals_at: plan.acts.last().map_or(0, |(at, _)| *at),
            buffers,
            buffer_size,
            chunk_max,
            delay_max: *rng.pick(&[50, 500, 3000]),
            config,
            failing_reset_one_in: 0,
            may_time_out: wait > 0,
            server_method: AuthMethod::Trust,
            credential: Credential::Plain { password: Secret::new(PASSWORD), verifier: None },
            overtakes_max,
            signal_delay_max: 100,
            cluster: Some(plan),
        }
    }
}

/// Turns `commit_check` on wherever it does something, and has most primaries end in a COMMIT.
fn check_commits(plan: &mut Plan, databases: &mut [DatabaseConfig], clients: &mut [ClientPlan], luck: &mut Rng) {
    for database in databases {
        database.checks_commits = true;
    }
    for client in clients {
        ledger::commit_alone(&mut client.program, luck);
    }
    let severed = Doom::Severed(luck.between(1_000, 400_000));
    let doom = *luck.pick(&[Doom::Commit, Doom::BeforeCommit, Doom::BeforeCommit, Doom::Anchor, severed]);
    for (_, act) in &mut plan.acts {
        if matches!(act, Act::Crash { .. }) && !luck.one_in(3) {
            *act = Act::CrashInCommit;
        }
    }
    plan.commits = Some(CommitPlan { doom, failing_one_in: *luck.pick(&[0, 0, 30]) });
}

fn role_of_first(rng: &mut Rng) -> ClusterConfig {
    use Consistency::{Eventual, Primary, ReadYourWrites, Session};
    let read_consistency = *rng.pick(&[Session, Session, ReadYourWrites, ReadYourWrites, Eventual, Primary]);
    let is_split = !rng.one_in(3);
    let retries_reads = is_split && !rng.one_in(4);
    ClusterConfig { role: Role::Primary, is_split, read_consistency, retries_reads, holds_per_hour_max: 30 }
}

fn target_of(database: &DatabaseConfig) -> Target {
    Target {
        name: database.name.to_string(),
        mode: database.pool.pool_mode,
        pool_size: database.pool.pool_size,
        max_db_connections: 0,
        processes_max: 100,
        local_socket: LocalSocket::Nothing,
    }
}

fn database(rng: &mut Rng, plan: &Plan, index: u64, wait: u64, cluster: ClusterConfig) -> DatabaseConfig {
    let may_keep = !cluster.is_split && cluster.role == Role::Primary;
    let mode = if may_keep && rng.one_in(4) { PoolMode::Session } else { PoolMode::Transaction };
    let target = Target {
        name: format!("db{index}"),
        mode,
        pool_size: rng.between(1, 4) as u32,
        max_db_connections: 0,
        processes_max: 100,
        local_socket: LocalSocket::Nothing,
    };
    let mut database = Scenario::database(rng, &target, wait, true);
    database.endpoints = (0..plan.nodes).map(|node| Arc::from(endpoint(node))).collect();
    (database.forced_user, database.forced_secret) = (None, None);
    database.cluster = Some(cluster);
    database.preferences = preferences(&mut rng.aside(12), &database.endpoints);
    database
}

/// Half of the databases have endpoints without a weight, or some that are near: whoever is to serve, somebody does.
fn preferences(rng: &mut Rng, endpoints: &[Arc<str>]) -> Vec<Preference> {
    let is_said = rng.one_in(2);
    let mut said = |endpoint: &Arc<str>| Preference {
        endpoint: endpoint.clone(),
        weight: *rng.pick(&[0, 0, 1, 5]),
        zone: "".into(),
        is_near: rng.one_in(3),
    };
    endpoints.iter().filter(|_| is_said).map(&mut said).collect()
}

/// The endpoint of a server.
fn endpoint(node: usize) -> String {
    format!("127.0.0.{node}:5432")
}

fn clients(rng: &mut Rng, databases: &[DatabaseConfig]) -> Vec<ClientPlan> {
    let count = rng.between(2, 7) as u32;
    let (steps, rest_max) = (rng.between(4, 14), *rng.pick(&[20_000, 150_000, 400_000]));
    let plan = |id: u32| {
        // The first is for those that write.
        let database = if id == 0 { &databases[0] } else { rng.pick(databases) };
        let cluster = database.cluster.expect("all databases are clusters");
        let habits = Habits {
            client: id,
            steps,
            // Of an endpoint of any role nobody can say whether it takes a mark.
            writes: cluster.role == Role::Primary || (cluster.role == Role::Any && rng.one_in(3)),
            has_blocks: true,
            asks: cluster.is_split && rng.one_in(3),
            rest_max,
        };
        let who = Identity {
            id,
            database: database.name.to_string(),
            user: "app".into(),
            server_user: "app".into(),
            password: PASSWORD.into(),
            is_impostor: false,
            version: *rng.pick(&[0x0003_0000, 0x0003_0002]),
            asks_tls: false,
            is_owner: false,
            params: if rng.one_in(2) { vec![("application_name".into(), format!("client {id}"))] } else { vec![] },
        };
        ClientPlan { who, program: ledger::draw(rng, habits), starts_at: rng.below(200_000) }
    };
    (0..count).map(plan).collect()
}
