//! What one client gets of a turn of the loop, and when.

use forebay_pgwire::write;

use super::scene::Scene;
use crate::relay::MESSAGES_A_TURN;
use crate::time::Instant;

/// Somebody who sends a hundred thousand statements in one write must not make everybody else wait until all are read.
#[test]
fn a_long_pipeline_goes_on_in_parts_of_which_each_turn_has_one() {
    let mut scene = Scene::new();
    scene.tick(1);
    let (client, server) = scene.in_transaction();
    let mut pipeline = Vec::new();
    (0..1000).for_each(|_| write::sync(&mut pipeline));
    let sync_bytes = pipeline.len() / 1000;
    scene.arrives(client, &pipeline);
    let mut done = scene.sent(server).len() / sync_bytes;
    assert_eq!(done, MESSAGES_A_TURN as usize);
    for turn in 2.. {
        scene.worker.turn_end(&mut scene.io);
        if done == 1000 {
            assert!(scene.io.alarm > Some(Instant(turn)), "nothing is left to be done at once");
            break;
        }
        assert!(scene.io.alarm < Some(Instant(turn)), "the next turn is due at once");
        scene.tick(turn);
        let more = scene.sent(server).len() / sync_bytes;
        assert!((1..=MESSAGES_A_TURN as usize).contains(&more), "{more} messages in one turn");
        done += more;
    }
    // What comes behind it is in order, and its end is not the end of what it asked for.
    scene.arrives(client, &pipeline);
    scene.arrives(client, b"Q\0\0\0\x0bCOMMIT\0X\0\0\0\x04");
    scene.worker.closed(&mut scene.io, client, crate::io::ClosedBy::Peer);
    let mut sent = scene.sent(server);
    for turn in 100..120 {
        scene.tick(turn);
        sent.extend(scene.sent(server));
    }
    assert!(sent.starts_with(&pipeline), "all that was sent before");
    assert!(sent[pipeline.len()..].starts_with(b"Q\0\0\0\x0bCOMMIT\0"));
}

/// A ParseComplete in a packet of its own costs a client that sends all in one write a wake-up for each transaction.
#[test]
fn what_forebay_answers_itself_goes_with_the_servers_answers() {
    let mut scene = Scene::new();
    scene.tick(1);
    let (client, server) = scene.in_transaction();
    scene.sent(client);
    let parse = |name: &[u8]| {
        let mut out = Vec::new();
        write::parse(&mut out, name, b"SELECT 1", &[]);
        out
    };
    scene.arrives(client, &[&parse(b"one")[..], b"S\0\0\0\x04"].concat());
    let parsed = scene.sent(server);
    assert!(parsed.starts_with(b"P") && parsed.ends_with(b"S\0\0\0\x04"));
    scene.arrives(server, b"1\0\0\0\x04Z\0\0\0\x05T");
    assert_eq!(scene.sent(client), b"1\0\0\0\x04Z\0\0\0\x05T");
    // The server has it: only the Sync goes out, and the answer waits for that to the Sync.
    scene.arrives(client, &[&parse(b"two")[..], b"S\0\0\0\x04"].concat());
    assert_eq!(scene.sent(server), b"S\0\0\0\x04");
    assert_eq!(scene.sent(client), b"");
    scene.arrives(server, b"Z\0\0\0\x05T");
    assert_eq!(scene.sent(client), b"1\0\0\0\x04Z\0\0\0\x05T");
    // Behind a Flush the server has nothing to say.
    scene.arrives(client, &[&parse(b"three")[..], b"H\0\0\0\x04"].concat());
    assert_eq!(scene.sent(client), b"1\0\0\0\x04");
}
