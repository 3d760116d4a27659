//! A server that behaves, or misbehaves, exactly as told, and a small made-up upstream to serve with it.
//!
//! The contents are not real programs or images: what is tested here is how they are fetched, checked, packed and refused. The lab builds pots of the real ones.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test binary uses its part; tests own their temporary files"
)]

pub mod certificates;
pub mod pots;
pub mod raw;
pub mod real;
pub mod server;
pub mod ssh;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use upstream::Upstream;

/// A folder with a signing key and its file of trusted signers.
pub struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// A desk with a key made by `kpot keygen`.
    pub fn new() -> Self {
        let desk = Self::without_key();
        let made = desk.kpot(&["keygen"]);
        assert!(made.status.success(), "{}", stderr(&made));
        let told = stdout(&made);
        let line = told
            .lines()
            .find(|line| line.starts_with("kpot namespaces="))
            .expect("keygen prints the line for trusted_signers");
        std::fs::write(desk.signers(), format!("{line}\n")).unwrap();
        desk
    }

    /// A desk on which nobody has made a key.
    pub fn without_key() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder for pots, which holds nothing else.
    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    pub fn signers(&self) -> PathBuf {
        self.path("trusted_signers")
    }

    /// The cache of this desk.
    pub fn cache(&self) -> PathBuf {
        self.path("cache/kpot")
    }

    /// Runs kpot with its configuration on this desk.
    pub fn kpot(&self, arguments: &[&str]) -> Output {
        self.kpot_with(arguments, &[])
    }

    /// The same with these variables. Proxies and logins of whoever runs the tests are not theirs.
    pub fn kpot_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied()).output().unwrap()
    }

    /// Starts it, and does not wait for its end.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// kpot with these arguments, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kpot"));
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command
                .env_remove(name)
                .env_remove(name.to_ascii_uppercase());
        }
        command
            .env_remove("SSH_AUTH_SOCK")
            .args(arguments)
            .current_dir(self.out())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("DOCKER_CONFIG", self.path("docker"));
        command
    }

    /// `kpot build` of the upstream's version into `out/NAME`, with more arguments.
    pub fn build(&self, upstream: &Upstream, name: &str, more: &[&str]) -> Output {
        let arguments = upstream.arguments(name);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        self.kpot(&arguments)
    }

    /// The same with another `--k8s`.
    pub fn build_version(
        &self,
        upstream: &Upstream,
        kubernetes: &str,
        name: &str,
        more: &[&str],
    ) -> Output {
        let arguments = upstream.arguments_for(kubernetes, name);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        self.kpot(&arguments)
    }

    pub fn verify(&self, pot: &Path) -> Output {
        let (pot, signers) = (
            pot.display().to_string(),
            self.signers().display().to_string(),
        );
        self.kpot(&["verify", &pot, "--signers", &signers])
    }

    /// The names in the folder for pots.
    pub fn made(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.out())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("kpot was not killed")
}
