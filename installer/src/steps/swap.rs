//! Swap is off, now and after a reboot.
//!
//! What brings swap back is /etc/fstab, systemd's own swap units (written by hand, found on the disk by a generator, or made for zram), and the services of zram and
//! swap-file packages. Lines of fstab are commented out with a mark, units and services are masked. A unit that was written by hand lies where its mask would, so it is disabled, or,
//! where it cannot be, moved into the backup. Nothing else is deleted: swap files and partitions stay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{combine, unit};
use crate::host::HostView;
use crate::host::command::Cmd;
use crate::host::probe::Probe;
use crate::host::{Facts, Host};
use crate::journal::Change;
use crate::step::{State, Step, View, World};

/// What stands before a line of fstab that was taken out.
pub(crate) const MARK: &str = "# kpot-install took this out: ";

pub(crate) const FSTAB: &str = "/etc/fstab";

/// Where people's own units lie, and masks.
const UNITS: &str = "/etc/systemd/system";

/// Reading a few gigabytes back from a slow disk.
const SWAPOFF_LIMIT: Duration = Duration::from_mins(20);

/// See the module.
#[derive(Debug, Default)]
pub struct SwapOff;

impl SwapOff {
    /// No swap.
    pub fn new() -> Self {
        Self
    }
}

impl Step for SwapOff {
    fn id(&self) -> &'static str {
        "swap-off"
    }

    fn summary(&self) -> String {
        "swap is off, now and after a reboot".to_owned()
    }

    fn check(&self, view: View<'_>) -> Result<State> {
        let mut states = Vec::new();
        let areas = areas(view.host)?;
        if !areas.is_empty() {
            states.push(State::Pending(format!("in use: {}", areas.join(", "))));
        }
        let lines = fstab(view.host)?
            .lines()
            .filter(|line| is_swap(line))
            .count();
        if lines > 0 {
            states.push(State::Pending(format!("{lines} line(s) in {FSTAB}")));
        }
        let units = units(view.host)?;
        if !units.is_empty() {
            states.push(State::Pending(format!(
                "systemd would bring it back: {}",
                units.join(", ")
            )));
        }
        Ok(combine(states))
    }

    fn apply(&self, world: World<'_>) -> Result<()> {
        let host = world.host;
        for area in areas(host.view())? {
            let cmd = Cmd::new("swapoff", [area.as_str()]).timeout(SWAPOFF_LIMIT);
            host.run(&cmd, Change::Swap { area })?;
        }
        clean_fstab(host)?;
        // The units that systemd made from those lines go away now, and only the others are left to be masked.
        unit::reload(host)?;
        for name in units(host.view())? {
            // Stopped as well: a service that is still running would hold its device.
            if unit::look(host.view(), &name)?.active == "active" {
                unit::change(host, "stop", &name)?;
            }
            settle(host, &name)?;
        }
        // A unit that systemd had started may have come back between the first look and its mask.
        for area in areas(host.view())? {
            let cmd = Cmd::new("swapoff", [area.as_str()]).timeout(SWAPOFF_LIMIT);
            host.run(&cmd, Change::Swap { area })?;
        }
        Ok(())
    }
}

/// Keeps a unit from being started at boot.
fn settle(host: &Host<'_>, name: &str) -> Result<()> {
    let path = format!("{UNITS}/{name}");
    if !host.view().exists(&path)? {
        return unit::change(host, "mask", name);
    }
    // systemctl makes no mask in the place of a file, nor of a link to one elsewhere.
    unit::change(host, "disable", name)?;
    if units(host.view())?.iter().any(|left| left == name) {
        // It has no [Install] section, and is started by what it belongs to.
        host.remove_file(&path)?;
        unit::reload(host)?;
    }
    Ok(())
}

/// The swap areas in use: devices and files.
pub(crate) fn areas(host: &HostView) -> Result<Vec<String>> {
    Ok(host
        .text("/proc/swaps")?
        .unwrap_or_default()
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(unescape)
        .collect())
}

/// The kernel writes blanks in names as three octal digits.
pub(crate) fn unescape(name: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .into_iter()
        .fold(name.to_owned(), |name, pair| {
            let (escape, letter) = pair.split_at(4);
            name.replace(escape, letter)
        })
}

fn fstab(host: &HostView) -> Result<String> {
    Ok(host.text(FSTAB)?.unwrap_or_default())
}

fn is_swap(line: &str) -> bool {
    let mut fields = line.split_whitespace();
    let device = fields.next().unwrap_or("#");
    !device.starts_with('#') && fields.nth(1) == Some("swap")
}

fn clean_fstab(host: &Host<'_>) -> Result<()> {
    let text = fstab(host.view())?;
    if !text.lines().any(is_swap) {
        return Ok(());
    }
    let mode = host
        .view()
        .facts(FSTAB)?
        .map_or(0o644, |Facts { mode, .. }| mode);
    let cleaned: String = text
        .split_inclusive('\n')
        .map(|line| {
            if is_swap(line) {
                format!("{MARK}{line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    host.write_file(FSTAB, cleaned.as_bytes(), mode)
}

/// The units that would switch swap on at the next boot.
fn units(host: &HostView) -> Result<Vec<String>> {
    let answer = host
        .probe(&Probe::swap_units())
        .context("cannot ask systemd for its swap units")?;
    // Where nothing matches, some versions of systemd exit with 1 and say nothing.
    ensure!(
        answer.ok() || answer.evidence().is_empty(),
        "systemd does not list its swap units: {}",
        answer.evidence()
    );
    Ok(answer
        .text()
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(name, state)| {
            // A swap unit without an [Install] section is "static" and is started by what it belongs to; a service in that state by nobody.
            let is_unit = std::path::Path::new(name)
                .extension()
                .is_some_and(|kind| kind == "swap");
            match *state {
                "enabled" | "enabled-runtime" | "linked" | "linked-runtime" => true,
                "static" | "generated" => is_unit,
                _ => false,
            }
        })
        .map(|(name, _)| name.to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Machine, on_disk, systemd, units};
    use super::*;
    use crate::host::command::Output;
    use crate::host::scripted::Scripted;
    use crate::journal::Before;

    const HEADER: &str = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n";

    const FSTAB_TEXT: &str = "# a comment about swap\nUUID=1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n/swap.img\tnone\tswap\tsw\t0\t0\n";

    /// A swapoff that switches off what it is told.
    fn swapoff(machine: &Machine, script: Scripted) -> Scripted {
        let swaps = machine.place("/proc/swaps");
        script.with(move |cmd, _| {
            if cmd.program != "swapoff" {
                return None;
            }
            let escaped = cmd.args[0].replace(' ', "\\040");
            #[allow(clippy::disallowed_methods, reason = "the test's own file")]
            let text = std::fs::read_to_string(&swaps).ok()?;
            let rest: String = text
                .lines()
                .filter(|line| !line.starts_with(&escaped))
                .flat_map(|line| [line, "\n"])
                .collect();
            #[allow(clippy::disallowed_methods, reason = "the test's own file")]
            std::fs::write(&swaps, rest).ok()?;
            Some(Output::default())
        })
    }

    #[test]
    fn swap_goes_off_and_stays_off() {
        let machine = Machine::new();
        machine
            .file(
                "/proc/swaps",
                format!("{HEADER}/dev/sda2 partition 1 0 -2\n/my\\040swap file 1 0 -3\n"),
            )
            .file("/etc/fstab", FSTAB_TEXT);
        let known = units(&[
            ("dev-zram0.swap", "active", "generated"),
            ("zramswap.service", "active", "enabled"),
            ("dphys-swapfile.service", "inactive", "disabled"),
            ("old.swap", "inactive", "masked"),
        ]);
        let script = swapoff(&machine, on_disk(&machine, Scripted::new(), &known));
        let (before, after) = machine.ensure(&SwapOff, script).unwrap();
        assert_eq!(
            before,
            State::Pending("in use: /dev/sda2, /my swap; 2 line(s) in /etc/fstab; systemd would bring it back: dev-zram0.swap, zramswap.service".to_owned())
        );
        assert_eq!(after, State::Satisfied);
        let fstab = machine.text("/etc/fstab").unwrap();
        assert!(
            fstab.contains(&format!(
                "\n{MARK}/dev/sda2 none swap sw 0 0\n{MARK}/swap.img\t"
            )),
            "{fstab}"
        );
        assert!(fstab.starts_with("# a comment about swap\nUUID=1 / ext4 defaults 0 1\n"));
        let known = known.lock().unwrap();
        assert_eq!(
            known["zramswap.service"],
            ("inactive".to_owned(), "masked".to_owned())
        );
        assert_eq!(known["dphys-swapfile.service"].1, "disabled");
        let areas: Vec<Change> = machine
            .journal()
            .into_iter()
            .filter(|change| matches!(change, Change::Swap { .. }))
            .collect();
        let area = |area: &str| Change::Swap {
            area: area.to_owned(),
        };
        assert_eq!(areas, [area("/dev/sda2"), area("/my swap")]);
    }

    #[test]
    fn a_unit_that_somebody_wrote_is_disabled_or_moved_away() {
        let machine = Machine::new();
        let (enabled, fixed) = ("mnt-swapfile.swap", "srv-swap.swap");
        let path = |name: &str| format!("/etc/systemd/system/{name}");
        machine
            .file("/proc/swaps", HEADER)
            .file(
                &path(enabled),
                "[Swap]\nWhat=/mnt/swapfile\n[Install]\nWantedBy=swap.target\n",
            )
            .file(&path(fixed), "[Swap]\nWhat=/srv/swap\n");
        let known = units(&[
            (enabled, "active", "enabled"),
            (fixed, "inactive", "static"),
        ]);
        let (before, after) = machine
            .ensure(&SwapOff, on_disk(&machine, Scripted::new(), &known))
            .unwrap();
        assert_eq!(
            before,
            State::Pending(format!("systemd would bring it back: {enabled}, {fixed}"))
        );
        assert_eq!(after, State::Satisfied);
        let left = known.lock().unwrap().clone();
        assert_eq!(
            left[enabled],
            ("inactive".to_owned(), "disabled".to_owned())
        );
        assert!(!left.contains_key(fixed) && machine.text(&path(fixed)).is_none());
        assert!(
            machine.text(&path(enabled)).is_some(),
            "a file stays that does no harm"
        );
        assert!(
            machine.journal().iter().any(|change| matches!(change, Change::File { path: file, before: Before::File { .. } } if *file == path(fixed))),
            "a rollback puts it back"
        );
    }

    #[test]
    fn a_machine_without_swap_is_left_alone() {
        let machine = Machine::new();
        machine.file("/proc/swaps", HEADER).file(
            "/etc/fstab",
            format!("UUID=1 / ext4 defaults 0 1\n{MARK}/dev/sda2 none swap sw 0 0\n"),
        );
        let script = systemd(Scripted::new(), &units(&[]));
        assert_eq!(machine.check(&SwapOff, script), State::Satisfied);
        // Some versions of systemd say by their exit status that nothing matched.
        let script = Scripted::new().on("systemctl list-unit-files", 1, "");
        assert_eq!(machine.check(&SwapOff, script), State::Satisfied);
    }

    #[test]
    fn a_swapoff_that_fails_ends_the_step_before_anything_else() {
        let machine = Machine::new();
        machine
            .file(
                "/proc/swaps",
                format!("{HEADER}/dev/sda2 partition 1 0 -2\n"),
            )
            .file("/etc/fstab", FSTAB_TEXT);
        let script = systemd(Scripted::new(), &units(&[])).on(
            "swapoff",
            4,
            "swapoff: /dev/sda2: swapoff failed: Cannot allocate memory",
        );
        let error = machine.ensure(&SwapOff, script).unwrap_err();
        assert!(format!("{error:#}").contains("Cannot allocate memory"));
        assert_eq!(machine.text("/etc/fstab").unwrap(), FSTAB_TEXT);
    }
}
