//! A program that was downloaded runs here for once, and can do nothing but answer.
//!
//! kpot starts itself again, and that process makes the sandbox from the inside before it becomes the program: a user namespace of a user who is nobody (root becomes
//! nobody first), a network namespace without a network, and a file system that holds the program, an empty routing table, and nothing of this machine; read-only, and
//! without a way back. The program has no privileges and no environment, and limits of time, memory and output. Where the kernel does not allow such a sandbox, it does not
//! run at all.
#![allow(
    clippy::disallowed_methods,
    reason = "makes a file system of its own, and starts a process that nothing else may start"
)]

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{
    Gid, Uid, chdir, getegid, geteuid, pivot_root, setgid, setgroups, sethostname, setuid,
};

/// The first argument of a kpot that is to become the program.
const INSIDE: &str = "--inside-the-sandbox";

/// How long the program may take.
const TIME: Duration = Duration::from_secs(20);

/// How much it may say on each of its outputs, in bytes.
const OUTPUT: u64 = 64 << 10;

/// How large it may be, in bytes; the largest kubeadm known has some 70 MB.
const PROGRAM: u64 = 512 << 20;

/// How much address space it may have, in bytes. Go reserves more than it uses.
const SPACE: u64 = 4 << 30;

/// Debian's and everybody's number of nobody, and of its group.
const NOBODY: u32 = 65_534;

/// A folder that every machine has, to put the sandbox's file system on; this process alone sees it there.
const PLACE: &str = "/tmp";

/// The kernel's routing table where there is no route. Kubeadm reads it, and goes on without an address.
const NO_ROUTES: &[u8] =
    b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

/// The exit code of a sandbox that could not be made.
const NOT_MADE: i32 = 125;

/// Runs the program that `program` reads, with these arguments, and gives what it printed.
///
/// # Errors
/// A text that continues "it could not be asked: ".
pub fn run(program: &mut dyn Read, arguments: &[&str]) -> Result<String, String> {
    let mut child = Command::new("/proc/self/exe")
        .arg(INSIDE)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| format!("kpot cannot start itself: {cause}"))?;
    let out = child.stdout.take().map(gather);
    let err = child.stderr.take().map(gather);
    if let Some(mut stdin) = child.stdin.take() {
        // A sandbox that could not be made does not read; what it says is what counts.
        match io::copy(program, &mut stdin) {
            Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
                end(&mut child);
                return Err(format!("the program cannot be read: {cause}"));
            }
            _ => {}
        }
    }
    let status = wait(&mut child)?;
    let said = |thread: Option<thread::JoinHandle<Vec<u8>>>| {
        thread.and_then(|it| it.join().ok()).unwrap_or_default()
    };
    let (out, err) = (said(out), said(err));
    if out.len() as u64 > OUTPUT {
        return Err(format!("it said more than {OUTPUT} bytes"));
    }
    let text = String::from_utf8_lossy(&err);
    let mut words = text
        .trim()
        .lines()
        .filter(|line| !line.contains(STACK_TRACE));
    let last = words.next_back().unwrap_or_default().to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => String::from_utf8(out).map_err(|_| "what it said is not text".to_owned()),
        (Some(NOT_MADE), _) => Err(format!("no sandbox for it: {last}")),
        (Some(code), _) => Err(format!("it ended with {code}: {last}")),
        (None, signal) => Err(format!("signal {} ended it", signal.unwrap_or_default())),
    }
}

/// What kubeadm ends every failure with, and says nothing of it.
const STACK_TRACE: &str = "To see the stack trace of this error";

/// Reads what the program says, and a byte more than it may; what is beyond makes it fail, because nobody listens.
fn gather(pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut said = Vec::new();
        // What was said until the pipe broke is all there is.
        let _ = pipe.take(OUTPUT + 1).read_to_end(&mut said);
        said
    })
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if start.elapsed() < TIME => thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                end(child);
                return Err(format!("it did not answer within {} s", TIME.as_secs()));
            }
            Err(cause) => {
                end(child);
                return Err(format!("it cannot be waited for: {cause}"));
            }
        }
    }
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// The program's arguments, if this process was started to become one.
pub fn inside(mut arguments: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    (arguments.nth(1)? == OsStr::new(INSIDE)).then(|| arguments.collect())
}

/// Makes the sandbox and becomes the program that standard input holds; comes back only where that fails, with an exit code.
pub fn enter(arguments: &[OsString]) -> u8 {
    match sandbox(arguments) {
        Ok(never) => match never {},
        Err(problem) => {
            eprintln!("{problem}");
            u8::try_from(NOT_MADE).unwrap_or(1)
        }
    }
}

fn sandbox(arguments: &[OsString]) -> Result<Infallible, String> {
    let root = geteuid().is_root();
    if root {
        step("leave root's groups", setgroups(&[]))?;
        step("leave root's group", setgid(Gid::from_raw(NOBODY)))?;
        step("become nobody", setuid(Uid::from_raw(NOBODY)))?;
        // Whoever changed its user may not even write its own files below /proc.
        step("go on as nobody", prctl::set_dumpable(true))?;
    }
    let (uid, gid) = (geteuid(), getegid());
    step(
        "leave this machine's namespaces",
        unshare(
            CloneFlags::CLONE_NEWUSER
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS,
        ),
    )?;
    step("keep groups", set("/proc/self/setgroups", "deny"))?;
    let uids = format!("{NOBODY} {uid} 1");
    step("be nobody in there", set("/proc/self/uid_map", &uids))?;
    let gids = format!("{NOBODY} {gid} 1");
    step("be in nobody's group", set("/proc/self/gid_map", &gids))?;
    own_files().map_err(|(what, cause)| format!("cannot {what}: {cause}"))?;
    // kubeadm takes it for a node's, and this machine's may be none.
    step("have a name", sethostname("sandbox"))?;
    for (resource, limit) in [
        (Resource::RLIMIT_CPU, TIME.as_secs()),
        (Resource::RLIMIT_AS, SPACE),
        (Resource::RLIMIT_NOFILE, 64),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
    ] {
        step("set limits", setrlimit(resource, limit, limit))?;
    }
    step("give up privileges", prctl::set_no_new_privs())?;
    let failed = Command::new("/program").args(arguments).env_clear().exec();
    Err(format!("it does not run here: {failed}"))
}

/// A file system with the program and nothing else, in the place of this machine's.
fn own_files() -> Result<(), (&'static str, io::Error)> {
    let none = None::<&str>;
    let mounted = |what, done: nix::Result<()>| done.map_err(|cause| (what, cause.into()));
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mounted(
        "part with this machine's mounts",
        mount(none, "/", none, private, none),
    )?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let size = Some("mode=0755,size=640m");
    mounted(
        "mount a file system in memory",
        mount(Some("none"), PLACE, Some("tmpfs"), safe, size),
    )?;
    write_files().map_err(|cause| ("put the program there", cause))?;
    let frozen = safe | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mounted("make it read-only", mount(none, PLACE, none, frozen, none))?;
    // The new root goes over the old one, which is then below it and taken away.
    mounted("go there", chdir(PLACE))?;
    mounted("make it the root", pivot_root(".", "."))?;
    mounted(
        "leave this machine's files",
        umount2(".", MntFlags::MNT_DETACH),
    )?;
    mounted("be at the root", chdir("/"))
}

fn write_files() -> io::Result<()> {
    let mut program = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(format!("{PLACE}/program"))?;
    let size = io::copy(&mut io::stdin().lock().take(PROGRAM + 1), &mut program)?;
    if size > PROGRAM {
        return Err(io::Error::other(format!(
            "it is larger than {PROGRAM} bytes"
        )));
    }
    fs::create_dir_all(format!("{PLACE}/proc/net"))?;
    File::create_new(format!("{PLACE}/proc/net/route"))?.write_all(NO_ROUTES)?;
    File::create_new(format!("{PLACE}/proc/net/ipv6_route")).map(drop)
}

fn set(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn step<E: std::fmt::Display>(what: &str, done: Result<(), E>) -> Result<(), String> {
    done.map_err(|cause| format!("cannot {what}: {cause}"))
}
