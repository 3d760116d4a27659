//! The image of a lab node: built by `node/build.sh` once per recipe, kept as a tar file in the cache, imported into
//! Docker under the names that the Vagrantfile uses.
//!
//! Two variants: `full`, and `lean` without conntrack, socat and ebtables, for a backup machine on which nobody installed
//! them. The mirror that packages come from is the one that this machine's apt uses.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bundle_spec::{Hasher, Sha256};

use crate::cache::Cache;
use crate::sh::{self, Sh, step};

const RECIPE: [&str; 5] = ["build.sh", "setup.sh", "init.sh", "airgap.sh", "packages"];
/// What makes a full node a lean one. Debian's iptables brings an ebtables of its own under that name.
const MAKE_LEAN: &str = "dpkg --purge conntrack socat ebtables && update-alternatives --remove-all ebtables && \
                         ! command -v conntrack && ! command -v socat && ! command -v ebtables";
const FULL: &str = "kpot-lab/node:full";
const LEAN: &str = "kpot-lab/node:lean";
/// The container in which the lean image is made.
const LEAN_BUILD: &str = "kpot-lab-lean-build";

/// The folder `vagrant/` of the checkout that this lab was compiled from.
pub fn vagrant_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes both variants known to Docker; what is there already is left alone.
pub fn ensure(cache: &Cache) -> Result<()> {
    let dir = vagrant_dir().join("node");
    let mut hasher = Hasher::new();
    for name in RECIPE {
        hasher.update(&sh::read_bytes(&dir.join(name))?);
    }
    let recipe = hasher.finish().hex()[..16].to_owned();
    if recipe_of(FULL).as_deref() != Some(&recipe) {
        let tar = built(cache, &dir, &recipe)?;
        step("importing the node image", || {
            Sh::new("docker")
                .args([
                    "import",
                    "--change",
                    "CMD [\"/usr/local/sbin/lab-init\"]",
                    "--change",
                ])
                .arg(format!("LABEL kpot-lab.recipe={recipe}"))
                .arg(&tar)
                .arg(FULL)
                .run()
        })?;
    }
    let lean = Sha256::of(format!("{recipe} {MAKE_LEAN}").as_bytes()).hex()[..16].to_owned();
    if recipe_of(LEAN).as_deref() != Some(&lean) {
        step("making the lean node image", || make_lean(&lean))?;
    }
    Ok(())
}

/// The names of all containers that are machines of some lab, running or not.
pub fn machines() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for image in [FULL, LEAN] {
        if recipe_of(image).is_some() {
            let listed = Sh::new("docker")
                .args(["ps", "--all", "--format", "{{.Names}}", "--filter"])
                .arg(format!("ancestor={image}"))
                .output()?;
            names.extend(listed.lines().map(str::to_owned));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Takes out of Docker what a lab left that was killed while it made an image.
pub fn forget_attempts() -> Result<()> {
    Sh::new("docker")
        .args(["rm", "--force", LEAN_BUILD])
        .outcome()
        .map(drop)
}

/// Takes the images out of Docker; no machine may be made of them. The tar files stay in the cache.
pub fn forget() -> Result<()> {
    for image in [LEAN, FULL] {
        if recipe_of(image).is_some() {
            Sh::new("docker")
                .args(["image", "rm", "--force", image])
                .run()?;
        }
    }
    Ok(())
}

fn recipe_of(image: &str) -> Option<String> {
    let outcome = Sh::new("docker")
        .args([
            "image",
            "inspect",
            "--format",
            "{{index .Config.Labels \"kpot-lab.recipe\"}}",
            image,
        ])
        .outcome()
        .ok()?;
    outcome.ok().then(|| outcome.stdout.trim().to_owned())
}

fn built(cache: &Cache, dir: &Path, recipe: &str) -> Result<PathBuf> {
    let tar = cache.node_images().join(format!("node-{recipe}.tar"));
    if tar.exists() {
        return Ok(tar);
    }
    sh::make_dirs(&cache.node_images())?;
    for old in sh::names_in(&cache.node_images())? {
        sh::remove(&cache.node_images().join(old))?;
    }
    step("building the node image (Debian by debootstrap)", || {
        Sh::new(dir.join("build.sh"))
            .arg(debian_mirror()?)
            .arg(&tar)
            .log("node-image.log")
            .run()
    })?;
    Ok(tar)
}

fn make_lean(recipe: &str) -> Result<()> {
    // Left over from a lab that was killed here; usually there is none.
    forget_attempts()?;
    Sh::new("docker")
        .args([
            "run",
            "--name",
            LEAN_BUILD,
            "--network",
            "none",
            FULL,
            "sh",
            "-c",
            MAKE_LEAN,
        ])
        .run()?;
    Sh::new("docker")
        .args([
            "commit",
            "--change",
            "CMD [\"/usr/local/sbin/lab-init\"]",
            "--change",
            &format!("LABEL kpot-lab.recipe={recipe}"),
            LEAN_BUILD,
            LEAN,
        ])
        .run()?;
    Sh::new("docker").args(["rm", LEAN_BUILD]).run()
}

fn debian_mirror() -> Result<String> {
    let outcome = Sh::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
            "Created-By: Packages",
        ])
        .output()?;
    mirror_in(&outcome)
        .context("asking apt which mirror it uses")
        .map(str::to_owned)
}

fn mirror_in(targets: &str) -> Result<&str> {
    for target in targets.lines() {
        let mut fields = target.split('|');
        if let (Some(uri), Some("bookworm"), Some("main")) =
            (fields.next(), fields.next(), fields.next())
        {
            return Ok(uri);
        }
    }
    bail!(
        "this machine's apt has no source of Debian 12 (bookworm), component main: the nodes are made of it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let targets = "http://one.example/security|bookworm-security|main\n\
                       http://two.example/debian/|bookworm|contrib\n\
                       http://two.example/debian/|bookworm|main\n";
        assert_eq!(
            mirror_in(targets).expect("there is one"),
            "http://two.example/debian/"
        );
        assert!(mirror_in("http://two.example/ubuntu|jammy|main\n").is_err());
    }
}
