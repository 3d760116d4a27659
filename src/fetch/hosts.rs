//! How many transfers go on with one host at once: servers count connections by client, and turn away who has too many.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;

use super::retry::Stop;
use crate::mirrors::authority;

/// How often a waiting transfer looks for a stop.
const LOOK: Duration = Duration::from_millis(100);

/// The transfers that go on, by host and port.
pub(super) struct Hosts {
    limit: usize,
    busy: Mutex<HashMap<String, usize>>,
    freed: Condvar,
}

/// Leave to speak with a host, until it is dropped.
pub(super) struct Leave<'a> {
    hosts: &'a Hosts,
    host: String,
}

impl Hosts {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            busy: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Waits until there is room for one more transfer from the host of `url`; `None` where a stop comes first.
    pub(super) fn enter(&self, url: &Url, stop: &Stop) -> Option<Leave<'_>> {
        let host = authority(url).unwrap_or_default();
        let mut busy = self.lock();
        while busy.get(&host).copied().unwrap_or(0) >= self.limit {
            if stop.requested() {
                return None;
            }
            busy = self
                .freed
                .wait_timeout(busy, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *busy.entry(host.clone()).or_default() += 1;
        Some(Leave { hosts: self, host })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.hosts.lock().get_mut(&self.host) {
            *count -= 1;
        }
        self.hosts.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_host_has_room_again_when_a_transfer_ends() {
        let (hosts, stop) = (Hosts::new(2), Stop::default());
        let url = |text: &str| Url::parse(text).unwrap();
        let first = hosts.enter(&url("https://a.example/1"), &stop).unwrap();
        let _second = hosts.enter(&url("https://a.example/2"), &stop).unwrap();
        // Other hosts and other ports have room of their own.
        let _other = hosts.enter(&url("https://b.example/"), &stop).unwrap();
        let _port = hosts.enter(&url("https://a.example:444/"), &stop).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| hosts.enter(&url("https://a.example/3"), &stop).is_some());
            thread::sleep(LOOK * 4);
            assert!(!waiting.is_finished());
            drop(first);
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let (hosts, stop) = (Hosts::new(1), Stop::default());
        let url = Url::parse("https://a.example/").unwrap();
        let _first = hosts.enter(&url, &stop).unwrap();
        stop.request();
        assert!(hosts.enter(&url, &stop).is_none());
    }
}
