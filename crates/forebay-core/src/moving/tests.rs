//! What is read is what was written, and damage is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_spec::errors;
use forebay_sql::lexer::Backslash;
use forebay_sql::traces::Traces;
use proptest::prelude::*;

use super::group::{About, Group};
use super::part::{Part, Schema};
use super::{State, examine, schema};
use crate::auth::{Secret, SecretKey, ServerSecret};
use crate::cluster::replay::{Replay, Replaying};
use crate::config::{ServerTls, TlsMode};
use crate::io::{Endpoint, Peer, TlsInfo};
use crate::parameters::Images;
use crate::pool::endpoints::Place;
use crate::renamed::{Moved, Places};
use crate::session::client::{CancelSecret, Client, ClientState, Extent, Refusal};
use crate::session::expect::{self, Change, Does, Ends, Expect, Naming, Own};
use crate::session::server::Server;
use crate::statements::{ClientStatements, Content, Registry, Statement, StatementCache};
use crate::time::Instant;

struct Scene {
    registry: Arc<Registry>,
    images: Images,
    cache: StatementCache,
}

fn scene() -> Scene {
    let registry = Arc::new(Registry::with_names_of(7));
    Scene { cache: StatementCache::new(registry.clone(), 1 << 20), registry, images: Images::default() }
}

impl Scene {
    fn statement(&mut self, text: &str) -> Arc<Statement> {
        let (environment, text) = ("timezone\0UTC\0".into(), text.as_bytes());
        self.cache.share(Content { text, types: &[], environment: &environment, epoch: 3, backslash: Backslash::Plain })
    }

    fn client(&mut self) -> Client {
        let values = BTreeMap::from([("timezone".into(), "UTC".into()), ("work_mem".into(), "5MB".into())]);
        let image = self.images.intern(&values);
        let peer = Peer::Tcp(IpAddr::V6(Ipv6Addr::LOCALHOST), 4711);
        let empty = self.images.empty();
        let conn = crate::ids::ConnId { slot: 0, generation: 0 };
        let mut client = Client::new(conn, peer, empty, "app".into(), Instant(77));
        let mut names = ClientStatements::default();
        names.change(b"s", Some(self.statement("select 1")), 4);
        (client.state, client.id, client.virtual_pid) = (ClientState::Active, 12, 0x1020_0003);
        (client.wanted, client.carry) = (image, b"Q\0\0".to_vec());
        client.statements = Some(Box::new(names));
        client.cancel = CancelSecret::new([9; 32], true);
        client.refusal = Some(Box::new(Refusal { report: errors::draining(), extent: Extent::AllKept }));
        client.rare().raw_names.push("raw".into());
        let told = VecDeque::from(*b"CZ");
        client.rare().replay = Some(Box::new(Replay { sent: b"Q".to_vec(), told, report: errors::draining() }));
        client.replaying = Replaying::SetBack;
        client.tls = Some(Box::new(tls()));
        client
    }

    fn server(&mut self) -> Server {
        let (empty, conn) = (self.images.empty(), crate::ids::ConnId { slot: 1, generation: 0 });
        let mut server = Server::new(conn, 99, (crate::pool::PoolId(0), &Arc::default()), place(), empty, Instant(5));
        server.address = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
        (server.generation, server.is_connect_query_undone) = (4, true);
        let statement = self.statement("select 2");
        let once = Content { text: b"x", types: &[], environment: &"".into(), epoch: 0, backslash: Backslash::Plain };
        let unnamed = self.cache.once(once);
        server.statements.parse_sent(&statement, 2);
        server.statements.parse_sent(&unnamed, 2);
        server.status = TransactionStatus::InTransaction;
        (server.endings.bound, server.endings.portals, server.endings.answered) =
            (Ends::Block, Ends::Commit, Ends::Block);
        server.endings.unshared.push((Box::from(*b"c"), Ends::Commit));
        server.left.fresh = Traces::SETTING;
        server.left.name("work_mem");
        server.tls = Some(Box::new(tls()));
        server.late = Some(Box::new(errors::query_timeout("5 s")));
        let change = || Change { name: Box::from(*b"s"), before: Some(statement.clone()), segment: 2 };
        let places =
            || Some(Box::new(Places::new(b"s", Moved::new(b"execute s", 8, 9, b"fb"), b"execute fb", &statement)));
        let naming = || Some(Box::new(Naming::of(Does::Makes, vec![change()], vec![statement.clone()])));
        let refusal = || Some(Box::new(expect::Refusal::Instead(errors::draining())));
        server.expect.extend([
            Expect::Query { ends: Ends::Commit, refusal: refusal(), naming: naming(), places: places() },
            Expect::Query {
                ends: Ends::Block,
                refusal: Some(Box::new(expect::Refusal::AsItIs)),
                naming: None,
                places: None,
            },
            Expect::Function,
            Expect::Sync,
            Expect::Parse { statement: Some(unnamed), relay: true, change: Some(change()) },
            Expect::Close { evicted: Some(statement.clone()), relay: false },
            Expect::Bind { name: 17 },
            Expect::Describe { statement: Some(statement.clone()), relay: true, places: places() },
            Expect::Execute { ends: Ends::Nothing, naming: naming(), places: places() },
            Expect::CopyEnd,
            Expect::Answer { tag: b'1', change: change() },
            Expect::DuplicateParse { name: Box::from(*b"twice") },
            Expect::Outdated,
            Expect::Refused(Box::new(errors::draining())),
            Expect::Own(Own::Restore),
        ]);
        server
    }

    fn write(&mut self, client: bool, server: bool) -> State {
        let client = client.then(|| self.client());
        let server = server.then(|| self.server());
        Group::write(&self.registry, &about(), client.as_ref(), server.as_ref())
    }

    fn read(&mut self, bytes: &[u8]) -> Group {
        let cache = &mut self.cache;
        let shape = |raw: &crate::statements::Raw| cache.shape(&raw.text, raw.backslash);
        Group::read(bytes, &mut self.images, &self.registry, shape).expect("what was written is read")
    }
}

fn tls() -> TlsInfo {
    TlsInfo {
        certificate_hash: [7; 32].into(),
        peer_name: Some("app".into()),
        is_certified: true,
        description: "TLSv1.3/TLS_AES_256_GCM_SHA384".into(),
    }
}

fn place() -> Arc<Place> {
    Arc::new(Place {
        name: "10.0.0.5:5432".into(),
        endpoint: Endpoint::Tcp { host: "10.0.0.5".into(), port: 5432 },
        dbname: "shop".into(),
        tls: Some(Arc::new(ServerTls { mode: TlsMode::Prefer, ca: Some("ca.pem".into()), ..ServerTls::default() })),
        parameters: [("work_mem".into(), "8MB".into())].into(),
        connect_query: "select 1".into(),
    })
}

fn about() -> About {
    let secret = ServerSecret::Plain { password: Secret::new("s3cret"), keys: None };
    About { database: "shop".into(), user: "app".into(), secret: Some(secret), epoch: 3 }
}

/// What is lost on the way is lost to a client that is in the middle of something.
#[test]
fn what_is_read_is_what_was_written() {
    for (client, server) in [(true, true), (true, false), (false, true)] {
        let mut here = scene();
        let bytes = here.write(client, server);
        assert_eq!(examine(&bytes), Ok(usize::from(client) + usize::from(server)));
        let mut there = scene();
        let group = there.read(&bytes);
        let again = Group::write(&there.registry, &group.about, group.client.as_deref(), group.server.as_deref());
        assert!(bytes == again, "{} bytes became {}", bytes.len(), again.len());
    }
}

/// Two clients that shared a statement share it in the new process, by the name that servers know.
#[test]
fn a_statement_is_one_again_whoever_brings_it() {
    let (mut here, mut there) = (scene(), scene());
    let bytes = [here.write(true, false), here.write(true, false)];
    let name = here.statement("select 1").name().to_vec();
    let names: Vec<_> = bytes.iter().map(|bytes| there.read(bytes).client.expect("it has one")).collect();
    let of = |client: &Client| match client.statements.as_ref().expect("it has some").find(b"s", 4) {
        crate::statements::Lookup::Known(statement) => statement,
        _ => panic!("the name is known"),
    };
    assert!(of(&names[0]).is(&of(&names[1])));
    assert_eq!(of(&names[0]).name(), name);
    assert!(there.statement("select 1").is(&of(&names[0])), "who prepares it anew gets the same");
}

/// The old process refuses by this number, so it has to change with the format, and with nothing else.
#[test]
fn the_schema_is_the_same_in_every_build() {
    assert_eq!(schema(), schema());
    let key = SecretKey::new([1; 32]);
    let of = |describe: fn(&mut Schema)| {
        let mut to = Schema::default();
        describe(&mut to);
        to.hash()
    };
    let nothing = of(|_| ());
    for hash in [of(Traces::describe), of(Peer::describe), of(<std::rc::Rc<crate::parameters::Image>>::describe)] {
        assert_ne!(hash, nothing, "what is written by hand is told as well");
    }
    assert!(format!("{:?}", ServerSecret::Md5(key)).contains('…'), "what is written out is not what is printed");
}

/// What a client sends decides how many there are: each in a call of its own, they would take the stack.
#[test]
fn names_given_by_one_text_may_be_many() {
    let mut here = scene();
    let mut server = here.server();
    let mut first = Naming::of(Does::TakesAll, vec![], vec![]);
    for _ in 0..200_000 {
        let mut before = Naming::of(Does::Makes, vec![], vec![]);
        before.next = Some(Box::new(first));
        first = before;
    }
    server.expect =
        [Expect::Query { ends: Ends::Commit, refusal: None, naming: Some(Box::new(first)), places: None }].into();
    let bytes = Group::write(&here.registry, &about(), None, Some(&server));
    drop(server);
    let mut there = scene();
    let server = there.read(&bytes).server.expect("it has one");
    let Some(Expect::Query { naming: Some(naming), .. }) = server.expect.front() else { panic!("it is a query") };
    assert_eq!(naming.all().count(), 200_001);
    assert_eq!(naming.all().last().map(|last| last.what), Some(Does::TakesAll));
}

proptest! {
    /// Bytes that nobody wrote cost nothing but themselves.
    #[test]
    fn damage_is_told(cut in 0usize..4000, at in 0usize..4000, with: u8) {
        let bytes = scene().write(true, true);
        let _ = examine(&bytes[..cut.min(bytes.len())]);
        prop_assert!(cut >= bytes.len() || examine(&bytes[..cut]).is_err());
        let mut other = bytes.clone();
        let at = at % other.len();
        other[at] ^= with;
        let _ = examine(&other);
        let mut longer = bytes.to_vec();
        longer.push(with);
        prop_assert!(examine(&longer).is_err());
    }
}
