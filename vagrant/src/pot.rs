//! A pot as people make and carry it: `kpot keygen`, `kpot build`, a copy to the backup machine, the check there with
//! stock tools, and the trust in its signer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bundle_spec::{Manifest, Sha256};
use serde_json::Value;

use crate::eras::{Choice, Version};
use crate::image::vagrant_dir;
use crate::node::Node;
use crate::sh::{self, Outcome, Sh};

/// Where a pot is unpacked on the backup machine.
pub const POT_DIR: &str = "/root/pot";
/// The name that the lab's signer goes by.
const SIGNER: &str = "kpot";
/// Building this package compiles the installer and all of kpot.
const COMPILE_LIMIT: Duration = Duration::from_mins(30);
/// The real servers may be slow; the lab's are not.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// The `kpot` that is tried: usually that of this checkout.
#[derive(Debug, Clone)]
pub struct Kpot(PathBuf);

/// A pot on this machine, with its signer's public key beside it.
#[derive(Debug, Clone)]
pub struct Pot {
    /// The file.
    pub file: PathBuf,
    /// The signer's private key.
    pub key: PathBuf,
    /// The signer's public key, one line in OpenSSH's format.
    pub public_key: String,
}

impl Kpot {
    /// Compiles it, with the installer inside; or takes the one that `KPOT_LAB_KPOT` names, to try a program that was
    /// built elsewhere.
    pub fn compile() -> Result<Self> {
        if let Some(given) = std::env::var_os("KPOT_LAB_KPOT") {
            return Ok(Self(given.into()));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let messages = Sh::new(cargo)
            .args(["build", "--release", "--locked", "--package", "kpot"])
            .args(["--message-format", "json-render-diagnostics"])
            .dir(vagrant_dir())
            .timeout(COMPILE_LIMIT)
            .output()?;
        let built = messages.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            (message["target"]["name"] == "kpot").then_some(())?;
            Some(PathBuf::from(message["executable"].as_str()?))
        });
        built
            .map(Self)
            .context("cargo built kpot and did not say where")
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command of it.
    pub fn sh(&self) -> Sh {
        Sh::new(&self.0).log("kpot.log").timeout(BUILD_LIMIT)
    }

    /// Makes a new signing key in a folder, in place of an older one; gives its path and the public line.
    pub fn keygen(&self, dir: &Path, name: &str) -> Result<(PathBuf, String)> {
        let key = dir.join(name);
        let public = dir.join(format!("{name}.pub"));
        sh::remove(&key)?;
        sh::remove(&public)?;
        sh::make_dirs(dir)?;
        self.sh().args(["keygen", "-o"]).arg(&key).run()?;
        Ok((key, sh::read_text(&public)?.trim().to_owned()))
    }

    /// Builds and signs a pot of an era in the folder `dir`, with a new key; the arguments say where from.
    pub fn build(&self, dir: &Path, choice: &Choice, arguments: &[String]) -> Result<Pot> {
        let (key, public_key) = self.keygen(dir, &format!("{choice}.key"))?;
        let file = dir.join(format!("{choice}.pot"));
        self.build_with(&key, choice.version, arguments, &file)?;
        Ok(Pot {
            file,
            key,
            public_key,
        })
    }

    /// Builds and signs a pot with a key that is there.
    pub fn build_with(
        &self,
        key: &Path,
        version: Version,
        arguments: &[String],
        file: &Path,
    ) -> Result<()> {
        let build = self
            .sh()
            // The lab leaves nothing in the user's cache, and takes nothing from there.
            .args(["build", "--no-cache", "--k8s", &version.to_string()])
            .args(arguments);
        build.arg("--sign-key").arg(key).arg("-o").arg(file).run()
    }
}

impl Pot {
    /// Carries the pot to a machine and unpacks it there with that machine's tar.
    pub fn deliver(&self, node: &Node) -> Result<()> {
        node.copy(&self.file, "/root/carried.pot")?;
        node.run(&format!(
            "rm -rf {POT_DIR}; mkdir {POT_DIR}; tar -xf /root/carried.pot -C {POT_DIR}; rm /root/carried.pot"
        ))
    }

    /// What stands for everything in it but the signature: the digest of its list of digests, in hex.
    pub fn identity(&self) -> Result<String> {
        let sums = Sh::new("tar")
            .arg("-xOf")
            .arg(&self.file)
            .arg("SHA256SUMS")
            .output()?;
        // `output` takes off the last line feed, which belongs to the list.
        Ok(Sha256::of(format!("{sums}\n").as_bytes()).hex())
    }

    /// What it says that it holds.
    pub fn manifest(&self) -> Result<Manifest> {
        let text = Sh::new("tar")
            .arg("-xOf")
            .arg(&self.file)
            .arg("manifest.json")
            .output()?;
        // `output` takes off the last line feed, which belongs to the canonical bytes.
        Ok(Manifest::decode(format!("{text}\n").as_bytes())?)
    }

    /// The line for a file of trusted signers.
    pub fn signers_line(&self) -> String {
        format!("{SIGNER} namespaces=\"kpot\" {}\n", self.public_key)
    }

    /// Checks the unpacked pot with the machine's own ssh-keygen and sha256sum, before anything of ours runs there.
    pub fn check_with_stock_tools(&self, node: &Node) -> Result<()> {
        node.write("/root/allowed_signers", &self.signers_line(), 0o600)?;
        node.run(&format!(
            "cd {POT_DIR}
             ssh-keygen -Y verify -f /root/allowed_signers -I {SIGNER} -n kpot -s SHA256SUMS.sig <SHA256SUMS
             sha256sum --check --strict --quiet SHA256SUMS
             rm /root/allowed_signers"
        ))
    }

    /// Lets a machine trust the signer.
    pub fn trust(&self, node: &Node) -> Result<()> {
        node.write("/etc/kpot/trusted_signers", &self.signers_line(), 0o644)
    }
}

/// One run of `kpot-install` in the unpacked pot of a machine; the limit is the scenario's patience.
pub fn install(node: &Node, arguments: &str, limit: Duration) -> Result<Outcome> {
    node.sh(&format!("cd {POT_DIR} && ./kpot-install {arguments}"))?
        .timeout(limit)
        .outcome()
}

/// The installer ended with `status`, said all of `words`, and did not panic.
pub fn ensure_ended(outcome: &Outcome, status: i32, words: &[&str]) -> Result<()> {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(
        outcome.code == Some(status),
        "exit status {:?}, not {status}; it said:\n{said}",
        outcome.code
    );
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}:\n{said}");
    }
    ensure!(
        !said.contains("panicked") && !said.contains("stack backtrace"),
        "it panicked:\n{said}"
    );
    Ok(())
}

/// [`install`] that must succeed.
pub fn install_well(node: &Node, arguments: &str, limit: Duration) -> Result<Outcome> {
    let outcome = install(node, arguments, limit)?;
    if !outcome.ok() {
        bail!(
            "`kpot-install {arguments}` on {node} ended with {:?}:\n{}{}",
            outcome.code,
            outcome.stdout,
            outcome.stderr
        );
    }
    Ok(outcome)
}
