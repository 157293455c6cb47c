//! Permits, and who of the workers is found.

use super::*;

#[test]
fn permits_end_at_the_limit_and_come_back() {
    let permits = Permits::default();
    assert!(permits.try_take(2) && permits.try_take(2) && !permits.try_take(2));
    permits.give_back();
    assert!(permits.try_take(2));
    assert!(permits.try_take(0), "a limit of 0 is none");
}

/// A waiter that the other workers can't see would wait beside their idle servers.
#[test]
fn the_oldest_waiter_of_the_other_workers_is_found() {
    let shared = Shared::new(3);
    let pool = shared.pool(&"shop".into(), &"app".into());
    let standing = |has_idle, oldest| Standing { has_idle, oldest, ..Standing::default() };
    pool.publish(WorkerId(0), standing(false, Some(Instant(5))));
    pool.publish(WorkerId(1), standing(true, None));
    pool.publish(WorkerId(2), standing(false, Some(Instant(3))));
    assert_eq!(pool.worker_with_oldest_waiter(WorkerId(1)), Some((WorkerId(2), Instant(3))));
    assert_eq!(pool.worker_with_oldest_waiter(WorkerId(2)), Some((WorkerId(0), Instant(5))));
    assert_eq!(pool.worker_with_idle(WorkerId(0)), Some(WorkerId(1)));
    assert_eq!(pool.worker_with_idle(WorkerId(1)), None);
}

/// Servers that all follow the oldest waiter make one worker do the work of all.
#[test]
fn a_worker_with_more_than_its_part_of_servers_is_lent_to_later() {
    let shared = Shared::new(3);
    let pool = shared.pool(&"shop".into(), &"app".into());
    (0..6).for_each(|_| assert!(pool.permits.try_take(6)));
    let publish = |worker, servers, oldest| {
        pool.publish(
            WorkerId(worker),
            Standing { has_idle: false, oldest: Some(Instant(oldest)), waiting: 10, servers },
        );
    };
    let lent_to = || pool.worker_to_lend_to(WorkerId(0), Duration::from_micros(100));
    publish(0, 3, 1000);
    publish(1, 1, 500);
    publish(2, 2, 450);
    assert_eq!(lent_to(), Some((WorkerId(1), Instant(500))), "each has a part of two");
    pool.sent_server(WorkerId(1));
    assert_eq!(lent_to(), Some((WorkerId(2), Instant(550))), "one on its way counts");
    publish(2, 2, 600);
    assert_eq!(lent_to(), Some((WorkerId(1), Instant(600))), "nobody is passed over for ever");
    pool.got_server(WorkerId(1));
    publish(1, 1, 500);
    assert_eq!(lent_to(), Some((WorkerId(1), Instant(500))));
}
