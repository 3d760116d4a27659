//! Two lanes of work that feed each other: fetching, which waits for the network, and packing, which keeps the cores busy.
//!
//! Fetching is done in the order given. Packing takes the heaviest piece that is there, so that no long piece is left to one core at the end. The first failure stops
//! both lanes and is the one that is reported.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::fetch::Stop;

/// What a finished piece leads to.
pub enum Next<F, P> {
    /// Something to fetch.
    Fetch(F),
    /// Something to pack, with its weight.
    Pack(u64, P),
}

/// How many threads each lane has.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// For fetching.
    pub fetch: usize,
    /// For packing.
    pub pack: usize,
}

/// What comes out of a piece of work.
pub type Outcome<F, P> = anyhow::Result<Vec<Next<F, P>>>;

/// Does all of `start` and all that follows from it.
///
/// # Errors
/// The first failure.
pub fn run<F: Send, P: Send>(
    start: Vec<F>,
    threads: Threads,
    stop: &Stop,
    fetch: &(dyn Fn(F) -> Outcome<F, P> + Sync),
    pack: &(dyn Fn(P) -> Outcome<F, P> + Sync),
) -> anyhow::Result<()> {
    let board = Board {
        state: Mutex::new(State {
            fetch: start.into(),
            pack: Vec::new(),
            running: 0,
            failure: None,
        }),
        changed: Condvar::new(),
        stop,
    };
    thread::scope(|scope| {
        for _ in 0..threads.fetch.max(1) {
            scope.spawn(|| board.work(|state| state.fetch.pop_front(), fetch));
        }
        for _ in 0..threads.pack.max(1) {
            scope.spawn(|| board.work(State::heaviest, pack));
        }
    });
    let state = board
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    state.failure.map_or(Ok(()), Err)
}

struct Board<'a, F, P> {
    state: Mutex<State<F, P>>,
    changed: Condvar,
    stop: &'a Stop,
}

struct State<F, P> {
    fetch: VecDeque<F>,
    pack: Vec<(u64, P)>,
    running: usize,
    failure: Option<anyhow::Error>,
}

impl<F, P> State<F, P> {
    fn heaviest(&mut self) -> Option<P> {
        let (index, _) = self
            .pack
            .iter()
            .enumerate()
            .max_by_key(|(_, (weight, _))| *weight)?;
        Some(self.pack.swap_remove(index).1)
    }

    fn is_over(&self) -> bool {
        let idle = self.running == 0 && self.fetch.is_empty() && self.pack.is_empty();
        idle || self.failure.is_some()
    }
}

impl<F, P> Board<'_, F, P> {
    fn work<T>(
        &self,
        take: impl Fn(&mut State<F, P>) -> Option<T>,
        handle: &(dyn Fn(T) -> Outcome<F, P> + Sync),
    ) {
        let mut state = self.lock();
        loop {
            if state.is_over() || self.stop.requested() {
                return;
            }
            let Some(piece) = take(&mut state) else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            let ending = Ending { board: self };
            let outcome = handle(piece);
            state = self.lock();
            match outcome {
                Ok(following) => {
                    for next in following {
                        match next {
                            Next::Fetch(piece) => state.fetch.push_back(piece),
                            Next::Pack(weight, piece) => state.pack.push((weight, piece)),
                        }
                    }
                }
                Err(error) => {
                    state.failure.get_or_insert(error);
                    self.stop.request();
                }
            }
            drop(state);
            drop(ending);
            state = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<F, P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a piece of work, by whatever way: a panic must not leave the other threads waiting.
struct Ending<'a, 'b, F, P> {
    board: &'a Board<'b, F, P>,
}

impl<F, P> Drop for Ending<'_, '_, F, P> {
    fn drop(&mut self) {
        self.board.lock().running -= 1;
        if thread::panicking() {
            self.board.stop.request();
        }
        self.board.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const THREADS: Threads = Threads { fetch: 3, pack: 2 };

    #[test]
    fn everything_that_follows_is_done() {
        let packed = AtomicU64::new(0);
        // Each fetch below 10 leads to one more; each fetch leads to one pack.
        let fetch = |n: u64| {
            let mut following = vec![Next::Pack(n, n)];
            if n < 10 {
                following.push(Next::Fetch(n + 10));
            }
            Ok(following)
        };
        let pack = |n: u64| {
            packed.fetch_add(n, Ordering::Relaxed);
            Ok(Vec::new())
        };
        run((0..10).collect(), THREADS, &Stop::default(), &fetch, &pack).unwrap();
        assert_eq!(packed.into_inner(), (0..20).sum::<u64>());
    }

    #[test]
    fn the_first_failure_ends_it() {
        let stop = Stop::default();
        let pack = |n: u64| {
            if n == 3 {
                anyhow::bail!("piece {n} is bad");
            }
            Ok(Vec::new())
        };
        let error = run(
            (0..100).collect(),
            THREADS,
            &stop,
            &|n| Ok(vec![Next::Pack(n, n)]),
            &pack,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "piece 3 is bad");
        assert!(stop.requested());
    }

    #[test]
    fn the_heaviest_piece_is_packed_first() {
        let order = Mutex::new(Vec::new());
        let fetch = |(): ()| Ok([3, 9, 5].map(|n| Next::Pack(n, n)).into_iter().collect());
        let pack = |n: u64| {
            order.lock().unwrap().push(n);
            Ok(Vec::new())
        };
        let threads = Threads { fetch: 1, pack: 1 };
        run(vec![()], threads, &Stop::default(), &fetch, &pack).unwrap();
        assert_eq!(order.into_inner().unwrap(), [9, 5, 3]);
    }

    #[test]
    fn nothing_to_do_is_done_at_once() {
        let idle = |(): ()| -> Outcome<(), ()> { Ok(Vec::new()) };
        run(Vec::new(), THREADS, &Stop::default(), &idle, &idle).unwrap();
    }
}
