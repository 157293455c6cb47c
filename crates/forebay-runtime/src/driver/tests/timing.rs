//! The alarm, questions and their deadlines, commands.

use std::time::Duration;

use forebay_core::command::{Command, CommandId, Reply};
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::io::Io;
use forebay_core::question::{Answer, Question, Turn};

use super::harness::{Role, Seen, World};
use crate::driver::backend::Backend;
use crate::hub::Mail;

fn secret(io: &mut impl Io, id: u64) {
    io.ask(QuestionId(id), Question::Secret { database: "shop".into(), user: "app".into() });
}

/// Every limit on time in core hangs on this one alarm.
fn the_alarm_rings_at_its_time_and_not_before<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let at = world.on(0, |consumer, driver| {
        let at = driver.hub.clock.now() + Duration::from_millis(150);
        // The newest call counts.
        driver.wake_at(at + Duration::from_secs(100));
        driver.wake_at(at);
        consumer.ticks = Some(at);
        at
    });
    let ticked = world.wait(|seen| if let Seen::Ticked(now) = seen { Some(*now) } else { None });
    assert!(ticked >= at);
    assert!(ticked.since(at) < Duration::from_millis(500), "{:?} late", ticked.since(at));
}

/// A hung Python must not park a client for ever.
fn a_question_without_an_answer_fails_in_time_and_once<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    world.hub.set_ask_timeout_us(50_000);
    world.on(0, |_, driver| secret(driver, 7));
    let answered = |seen: &Seen| if let Seen::Answered(id, text) = seen { Some((*id, text.clone())) } else { None };
    let (id, text) = world.wait(answered);
    assert!(id == QuestionId(7) && text.contains("Failed"), "{text}");
    world.hub.post(WorkerId(0), Mail::Answer(QuestionId(7), Answer::Secret(None)));
    world.on(0, |_, _| ());
    assert!(world.seen.try_iter().all(|seen| answered(&seen).is_none()), "a late answer was delivered");
}

/// What Python is asked arrives there, and what it answers comes back.
fn an_answer_reaches_who_asked<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    world.on(0, |_, driver| secret(driver, 3));
    let questions = world.hub.outbox.take().questions;
    assert!(matches!(&questions[..], [(WorkerId(0), QuestionId(3), Question::Secret { .. })]));
    // A part of it does not end the question.
    world.hub.post(WorkerId(0), Mail::Answer(QuestionId(3), Answer::ConsolePart([7].into())));
    world.hub.post(WorkerId(0), Mail::Answer(QuestionId(3), Answer::Secret(None)));
    for expected in ["ConsolePart", "Secret"] {
        let text = world.wait(|seen| if let Seen::Answered(_, text) = seen { Some(text.clone()) } else { None });
        assert!(text.contains(expected), "{text}");
    }
}

/// PBKDF2 takes a millisecond or ten, which no loop has.
fn a_salted_password_comes_from_the_side_thread<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    world.on(0, |_, driver| {
        let password = forebay_core::auth::Secret::new("secret");
        let salt = std::sync::Arc::from(*b"0123456789abcdef");
        driver.ask(QuestionId(1), Question::SaltPassword { password, salt, iterations: 4096, turn: Turn::Own });
    });
    let text = world.wait(|seen| if let Seen::Answered(_, text) = seen { Some(text.clone()) } else { None });
    assert!(text.contains("SaltedPassword"), "{text}");
    assert!(world.hub.outbox.take().questions.is_empty(), "a password was shown to Python");
}

/// Orders come in, replies go out; after `Drain` nobody new is let in.
fn a_drained_worker_accepts_nobody<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    world.hub.post(WorkerId(0), Mail::Command(CommandId(9), Command::Drain));
    world.wait(|seen| (*seen == Seen::Commanded(CommandId(9))).then_some(()));
    world.on(0, |_, driver| driver.reply(CommandId(9), Reply::Done));
    assert!(matches!(world.hub.outbox.take().replies[..], [(WorkerId(0), CommandId(9), Reply::Done)]));
    let deadline = std::time::Instant::now() + super::harness::PATIENCE;
    while std::net::TcpStream::connect(world.address).is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens");
    }
}

super::over_both!(
    the_alarm_rings_at_its_time_and_not_before,
    a_question_without_an_answer_fails_in_time_and_once,
    an_answer_reaches_who_asked,
    a_salted_password_comes_from_the_side_thread,
    a_drained_worker_accepts_nobody,
);
