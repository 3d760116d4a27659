//! The options of every command that fetches.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::fetch::{Logins, Network, Policy, network};
use crate::mirrors::Mirrors;

/// How the network is reached.
#[derive(Debug, Args)]
pub struct Flags {
    /// A file with certificates (PEM) of authorities to trust besides the system's; may be repeated
    #[arg(long = "cacert", value_name = "FILE")]
    pub authorities: Vec<PathBuf>,
    /// How many transfers go on at once
    #[arg(long, value_name = "N", default_value = "6")]
    pub connections: NonZeroUsize,
    /// How many of them with one host
    #[arg(long, value_name = "N", default_value = "4")]
    pub connections_per_host: NonZeroUsize,
}

impl Flags {
    /// The network of a run with these flags: everything else is the user's, from proxies to logins.
    ///
    /// # Errors
    /// Where a file of authorities cannot be read.
    pub fn network(&self, mirrors: Mirrors, policy: Policy) -> anyhow::Result<Network> {
        let mut authorities = Vec::new();
        for file in &self.authorities {
            authorities.extend(network::authorities(file)?);
        }
        Ok(Network {
            mirrors,
            policy: Policy {
                connections: self.connections.get(),
                per_host: self.connections_per_host.get(),
                ..policy
            },
            authorities,
            logins: Logins::of_user(),
            resolver: None,
        })
    }
}
