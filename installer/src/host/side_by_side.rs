//! The same work on several things at a time.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many cores there are for work that keeps one busy.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does `work` of each of `things`, the first ones first, `lanes` at a time, and gives what came of each, in their order.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    things: &[T],
    lanes: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let lanes = lanes.min(things.len());
    if lanes < 2 {
        return things.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(thing) = things.get(index) else {
                return done;
            };
            done.push((index, work(thing)));
        }
    };
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let running: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        running
            .into_iter()
            .flat_map(|one| {
                one.join()
                    .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
            })
            .collect()
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, done)| done).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn what_came_of_each_stands_in_their_order_however_many_lanes_there_are() {
        let things: Vec<usize> = (0..100).collect();
        for lanes in [0, 1, 2, 7, 1000] {
            let done = side_by_side(&things, lanes, |thing| thing * thing);
            let expected: Vec<usize> = things.iter().map(|thing| thing * thing).collect();
            assert_eq!(done, expected, "{lanes} lanes");
        }
    }

    #[test]
    fn two_lanes_are_at_work_at_the_same_time() {
        // Neither comes to its end alone.
        let meeting = Barrier::new(2);
        let leaders = side_by_side(&[(), ()], 2, |()| meeting.wait().is_leader());
        assert_ne!(leaders[0], leaders[1]);
    }
}
