//! A transfer that is cut anywhere goes on, and ends with the same bytes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kpot::fetch::http::Size;

use super::support::raw::{Raw, head, ranged, start};
use super::support::upstream::content;
use super::{client, is, network, save};

const LENGTH: usize = 20_000;

/// How many cut points are tried; each is of its own transfer.
const CUTS: usize = 1000;

/// Splitmix64: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

#[test]
fn a_thousand_random_cuts_end_with_the_same_bytes() {
    let body = content("cut", LENGTH);
    let mut numbers = Numbers(42);
    // In the body, or in its head; once or twice; with a stated length, or in chunks.
    let cuts: Vec<[usize; 2]> = (0..CUTS)
        .map(|_| [numbers.below(LENGTH + 1), numbers.below(LENGTH + 1)])
        .collect();
    let resumed = Arc::new(AtomicUsize::new(0));
    let (served, counted, plan) = (body.clone(), Arc::clone(&resumed), cuts.clone());
    let failures = Arc::new(Mutex::new(Vec::new()));
    let server = Raw::start(move |request, before, wire| {
        let index: usize = request.path[1..].parse().unwrap();
        if start(request).is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        let Some(cut) = plan[index].get(before).copied() else {
            return ranged(wire, request, "\"x\"", &served);
        };
        if cut.is_multiple_of(16) {
            // Not even a whole head.
            return wire.write_all(&b"HTTP/1.1 200 OK\r\nContent-Le"[..cut % 27]);
        }
        let begin = start(request).unwrap_or(0);
        let end = cut.max(begin);
        let chunked = cut.is_multiple_of(3);
        let length = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {}", LENGTH - begin)
        };
        let (status, range) = if begin > 0 {
            (
                "206 X",
                format!("Content-Range: bytes {begin}-{}/{LENGTH}\r\n", LENGTH - 1),
            )
        } else {
            ("200 X", String::new())
        };
        head(wire, status, &format!("ETag: \"x\"\r\n{length}\r\n{range}"))?;
        let part = &served[begin..end];
        if chunked {
            for piece in part.chunks(1000) {
                write!(wire, "{:x}\r\n", piece.len())?;
                wire.write_all(piece)?;
                wire.write_all(b"\r\n")?;
            }
            Ok(())
        } else {
            wire.write_all(part)
        }
    });
    let client = client(network());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= CUTS {
                        return;
                    }
                    let url = format!("{}/{index}", server.url());
                    let size = if index.is_multiple_of(2) {
                        Size::Exactly(LENGTH as u64)
                    } else {
                        Size::AtMost(LENGTH as u64)
                    };
                    let saved = save(&client, &url, size);
                    if let Err(error) = &saved {
                        failures
                            .lock()
                            .unwrap()
                            .push((cuts[index], error.to_string()));
                        continue;
                    }
                    is(saved, &body);
                }
            });
        }
    });
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    // Most cuts leave something to go on from.
    let resumed = resumed.load(Ordering::Relaxed);
    assert!(resumed > CUTS, "only {resumed} transfers were resumed");
}
