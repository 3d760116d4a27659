//! Where the lab keeps what it made: one folder outside the checkout, `${XDG_CACHE_HOME:-~/.cache}/kpot-lab`.
//!
//! Everything in it can be deleted at any time at the price of making it again, except `machine.json`, the record of
//! what the lab changed on this machine, and `packages`, the list of what it installed: `cargo lab clean` reads them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh;

/// The lab's folder, and the places in it.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// Finds the folder by the environment and makes it.
    pub fn open() -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(
                std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
            )
            .join(".cache"),
        };
        let root = base.join("kpot-lab");
        sh::make_dirs(&root)?;
        Ok(Self(root))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// What the lab changed on this machine.
    pub fn machine_record(&self) -> PathBuf {
        self.0.join("machine.json")
    }

    /// Locked by whoever is at work on the machines of a lab.
    pub fn lock(&self, lab: &str) -> PathBuf {
        self.0.join(format!("{lab}.lock"))
    }

    /// The root of the nodes as tar files, by recipe.
    pub fn node_images(&self) -> PathBuf {
        self.0.join("node-image")
    }

    /// Pots and keys made for a run.
    pub fn pots(&self) -> PathBuf {
        self.0.join("pots")
    }

    /// Programs that check the code.
    pub fn tools(&self) -> PathBuf {
        self.0.join("tools")
    }

    /// The results of soaks.
    pub fn soak(&self) -> PathBuf {
        self.0.join("soak.json")
    }

    /// What was found on the machines when a scenario failed.
    pub fn evidence(&self) -> PathBuf {
        self.0.join("evidence")
    }
}
