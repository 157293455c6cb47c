//! Which replica a session reads from, at each level of `read_consistency`.

use super::*;

const C: &str = "c";

/// A session of `app` at a level, before the primary `a` and the replicas `b` and `c`, each with an idle server.
struct Reads {
    scene: Scene,
    client: ConnId,
    primary: ConnId,
    replicas: [ConnId; 2],
}

/// Where a request was served.
#[derive(Debug, PartialEq)]
enum Served {
    Primary,
    Replica(usize),
}

impl Reads {
    fn at(level: Consistency) -> Reads {
        let mut scene = Scene::of_two(|database| {
            database.endpoints.push(format!("{C}:5432").into());
            database.cluster = Some(ClusterConfig {
                role: Role::Primary,
                is_split: true,
                read_consistency: level,
                retries_reads: true,
                holds_per_hour_max: 30,
            });
            database.pool.load_balance = crate::config::LoadBalance::RoundRobin;
        });
        told(&mut scene, Replayed::default());
        let client = scene.comes("app", &[]);
        let primary = scene.lets_in(A);
        scene.sent(client);
        let mut reads = Reads { scene, client, primary, replicas: [primary; 2] };
        // Each of them has let in a server, while nobody has anything that must be seen.
        let others = [reads.scene.comes("app", &[]), reads.scene.comes("app", &[])];
        for other in others {
            reads.scene.asks(other, "select 1");
        }
        reads.replicas = [reads.scene.lets_in(B), reads.scene.lets_in(C)];
        for (other, replica) in others.into_iter().zip(reads.replicas) {
            reads.scene.answers(replica, TransactionStatus::Idle);
            reads.scene.sent(replica);
            reads.scene.sent(other);
        }
        reads
    }

    /// Where a text is served, which is answered.
    fn asks(&mut self, sql: &str) -> Served {
        let Reads { scene, client, primary, replicas } = self;
        scene.at(scene.worker.now.0 + 1_000);
        scene.asks(*client, sql);
        let places = [*primary, replicas[0], replicas[1]];
        let at = places.iter().position(|conn| scene.heard(*conn) == sql).expect("somebody is asked");
        scene.answers(places[at], TransactionStatus::Idle);
        scene.sent(*client);
        // When it had ended is known in the next turn.
        scene.at(scene.worker.now.0 + 1_000);
        at.checked_sub(1).map_or(Served::Primary, Served::Replica)
    }

    fn reads(&mut self) -> Served {
        self.asks("select 1")
    }

    fn now(&self) -> u64 {
        self.scene.worker.now.0
    }

    /// The replicas are known to have what the primary had at these moments, as of now.
    fn known(&mut self, until: [u64; 2]) {
        let replayed = Replayed::told(
            &[A, B, C].map(|name| format!("{name}:5432")).each_ref().map(String::as_str),
            &[0, until[0], until[1]],
            self.now(),
        );
        told(&mut self.scene, replayed);
    }
}

fn told(scene: &mut Scene, replayed: Replayed) {
    let found = |(name, serves): (&str, Serves)| Found { name: format!("{name}:5432").into(), serves };
    scene.order(Command::Roles("app".into(), [(A, Writes), (B, Reads), (C, Reads)].map(found).into(), replayed));
}

/// One replica that stands still must not keep the reads of those who write with the primary.
#[test]
fn who_has_written_reads_at_the_replica_that_has_it() {
    for level in [Consistency::ReadYourWrites, Consistency::Session] {
        let mut it = Reads::at(level);
        assert_eq!(it.asks("insert into t values (1)"), Served::Primary);
        assert_eq!(it.reads(), Served::Primary, "nobody is known to have it");
        let now = it.now();
        it.known([1, now]);
        assert_eq!([it.reads(), it.reads(), it.reads()], [Served::Replica(1), Served::Replica(1), Served::Replica(1)]);
    }
    let mut it = Reads::at(Consistency::Eventual);
    it.asks("insert into t values (1)");
    assert_ne!(it.reads(), Served::Primary);
}

/// What was there a moment ago would be gone.
#[test]
fn a_session_goes_on_with_the_replica_that_it_has_read_from() {
    let mut it = Reads::at(Consistency::Session);
    let first = it.reads();
    assert_ne!(first, Served::Primary);
    let next = [it.reads(), it.reads(), it.reads()];
    assert!(next.iter().all(|served| *served == first), "{next:?} after {first:?}");
    let mut it = Reads::at(Consistency::ReadYourWrites);
    let served = [it.reads(), it.reads(), it.reads()];
    assert!(served.contains(&Served::Replica(0)) && served.contains(&Served::Replica(1)), "{served:?}");
}

/// A replica that was killed begins again before what it has shown: no server of before is left.
#[test]
fn a_server_that_was_let_in_after_a_read_is_none_to_go_on_with() {
    let mut it = Reads::at(Consistency::Session);
    let Served::Replica(first) = it.reads() else { panic!("a replica serves") };
    let (read_at, other) = (it.now(), 1 - first);
    it.scene.closed(it.replicas[first]);
    assert_eq!(it.reads(), Served::Primary, "the other one may be older");
    let mut until = [1, 1];
    until[other] = read_at;
    it.known(until);
    assert_eq!(it.reads(), Served::Primary, "what was read at the primary is newer");
    until[other] = it.now();
    it.known(until);
    assert_eq!(it.reads(), Served::Replica(other));
}

/// All that are open are at the replica that may be older: nobody would ever be served by the other one.
#[test]
fn a_replica_that_has_what_is_read_and_no_server_gets_one() {
    let mut it = Reads::at(Consistency::Session);
    it.scene.closed(it.replicas[0]);
    assert_eq!(it.asks("insert into t values (1)"), Served::Primary);
    let now = it.now();
    it.known([now, 1]);
    assert_eq!(it.reads(), Served::Primary, "there is no server at the one that has it");
    it.scene.at(it.now() + SECOND);
    it.replicas[0] = it.scene.lets_in(B);
    assert_eq!(it.reads(), Served::Primary, "it may have begun again since it was asked");
    let now = it.now();
    it.known([now, 1]);
    assert_eq!(it.reads(), Served::Replica(0));
}

/// Else it would go back to the replica that it had read from before, which never had what was lost.
#[test]
fn what_was_seen_on_a_primary_that_is_lost_is_not_forgotten() {
    let mut it = Reads::at(Consistency::Session);
    assert_ne!(it.reads(), Served::Primary);
    let Reads { mut scene, client, primary, replicas } = it;
    for sql in ["begin", "select 2"] {
        scene.asks(client, sql);
        assert_eq!(scene.heard(primary), sql);
        scene.answers(primary, TransactionStatus::InTransaction);
    }
    scene.asks(client, "commit");
    scene.closed(primary);
    assert!(String::from_utf8_lossy(&scene.sent(client)).contains("08007"));
    scene.at(scene.worker.now.0 + 1_000);
    scene.asks(client, "select 1");
    assert_eq!(replicas.map(|replica| scene.heard(replica)), ["", ""]);
    let primary = scene.lets_in(A);
    assert_eq!(scene.heard(primary), "select 1");
}
