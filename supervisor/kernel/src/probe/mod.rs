//! What this host can enforce, shown by trying.
//!
//! A layer that loads is not a layer that works: LSM programs attach and are never called on a kernel whose
//! LSM list lacks `bpf`. So each layer is put on a process of its own and seen to refuse there what it let
//! through before. The process is this program started again with [`ARGUMENT`]; its `main` begins with
//! [`child_main`]. Nothing forks.

mod attempt;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cgroup::{CgroupError, Controllers, SandboxCgroup, Tree, mount_point};
use crate::spawn::{Helper, SpawnError, Spawner};
pub use attempt::child_main;
use attempt::{Attempt, LandlockAnswer, SeccompAnswer};

/// The first argument of a program that is to run [`child_main`].
pub const ARGUMENT: &str = "--skep-probe";

/// What trying showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// It was seen to work: what it should refuse was let through before it and refused with it.
    Works,
    /// The kernel refused to set it up, with this errno.
    Refused(i32),
    /// It was set up, and refused nothing.
    Ineffective,
    /// It could not be tried, for this reason. Counts as not there.
    Untried(String),
}

impl Proof {
    /// Only what was seen to work counts.
    pub fn works(&self) -> bool {
        *self == Self::Works
    }
}

/// The facts of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The kernel's release, as `uname -r` has it.
    pub kernel: String,
    /// Names of the active LSMs in their order; `None` where neither securityfs nor the kernel (6.8) tells.
    pub lsms: Option<Vec<String>>,
    /// Landlock.
    pub landlock: Landlock,
    /// The seccomp filter.
    pub seccomp: Seccomp,
    /// Control groups.
    pub cgroup: Cgroup,
    /// User namespaces.
    pub user_namespaces: UserNamespaces,
    /// Idmapped mounts, by the directory it was tried on: file systems differ.
    pub idmapped_mounts: Vec<(PathBuf, Proof)>,
    /// `kernel.unprivileged_bpf_disabled`: 0 lets anybody load programs.
    pub unprivileged_bpf_disabled: Option<u32>,
}

/// Landlock on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// The ABI the kernel speaks; 0 is none.
    pub abi: u32,
    /// A ruleset without rules refused an open.
    pub proof: Proof,
}

/// Seccomp on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seccomp {
    /// The agent's own program refused a call.
    pub proof: Proof,
    /// Calls can be handed to a listener (5.0).
    pub listener: bool,
    /// A call that was handed out can only be interrupted by a fatal signal (5.19, WAIT_KILLABLE_RECV).
    pub wait_killable: bool,
}

/// Control groups on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// Where version 2 is mounted.
    pub mount: Option<PathBuf>,
    /// The controllers version 2 has.
    pub controllers: Controllers,
    /// A process was frozen, thawed and killed through one.
    pub proof: Proof,
}

/// User namespaces on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserNamespaces {
    /// A process without any privilege made one.
    pub proof: Proof,
    /// `user.max_user_namespaces`.
    pub most: Option<u32>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu: 1 takes the capabilities inside away, which
    /// agents with sandboxes of their own need.
    pub apparmor_restricts: Option<u32>,
}

impl Facts {
    /// Is `bpf` among the LSMs? Not knowing is no: what is not proven is not there.
    pub fn lists_bpf_lsm(&self) -> bool {
        self.lsms.as_ref().is_some_and(|names| names.iter().any(|name| name == "bpf"))
    }
}

/// Tries everything; idmapped mounts on each of `directories`. Takes some milliseconds: keep the answer.
///
/// The calling program's `main` must begin with [`child_main`]. Needs root for control groups and idmapped
/// mounts.
pub fn facts(directories: &[&Path]) -> Facts {
    let first = std::env::args_os().nth(1);
    Prober { program: program(first.as_deref()), arguments: &[ARGUMENT] }.facts(directories)
}

/// Ourselves; but what was itself started to try something starts nothing, or a `main` that goes on after
/// [`child_main`] would start itself without end. Then nothing can be tried.
fn program(first_argument: Option<&OsStr>) -> &'static Path {
    match first_argument {
        Some(argument) if argument == ARGUMENT => Path::new("/dev/null"),
        _ => Path::new("/proc/self/exe"),
    }
}

/// How long one attempt may take; only a host in trouble is slower.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the process is started in which things are tried.
struct Prober<'a> {
    program: &'a Path,
    arguments: &'a [&'a str],
}

impl Prober<'_> {
    fn facts(&self, directories: &[&Path]) -> Facts {
        let seccomp: SeccompAnswer = self.ask(&Attempt::Seccomp).unwrap_or_else(SeccompAnswer::untried);
        let landlock: LandlockAnswer = self.ask(&Attempt::Landlock).unwrap_or_else(LandlockAnswer::untried);
        let idmap = |directory: &&Path| {
            let attempt = Attempt::Idmap(directory.to_path_buf());
            (directory.to_path_buf(), self.ask(&attempt).unwrap_or_else(Proof::Untried))
        };
        Facts {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            lsms: lsms(),
            landlock: Landlock { abi: landlock.abi, proof: landlock.proof },
            seccomp: Seccomp {
                proof: seccomp.proof,
                listener: seccomp.listener,
                wait_killable: seccomp.wait_killable,
            },
            cgroup: self.cgroup(),
            user_namespaces: UserNamespaces {
                proof: self.ask(&Attempt::UserNamespace).unwrap_or_else(Proof::Untried),
                most: number("/proc/sys/user/max_user_namespaces"),
                apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            },
            idmapped_mounts: directories.iter().map(idmap).collect(),
            unprivileged_bpf_disabled: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
        }
    }

    fn start(&self) -> Result<Helper, SpawnError> {
        Spawner::start()?.helper(self.program, self.arguments, None)
    }

    /// Has a process of its own try something; the error says why there is no answer.
    fn ask<T: DeserializeOwned>(&self, attempt: &Attempt) -> Result<T, String> {
        let mut child = self.start().map_err(|error| error.to_string())?;
        let answer = answer(&child, attempt);
        // An attempt that hangs is ended; one that answered is ending.
        let killed = answer.is_err().then(|| child.child.kill());
        let ended = child.child.wait().map_err(|error| format!("waitpid: {error}"))?;
        answer.map_err(|error| match (killed, ended.signal()) {
            (None, Some(signal)) => format!("{error}, signal {signal}"),
            _ => error,
        })
    }

    fn cgroup(&self) -> Cgroup {
        clear_dead_attempts();
        let tree = match scratch_tree() {
            Ok(tree) => tree,
            Err(error) => {
                let proof = refusal(&error);
                return Cgroup { mount: mount_point().ok(), controllers: Controllers::default(), proof };
            }
        };
        let controllers = tree.available().unwrap_or_default();
        let proof = self.cgroup_life(&tree);
        let mount = tree.path().parent().map(Path::to_path_buf);
        let proof = match tree.remove_if_empty() {
            Ok(true) => proof,
            Ok(false) => Proof::Untried("the control group of the attempt stayed busy".to_owned()),
            Err(error) => refusal(&error),
        };
        Cgroup { mount, controllers, proof }
    }

    fn cgroup_life(&self, tree: &Tree) -> Proof {
        let sandbox = match tree.create("attempt") {
            Ok(sandbox) => sandbox,
            Err(error) => return refusal(&error),
        };
        let mut victim = match self.start() {
            Ok(victim) => victim,
            Err(error) => {
                // Nothing was ever in it; what cannot be removed is found busy by the caller.
                let _empty = sandbox.remove(PATIENCE);
                return Proof::Untried(error.to_string());
            }
        };
        let lived = freeze_and_kill(&sandbox, &victim);
        if lived.is_err() {
            // It waits for us: closing its channel ends it as well.
            drop(victim.channel);
        }
        let ended = victim.child.wait();
        let removed = sandbox.remove(PATIENCE);
        match (lived.and(removed), ended) {
            (Err(error), _) => refusal(&error),
            (Ok(()), Ok(status)) if status.signal() == Some(libc::SIGKILL) => Proof::Works,
            (Ok(()), _) => Proof::Ineffective,
        }
    }
}

/// How the trees of attempts are called, before the pid of who attempts and a number.
const SCRATCH: &str = "skep-probe-";

/// A tree of this attempt alone.
fn scratch_tree() -> Result<Tree, CgroupError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Tree::open(&format!("{SCRATCH}{}-{number}", std::process::id()))
}

/// Removes the trees of attempts whose process was killed. What cannot be removed harms no attempt of ours.
fn clear_dead_attempts() {
    let entries = mount_point().ok().and_then(|mount| fs::read_dir(mount).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next());
        if process.is_some_and(has_ended) {
            let _stays = clear_dead_attempt(&name);
        }
    }
}

/// A process that nobody has waited for yet has ended as well: a container's first process may take seconds to.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // The state follows the name, which is in parentheses and may contain anything.
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['Z', 'X'])))
}

/// The one that was killed may have left a victim that is frozen: it ends by force only.
fn clear_dead_attempt(name: &str) -> Result<(), CgroupError> {
    let tree = Tree::open(name)?;
    for attempt in tree.leftovers(|_nobody_is_alive| false)? {
        attempt.kill()?;
        attempt.remove(PATIENCE)?;
    }
    tree.remove_if_empty().map(drop)
}

fn freeze_and_kill(sandbox: &SandboxCgroup, victim: &Helper) -> Result<(), CgroupError> {
    sandbox.add(victim.child.id())?;
    sandbox.freeze(PATIENCE)?;
    sandbox.thaw(PATIENCE)?;
    sandbox.kill()?;
    sandbox.wait_empty(PATIENCE)
}

fn refusal(error: &CgroupError) -> Proof {
    match error {
        CgroupError::Syscall(error) => Proof::Refused(error.errno),
        other => Proof::Untried(other.to_string()),
    }
}

fn answer<T: DeserializeOwned>(child: &Helper, attempt: &Attempt) -> Result<T, String> {
    child.channel.send(attempt, &[]).map_err(|error| error.to_string())?;
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(child.channel.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => return Err("no answer in time".to_owned()),
        Ok(_) => {}
        Err(errno) => return Err(format!("poll: {errno}")),
    }
    match child.channel.receive() {
        Ok(Some((answer, _))) => Ok(answer),
        Ok(None) => Err("the attempt ended without an answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The LSM list from securityfs, where it is mounted, else from the kernel.
fn lsms() -> Option<Vec<String>> {
    match read("/sys/kernel/security/lsm") {
        Some(list) => Some(list.split(',').map(str::to_owned).collect()),
        None => attempt::list_lsms(),
    }
}

fn number(path: &str) -> Option<u32> {
    read(path)?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
