//! What is asked ahead of a healthy master is what is asked of it anyway, no more and no less, and the facts are the same.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::runner::{Place, Process, locked};
use super::world::{HEALTHY, World};
use super::{CASES, MINORS, scenario};
use crate::control_plane::ClusterView;
use crate::control_plane::facts::ClusterFacts;
use crate::host::command::{Cmd, CommandError, Feed, Output, Runner};

/// The way to a machine, that many commands wide; remembers what went over it.
struct Way {
    machine: Arc<dyn Runner>,
    lanes: usize,
    went: Mutex<Vec<String>>,
}

impl Runner for Way {
    fn run(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        locked(&self.went).push(cmd.to_string());
        self.machine.run(cmd)
    }

    fn feed(&self, cmd: &Cmd, feed: &mut Feed<'_>) -> Result<Output, CommandError> {
        self.machine.feed(cmd, feed)
    }

    fn fetch(&self, cmd: &Cmd, sink: &mut dyn Write) -> Result<Output, CommandError> {
        self.machine.fetch(cmd, sink)
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

/// What is asked when facts are gathered, in the order of its words, and the facts in words.
fn gathered(world: &World, lanes: usize) -> (Vec<String>, String) {
    let process = Process::new(world.played.clone(), None);
    let way = Arc::new(Way {
        machine: process.on(Place::Healthy),
        lanes,
        went: Mutex::default(),
    });
    let view = ClusterView::new(way.clone(), HEALTHY);
    let mut facts = ClusterFacts::gather(&view).expect("the healthy master tells everything");
    facts.clock_skew = 0.0;
    let mut went = locked(&way.went).clone();
    went.sort();
    (went, format!("{facts:#?}"))
}

#[test]
fn what_is_asked_ahead_is_what_is_asked_anyway() {
    for case in CASES {
        for minor in MINORS {
            let world = World::new(scenario(case, minor));
            let (one_by_one, facts) = gathered(&world, 1);
            assert!(one_by_one.len() > 20, "{one_by_one:#?}");
            assert_eq!(gathered(&world, 4), (one_by_one, facts), "{case:?}");
        }
    }
}
