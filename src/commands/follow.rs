//! A build that follows a lock: what differs from it is refused, before anything is fetched as far as that can be told by then.
//!
//! What gets into a pot is held to the lock whenever there is one. What else makes other bytes (this kpot, its installer, how it compresses) is told, and what the
//! servers have by now does not matter, because images are asked for by digest; `--locked` refuses both.

use std::fmt::Write as _;

use anyhow::anyhow;

use super::prepare::{Desk, Planned};
use crate::lock::{Differences, Lock};
use crate::order::Order;
use crate::survey::survey;

/// The plans for what the lock pins.
///
/// # Errors
/// All differences that were found, by name.
pub(super) fn plans(desk: &Desk, lock: &Lock, strictly: bool) -> anyhow::Result<Planned> {
    let Desk {
        order, progress, ..
    } = desk;
    progress.line(&format!("the lock is {}", order.lock.display()));
    let own = lock.own(&order.arches, order.style(Some(lock)));
    let wanted = order.kubernetes.to_string();
    let mut differences = lock.of_order(&wanted, &order.arches);
    if strictly {
        differences.append(own);
    } else {
        for difference in &own.0 {
            progress.line(&format!(
                "warning: {difference}; the pot will have other bytes than the lock's other pots"
            ));
        }
    }
    refuse(order, &differences)?;

    let mut planned = desk.plans(Some(lock.kubernetes.version))?;
    for (plan, target) in &mut planned.plans {
        *target = lock.target(plan.arch).cloned();
        if let Some(target) = target {
            differences.append(target.of_plan(plan));
        }
    }
    refuse(&desk.order, &differences)?;
    for (plan, target) in &mut planned.plans {
        let Some(target) = target else { continue };
        if strictly {
            let survey = survey(plan, &desk.client, &desk.stop, &desk.progress)?;
            differences.append(target.of_survey(plan, &survey));
        }
        target.pin(plan);
    }
    refuse(&desk.order, &differences)?;
    Ok(planned)
}

fn refuse(order: &Order, differences: &Differences) -> anyhow::Result<()> {
    if differences.0.is_empty() {
        return Ok(());
    }
    let mut told = format!("{} says otherwise:\n", order.lock.display());
    for difference in &differences.0 {
        // Writing to a String cannot fail.
        let _ = writeln!(told, "  {difference}");
    }
    Err(anyhow!(
        "{told}Nothing was written. To pin what is asked for now: kpot lock; one thing anew: kpot lock --update NAME; to build without the lock: kpot build --no-lock"
    ))
}
