//! The channel breaks at each step while both processes live: one of them has the place, and both know which.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use forebay_core::worker::Shared;

use super::*;
use crate::tls::context::Contexts;

fn hub() -> Arc<Hub> {
    Arc::new(Hub::start(1, Contexts::default(), 1_000_000, None).expect("threads can be had"))
}

fn ends() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("sockets can be had");
    (ours.into(), theirs.into())
}

/// The orders that the only worker of an engine was given, and the groups that came back to it.
fn orders(hub: &Hub) -> (Vec<&'static str>, Vec<bool>) {
    let (mut mail, mut orders, mut back) = (Vec::new(), Vec::new(), Vec::new());
    hub.mailboxes[0].take(&mut mail);
    for item in mail {
        match item {
            Mail::Command(_, Command::Stay) => orders.push("stay"),
            Mail::Command(_, Command::Drain) => orders.push("drain"),
            Mail::Told(_, Message::Group(arrival)) => back.push(arrival.is_refused),
            _ => {}
        }
    }
    (orders, back)
}

/// Waits for what another thread does in a moment.
fn until(mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come");
        std::thread::yield_now();
    }
}

fn old_process() -> (Arc<Hub>, OwnedFd) {
    let (ours, theirs) = ends();
    let hub = hub();
    hub.place.set(Place::Giving);
    hub.start_handing(start_sending(hub.clone(), ours).expect("a thread can be had"));
    (hub, theirs)
}

/// What the other side says to the offer, if it hears it, before its end is closed.
#[test]
fn an_old_process_has_given_its_place_when_the_new_one_has_said_so() {
    for (answer, is_given) in [(None, false), (Some(b'?'), false), (Some(ACCEPTED), true)] {
        let (hub, new) = old_process();
        let talk = std::thread::spawn(move || {
            let mut word = [0];
            read_exact(new.as_raw_fd(), &mut word).expect("the place is offered");
            assert_eq!(word[0], PLACE);
            answer.iter().for_each(|answer| write_all(new.as_raw_fd(), &[*answer]).expect("it is heard"));
        });
        assert_eq!(hub.give_place(), is_given, "{answer:?}");
        talk.join().expect("it is offered");
        // The end is noticed by what is said next.
        until(|| {
            hub.tell_held(Vec::new());
            hub.handing_is_over()
        });
        until(|| hub.place.get() == if is_given { Place::Given } else { Place::Ours });
        let mut heard = Vec::new();
        until(|| {
            heard.extend(orders(&hub).0);
            !heard.is_empty()
        });
        assert_eq!(heard, [if is_given { "drain" } else { "stay" }], "{answer:?}");
    }
}

/// The process at the other end, this one, lives on.
#[test]
fn a_new_process_has_the_place_once_it_has_accepted_it_and_lets_go_otherwise() {
    for (said, place) in [
        (&[][..], Place::Lost),
        (&[HELD][..], Place::Lost),
        (&[BATCH, 1, 0, 0, 0][..], Place::Lost),
        (b"?", Place::Lost),
        (&[PLACE], Place::Ours),
        (&[PLACE, BATCH, 9], Place::Ours),
        (&[PLACE, END], Place::Ours),
    ] {
        let (old, new) = ends();
        let hub = hub();
        hub.place.set(Place::Coming);
        let settled = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let settles = {
            let settled = settled.clone();
            move || settled.store(true, std::sync::atomic::Ordering::SeqCst)
        };
        start_receiving(hub.clone(), Arc::new(Shared::new(1)), new, settles).expect("a thread can be had");
        write_all(old.as_raw_fd(), said).expect("it is heard");
        if place == Place::Ours {
            let mut word = [0];
            read_exact(old.as_raw_fd(), &mut word).expect("it answers");
            assert_eq!(word[0], ACCEPTED);
        }
        drop(old);
        until(|| hub.place.get() == place);
        let is_lost = place == Place::Lost;
        if is_lost {
            let mut heard = Vec::new();
            until(|| {
                heard.extend(orders(&hub).0);
                !heard.is_empty()
            });
            assert_eq!(heard, ["drain"], "{said:?}");
        }
        assert_eq!(settled.load(std::sync::atomic::Ordering::SeqCst), !is_lost, "{said:?}");
    }
}

/// An answer that comes too late can't be sent: the new process hears of it, and does not take the place.
#[test]
fn nobody_accepts_what_is_offered_no_more() {
    let (old, new) = ends();
    write_all(old.as_raw_fd(), &[PLACE]).expect("there is room");
    shut(old.as_raw_fd());
    let hub = hub();
    hub.place.set(Place::Coming);
    start_receiving(hub.clone(), Arc::new(Shared::new(1)), new, || panic!("it is not ours")).expect("a thread");
    until(|| hub.place.get() == Place::Lost);
}

/// With descriptors lost on the way (the limit of open files, MSG_CTRUNC) a group stays where it is whole.
#[test]
fn a_group_whose_descriptors_did_not_all_come_is_refused() {
    let (old, new) = ends();
    let state = |count: u8| vec![count; 3];
    let mut said = vec![BATCH];
    said.extend_from_slice(&2_u32.to_le_bytes());
    for group in [1, 2] {
        said.push(group);
        said.extend_from_slice(&3_u64.to_le_bytes());
    }
    for group in [1, 2] {
        said.extend(state(group));
        // Connections without TLS, of which nothing is to be written.
        said.extend(vec![0; usize::from(group) * CONNECTION_HEAD]);
    }
    let one = crate::socket::stream(libc::AF_UNIX, false).expect("a socket can be had");
    let talk = std::thread::spawn(move || {
        let sent = send_with(old.as_raw_fd(), &said, &[one.as_raw_fd()]).expect("it is heard");
        write_all(old.as_raw_fd(), &said[sent..]).expect("it is heard");
        let mut taken = [9; 2];
        read_exact(old.as_raw_fd(), &mut taken).expect("it answers");
        taken
    });
    let old = Pid::behind(new.as_raw_fd()).expect("it is this process");
    let whole = |state: &[u8]| Ok(usize::from(state[0]));
    let Ok(Taken::Groups(groups)) = take_with(new.as_raw_fd(), &old, whole) else { panic!("it is a batch") };
    assert_eq!(talk.join().expect("it is answered"), [1, 0]);
    assert_eq!(groups.iter().map(|(state, own)| (state[0], own.len())).collect::<Vec<_>>(), [(1, 1)]);
}

/// What it took over would end with it, and the old process would have left.
#[test]
fn who_is_told_to_stop_takes_over_nothing() {
    let (old, new) = ends();
    let hub = hub();
    hub.place.set(Place::Coming);
    start_receiving(hub.clone(), Arc::new(Shared::new(1)), new, || panic!("it has the place")).expect("a thread");
    hub.stop_receiving();
    let mut word = [0];
    // Either end may notice first.
    let _ = write_all(old.as_raw_fd(), &[PLACE]);
    read_exact(old.as_raw_fd(), &mut word).expect_err("nobody accepts");
    until(|| hub.place.get() == Place::Lost);
}
