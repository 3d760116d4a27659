//! `kpot`: makes pots, signed offline archives that bring a dead Kubernetes master back, on a machine that has a network.
//!
//! The way through: `cli` parses, `recipe` reads kpot.yaml, `order` puts both together, `commands` wires, `lock` says what each part must be, `plan` decides from `releases` what to fetch, `fetch` gets and checks it, `cache` keeps it for the next build, `pack` compresses it and writes the
//! pot through `bundle-spec`. A pot that is there is opened by `trust`, taken apart by `extract`, compared by `diff` and signed anew by `countersign`. The library
//! exists for the binary and its tests; it promises no stable interface.

pub mod agent;
pub mod asked;
pub mod cache;
pub mod cli;
pub mod commands;
pub mod countersign;
pub mod descriptors;
pub mod diff;
pub mod docker_archive;
pub mod exit;
pub mod extra;
pub mod extract;
pub mod fetch;
pub mod image_name;
pub mod installers;
pub mod interrupt;
pub mod keys;
pub mod limits;
pub mod lock;
pub mod mirrors;
pub mod order;
pub mod pack;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod released;
pub mod releases;
pub mod sandbox;
pub mod survey;
pub mod table;
pub mod trust;
pub mod uses;
pub mod wanted;
