//! How many transfers go on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kpot::fetch::{Network, Policy};

use super::support::raw::{Raw, answer};
use super::support::upstream::Upstream;
use super::support::{Desk, code, stderr};
use super::{POLICY, client, get, network};

/// A server that takes its time, and the most requests that it had at once.
fn counting() -> (Raw, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let server = Raw::start(move |_, _, wire| {
        counted.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(100));
        now.fetch_sub(1, Ordering::SeqCst);
        answer(wire, "200 OK", "", "done")
    });
    (server, most)
}

#[test]
fn a_host_has_no_more_transfers_at_once_than_it_may() {
    let [(one, most_of_one), (other, most_of_other)] = [counting(), counting()];
    let client = client(Network {
        policy: Policy {
            per_host: 3,
            ..POLICY
        },
        ..network()
    });
    thread::scope(|scope| {
        for server in [&one, &other] {
            for _ in 0..9 {
                scope.spawn(|| get(&client, &server.url(), 10).unwrap());
            }
        }
    });
    for most in [most_of_one, most_of_other] {
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn the_limits_are_options_with_defaults() {
    assert_eq!(
        (Policy::DEFAULT.connections, Policy::DEFAULT.per_host),
        (6, 4)
    );
    let (desk, upstream) = (Desk::without_key(), Upstream::new("v1.20.2"));
    for (flag, code_expected) in [("1", 0), ("0", 2), ("many", 2)] {
        let more = [
            "--plan",
            "--connections",
            flag,
            "--connections-per-host",
            flag,
        ];
        let planned = desk.build(&upstream, "x.pot", &more);
        assert_eq!(code(&planned), code_expected, "{}", stderr(&planned));
    }
}
