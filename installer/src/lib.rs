//! `kpot-install`: makes this machine a master of a Kubernetes cluster, with what is in a pot and nothing else.
//!
//! The way through the code: `cli` reads the command line, `plans` lists the steps of each workflow, `engine` runs them, `steps` holds them, `host` is this machine,
//! `control_plane` the cluster.

pub mod cli;
pub mod console;
pub mod control_plane;
pub mod engine;
pub mod exit;
pub mod facts;
pub mod host;
pub mod joining;
pub mod journal;
pub mod kubernetes;
pub mod password;
pub mod plans;
pub mod preflight;
pub mod replacing;
pub mod rollback;
pub mod runtime;
pub mod signals;
pub mod status;
pub mod step;
pub mod steps;
pub mod trust;
pub mod workflow;
