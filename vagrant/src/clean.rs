//! `cargo lab clean`: what the lab brought up goes, and this machine is put back as it was.
//!
//! First the servers and the machines with their network and images, then what [`machine::restore`] knows of: Docker,
//! sysctls, swap. What fails does not keep the rest from being done, with one exception: nothing is put back below machines
//! that are still there, because they share this machine's kernel. What stays is told.

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cache;
use crate::lab::Lab;
use crate::sh::{self, step};
use crate::{image, machine, pool, upstream};

/// Does it; a second time there is nothing left to do.
pub fn run(cache: &Cache, lab: &Lab) -> Result<()> {
    let servers = upstream::stop_all(cache.root()).context("stopping the upstream servers");
    let machines = remove_machines(cache, lab);
    let restored = match &machines {
        Ok(()) => machine::restore(cache),
        Err(_) => Ok(()),
    };
    let policy = sh::let_services_start().context("letting Debian start services again");
    let stays = tell_what_stays(cache);
    let machines = machines.context("machines are left, so this machine was not put back either");
    let failures: Vec<String> = [servers, machines, restored, policy, stays]
        .into_iter()
        .filter_map(|done| done.err().map(|error| format!("{error:#}")))
        .collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

fn remove_machines(cache: &Cache, lab: &Lab) -> Result<()> {
    let docker = machine::docker_to_clean(cache)?;
    if (docker || !lab.shares_kernel()) && sh::on_path("vagrant") {
        step("removing the machines", || pool::raze(lab))?;
    }
    if !docker {
        return Ok(());
    }
    image::forget_attempts()?;
    let others = image::machines()?;
    ensure!(
        others.is_empty(),
        "these are machines of another lab: {}. Clean that one first (KPOT_LAB_NAME=… KPOT_LAB_NET=… cargo lab clean), or remove them: \
         docker rm --force --volumes {}",
        others.join(", "),
        others.join(" ")
    );
    image::forget()
}

fn tell_what_stays(cache: &Cache) -> Result<()> {
    let packages = sh::apt_installed()?;
    if !packages.is_empty() {
        let names = packages.join(" ");
        sh::say(format_args!(
            "Debian packages that the lab installed stay, and their services start when this machine does: {names}; \
             remove them: apt-get purge --autoremove {names}"
        ));
    }
    sh::say(format_args!(
        "the cache {} is kept; delete it to free its space",
        cache.root().display()
    ));
    Ok(())
}
