//! What the lab changes on the machine that it runs on, and how that is put back.
//!
//! Nodes in containers share this machine's kernel: its swap, and every sysctl that has no namespace. kubelets and the
//! product under test set some of them, from inside a node. So before the first node starts, the values are recorded in
//! the cache, once; [`restore`] writes back those that differ and forgets the record. Docker, where the lab had to start
//! it, is stopped again, and its firewall rules go with it; while somebody else's containers run in it, it stays. Installed
//! packages stay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::sh::{self, Sh, step};
use crate::wait;

/// Sysctls without a namespace that a kubelet, kube-proxy, Docker or a Kubernetes node's set-up writes. Folders stand for
/// all that is below them; what this kernel does not have is skipped.
const SYSCTLS: &[&str] = &[
    "fs/file-max",
    "fs/inotify",
    "fs/may_detach_mounts",
    "kernel/keys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/pid_max",
    "net/bridge",
    "net/core",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_mem",
    "net/netfilter/nf_conntrack_max",
    "vm/dirty_background_ratio",
    "vm/dirty_ratio",
    "vm/max_map_count",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "vm/swappiness",
];

/// systemd, dockerd and kubelet of four nodes watch more files than the kernel's 128 instances for one user allow.
const INOTIFY_INSTANCES: (&str, u64) = ("fs/inotify/max_user_instances", 4096);

/// Docker writes rules into both.
const FIREWALLS: [&str; 2] = ["iptables", "ip6tables"];

/// Where dockerd and its containerd keep their process IDs.
const PID_FILES: [(&str, &str); 2] = [
    ("/run/docker.pid", "dockerd"),
    ("/run/docker/containerd/containerd.pid", "containerd"),
];

/// How long dockerd may take until it answers, or until it has ended.
const DOCKERD_PATIENCE: Duration = Duration::from_mins(1);

/// The record in the cache.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Path below /proc/sys to value.
    sysctls: BTreeMap<String, String>,
    /// Swap areas that were in use, as /proc/swaps names them.
    swaps: Vec<String>,
    /// Their priorities, where somebody gave them one; the kernel's own ones are below 0.
    #[serde(default)]
    swap_priorities: BTreeMap<String, i32>,
    /// The Docker that the lab started.
    docker: Option<StartedDocker>,
    /// Whether containerd's service came with it, and did not run before.
    #[serde(default)]
    started_containerd: bool,
    /// What each firewall did with packets to be forwarded before that Docker came: `iptables` to `ACCEPT`.
    forward_policy: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartedDocker {
    /// As a service, by systemd.
    Service,
    /// By hand; this is its process.
    Process(u32),
}

/// The cgroup version of this machine, which its containers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroup {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

impl Cgroup {
    /// Looks at what is mounted here.
    pub fn here() -> Self {
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            Self::V2
        } else {
            Self::V1
        }
    }
}

/// Makes this machine ready for nodes: Docker answers, swap is off, and what was before is recorded.
pub fn prepare(cache: &Cache) -> Result<()> {
    let mut record = load(cache)?;
    if record.sysctls.is_empty() {
        record.sysctls = sysctls()?;
        save(cache, &record)?;
    }
    swap_off(cache, &mut record)?;
    let (name, wanted) = INOTIFY_INSTANCES;
    let path = Path::new("/proc/sys").join(name);
    if sh::read_text(&path)?.trim().parse::<u64>()? < wanted {
        sh::say(format_args!("setting {name} to {wanted} (recorded)"));
        write_sysctl(&path, &wanted.to_string())?;
    }
    start_docker(cache, &mut record)
}

/// Puts back what [`prepare`] and the nodes changed. Nodes must be gone. Does as much as it can and then fails with
/// everything that went wrong.
pub fn restore(cache: &Cache) -> Result<()> {
    let record = load(cache)?;
    let mut failures = Vec::new();
    let mut attempt = |what: Result<()>| {
        if let Err(err) = what {
            failures.push(format!("{err:#}"));
        }
    };
    if let Some(docker) = &record.docker {
        attempt(step("stopping Docker", || stop_docker(docker, &record)));
    }
    for (name, before) in &record.sysctls {
        let path = Path::new("/proc/sys").join(name);
        let Ok(now) = sh::read_text(&path) else {
            continue;
        };
        if now.trim() != before {
            sh::say(format_args!("{name}: {} back to {before}", now.trim()));
            attempt(write_sysctl(&path, before));
        }
    }
    let in_use = swaps()?;
    let is_in_use = |area: &str| in_use.iter().any(|(name, _)| name == area);
    for area in record.swaps.iter().filter(|area| !is_in_use(area)) {
        sh::say(format_args!("swap on {area} again"));
        let priority = record.swap_priorities.get(area);
        let priority = priority.map(|priority| format!("--priority={priority}"));
        attempt(Sh::new("swapon").args(priority).arg(area).run());
    }
    ensure!(
        failures.is_empty(),
        "not everything is as it was; the record {} is kept:\n{}",
        cache.machine_record().display(),
        failures.join("\n")
    );
    sh::remove(&cache.machine_record())
}

fn load(cache: &Cache) -> Result<Record> {
    let path = cache.machine_record();
    if !path.exists() {
        return Ok(Record::default());
    }
    serde_json::from_str(&sh::read_text(&path)?)
        .with_context(|| format!("reading {}", path.display()))
}

fn save(cache: &Cache, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).context("encoding the record of this machine")?;
    sh::write_atomic(&cache.machine_record(), &text, 0o644)
}

fn sysctls() -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for name in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        let names = if path.is_dir() {
            sh::names_in(&path)?
                .into_iter()
                .map(|leaf| format!("{name}/{leaf}"))
                .collect()
        } else {
            vec![(*name).to_owned()]
        };
        for name in names {
            // Write-only and conditional ones cannot be read, so they cannot be put back either.
            if let Ok(value) = sh::read_text(&Path::new("/proc/sys").join(&name)) {
                values.insert(name, value.trim().to_owned());
            }
        }
    }
    Ok(values)
}

fn write_sysctl(path: &Path, value: &str) -> Result<()> {
    use std::io::Write as _;
    // A new file in /proc cannot be renamed into place.
    let mut file = sh::create(path)?;
    file.write_all(value.as_bytes())
        .with_context(|| format!("writing {value:?} to {}", path.display()))
}

fn swaps() -> Result<Vec<(String, i32)>> {
    Ok(parse_swaps(&sh::read_text(Path::new("/proc/swaps"))?))
}

/// The first column below the heading and the last one, the priority. The kernel writes spaces in names as `\040`, which
/// swapon(8) does not undo; such an area cannot be named and is refused by swapoff, with its name.
fn parse_swaps(table: &str) -> Vec<(String, i32)> {
    let area = |line: &str| {
        let mut columns = line.split_whitespace();
        let name = columns.next()?.to_owned();
        Some((name, columns.last()?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(area).collect()
}

fn swap_off(cache: &Cache, record: &mut Record) -> Result<()> {
    for (area, priority) in swaps()? {
        if !record.swaps.contains(&area) {
            record.swaps.push(area.clone());
            if priority >= 0 {
                record.swap_priorities.insert(area.clone(), priority);
            }
            save(cache, record)?;
        }
        sh::say(format_args!(
            "swap off on {area}: nodes in containers share it, and a kubelet refuses swap (recorded)"
        ));
        Sh::new("swapoff").arg(&area).run()?;
    }
    Ok(())
}

/// Whether a Docker answers. One that the lab started is started again where it is down, after a restart of this machine
/// say: what the lab made in it could not be removed otherwise.
///
/// # Errors
/// Where the lab used a Docker of this machine's own, and that is down.
pub fn docker_to_clean(cache: &Cache) -> Result<bool> {
    if docker_answers() {
        return Ok(true);
    }
    if !cache.machine_record().exists() || !sh::on_path("docker") {
        return Ok(false);
    }
    let mut record = load(cache)?;
    ensure!(
        record.docker.is_some(),
        "Docker does not answer, so what the lab made in it cannot be removed: start it, then type this again"
    );
    start_docker(cache, &mut record)?;
    Ok(true)
}

fn docker_answers() -> bool {
    Sh::new("docker")
        .args(["info", "--format", "{{.ServerVersion}}"])
        .outcome()
        .is_ok_and(|outcome| outcome.ok())
}

fn start_docker(cache: &Cache, record: &mut Record) -> Result<()> {
    if docker_answers() {
        return Ok(());
    }
    step("starting Docker (recorded)", || {
        for tool in FIREWALLS {
            let rules = Sh::new(format!("{tool}-save")).output()?;
            record
                .forward_policy
                // What was before the lab, not before this start: Docker changes it.
                .entry(tool.to_owned())
                .or_insert_with(|| forward_policy(&rules).to_owned());
        }
        let mut daemon = None;
        if Path::new("/run/systemd/system").is_dir() {
            let containerd_runs = Sh::new("systemctl")
                .args(["is-active", "--quiet", "containerd.service"])
                .outcome()?
                .ok();
            // One that the lab started may still run where Docker stopped since.
            record.started_containerd |= !containerd_runs;
            record.docker = Some(StartedDocker::Service);
            save(cache, record)?;
            Sh::new("systemctl").args(["start", "docker"]).run()?;
        } else {
            for (file, program) in PID_FILES {
                forget_dead(Path::new(file), program)?;
            }
            // A session of its own, so that the end of this terminal is not the end of the nodes.
            let started = Sh::new("setsid")
                .args(["dockerd", "--log-level", "warn"])
                .log("dockerd.log")
                .spawn()?;
            let pid = started.pid().context("dockerd has no process ID")?;
            record.docker = Some(StartedDocker::Process(pid));
            save(cache, record)?;
            daemon = Some(started);
        }
        wait::until("Docker answers", DOCKERD_PATIENCE, || {
            if let Some(daemon) = &mut daemon {
                daemon.still_runs()?;
            }
            Ok((!docker_answers()).then(|| "no answer to `docker info`".to_owned()))
        })?;
        if let Some(daemon) = daemon {
            daemon.detach();
        }
        Ok(())
    })
}

/// Removes a process ID file that a killed program left: dockerd takes whatever process has that ID by now for itself, or for its containerd, and does not start.
fn forget_dead(file: &Path, program: &str) -> Result<()> {
    let Ok(pid) = sh::read_text(file) else {
        return Ok(());
    };
    let comm = PathBuf::from(format!("/proc/{}/comm", pid.trim()));
    if sh::read_text(&comm).is_ok_and(|name| name.trim() == program) {
        return Ok(());
    }
    sh::remove(file)
}

fn stop_docker(docker: &StartedDocker, record: &Record) -> Result<()> {
    // A process ID may be somebody else's by now, after a restart of the machine.
    let runs = match docker {
        StartedDocker::Service => docker_answers(),
        StartedDocker::Process(pid) => {
            sh::read_text(&process(*pid).join("comm")).is_ok_and(|name| name.trim() == "dockerd")
        }
    };
    if runs {
        let others = Sh::new("docker")
            .args(["ps", "--format", "{{.Names}}"])
            .output()?;
        ensure!(
            others.is_empty(),
            "containers that are not the lab's run in the Docker that the lab started; stop them first: {}",
            others.replace('\n', ", ")
        );
    }
    match docker {
        StartedDocker::Service => {
            let units = ["docker.service", "docker.socket"];
            let containerd = record.started_containerd.then_some("containerd.service");
            Sh::new("systemctl")
                .arg("stop")
                .args(units.into_iter().chain(containerd))
                .run()?;
        }
        StartedDocker::Process(pid) if runs => {
            Sh::new("kill").arg(pid.to_string()).run()?;
            wait::until("dockerd ends", DOCKERD_PATIENCE, || {
                let is_there = process(*pid).exists();
                Ok(is_there.then(|| format!("process {pid} is there")))
            })?;
        }
        StartedDocker::Process(_) => {}
    }
    for tool in FIREWALLS {
        let rules = Sh::new(format!("{tool}-save")).output()?;
        let policy = record
            .forward_policy
            .get(tool)
            .map_or("ACCEPT", String::as_str);
        if let Some(without) = without_docker(&rules, policy) {
            Sh::new(format!("{tool}-restore")).stdin(without).run()?;
        }
    }
    if Path::new("/sys/class/net/docker0").exists() {
        Sh::new("ip").args(["link", "delete", "docker0"]).run()?;
    }
    Ok(())
}

fn process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// `DROP` or `ACCEPT`, from a saved set of rules; a filter table that was never used accepts.
fn forward_policy(rules: &str) -> &str {
    let chain = rules
        .lines()
        .find_map(|line| line.strip_prefix(":FORWARD "));
    chain
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("ACCEPT")
}

/// A saved set of rules without Docker's chains and rules, and with the policy of before for packets to be forwarded,
/// which dockerd sets to drop; `None` where Docker left nothing.
fn without_docker(rules: &str, forward: &str) -> Option<String> {
    if !rules.contains("DOCKER") {
        return None;
    }
    let mut table = "";
    let mut text = String::new();
    for line in rules
        .lines()
        .filter(|line| !line.contains("DOCKER") && !line.contains("docker0"))
    {
        if line.starts_with('*') {
            table = line;
        }
        if table == "*filter" && line.starts_with(":FORWARD ") {
            text.push_str(&line.replace("DROP", forward));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_areas_have_names_and_priorities() {
        let table = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/zram0                              partition\t1048572\t\t0\t\t100\n\
                     /swap\\040file                           file\t\t524284\t\t0\t\t-2\n";
        let area = |name: &str, priority| (name.to_owned(), priority);
        assert_eq!(
            parse_swaps(table),
            [area("/dev/zram0", 100), area("/swap\\040file", -2)]
        );
        assert!(parse_swaps("Filename\tType\n").is_empty());
    }

    #[test]
    fn a_record_of_an_older_lab_is_read() {
        let old = r#"{"sysctls":{"vm/swappiness":"60"},"swaps":["/dev/sda2"],"docker":{"process":7},"forward_policy":{}}"#;
        let record: Record =
            serde_json::from_str(old).expect("the fields that came later have defaults");
        assert!(record.swap_priorities.is_empty() && !record.started_containerd);
    }

    #[test]
    fn dockers_rules_go_and_others_stay() {
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n\
                     -A INPUT -p tcp --dport 22 -j ACCEPT\n-A FORWARD -j DOCKER-USER\n\
                     -A FORWARD -i docker0 -o docker0 -j ACCEPT\nCOMMIT\n";
        assert_eq!(
            without_docker(rules, forward_policy("")).as_deref(),
            Some(
                "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n\
                 -A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT\n"
            )
        );
        assert_eq!(
            without_docker("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", "ACCEPT"),
            None
        );
        assert_eq!(forward_policy(rules), "DROP");
    }
}
