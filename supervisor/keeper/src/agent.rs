//! PID 2: from a copy of PID 1 to the agent's program.
//!
//! It is cloned into a user namespace that knows one user and one group, so everything it holds there is worth
//! nothing outside. The namespace is owned by an id that the agent can never be, for an owner has every right in it,
//! and that no other sandbox has: what the kernel counts for each user (inotify instances, queued signals, message
//! queues, locked memory, processes) it counts for the owner too. What it must not have is then taken away in
//! this order, each step while it still has the right to take it: session and streams, limits, ids, keys, filter,
//! Landlock, capabilities, working directory. Up to the filter, whose loading takes as long as all the others, it
//! needs no root file system and works while PID 1 builds that: the host has more than one CPU. What comes after is
//! in what the filter lets every agent do.

#![expect(unsafe_code, reason = "the agent is forked")]
// UNSAFETY: `fork` wants a process of one thread, which PID 1 is.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, pipe2, setsid};
use skep_kernel::clone::{Child, Side, fork, own_pidfd};
use skep_kernel::process::{Close, Image, become_standard_streams, close_from, default_signals, limit};
use skep_kernel::seqpacket::Channel;
use skep_kernel::{SyscallError, caps, keyring, landlock, pty, seccomp};
use skep_policy::launch::{Command, Plan, Stage, Terminal};

use crate::failure::{At, Failure};
use crate::inner::Progress;

/// Where PID 2 waits for PID 1. It is opened three times: when its maps are written, when the root is built, and
/// when PID 1 has given its rights away.
#[derive(Debug)]
pub struct Gate(File);

impl Gate {
    /// Lets PID 2 pass once.
    ///
    /// # Errors
    /// EPIPE when it is gone.
    pub fn open(&self) -> Result<(), SyscallError> {
        (&self.0).write_all(b"o").map_err(|error| SyscallError::from_io("write", "gate", &error))
    }
}

/// Waits at the gate. A gate that closes means that PID 1 gave up: it tells why itself, and a failure told from
/// here could overtake its own.
fn pass(gate: &mut File, progress: &Channel) -> Result<(), Failure> {
    match gate.read_exact(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            progress.send(&Progress::GivenUp, &[]).ok();
            std::process::exit(127)
        }
        passed => {
            passed.map_err(|error| SyscallError::from_io("read", "gate", &error)).at(Stage::UserNamespace)
        }
    }
}

/// Who PID 1 is until it gives its rights away.
const ROOT: u32 = 0;

/// Clones PID 2, which waits at the gate, into a user namespace of what will be PID 1's user.
///
/// # Errors
/// When the user namespace or the process is refused. The caller may be left without root's id.
pub fn start(plan: &Plan, progress: &Channel, streams: &[OwnedFd; 3]) -> Result<(Child, Gate), Failure> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| SyscallError::from_nix("pipe2", "gate", errno))
        .at(Stage::UserNamespace)?;
    // The effective user of who makes a user namespace owns it.
    caps::act_as(plan.init.uid).at(Stage::UserNamespace)?;
    // SAFETY: PID 1 has one thread.
    match unsafe { fork(CloneFlags::CLONE_NEWUSER, None) }.at(Stage::UserNamespace)? {
        Side::Parent(child) => {
            caps::act_as(ROOT).at(Stage::UserNamespace)?;
            // Had the keeper ended meanwhile, the end of its socket would tell.
            caps::die_with_parent().at(Stage::UserNamespace)?;
            Ok((child, Gate(File::from(write))))
        }
        Side::Child => {
            drop(write);
            let failure = course(plan, progress, streams, File::from(read));
            progress.send(&Progress::Failed(failure), &[]).ok();
            std::process::exit(127)
        }
    }
}

/// Comes back only with what failed.
fn course(plan: &Plan, progress: &Channel, streams: &[OwnedFd; 3], mut gate: File) -> Failure {
    match prepare(plan, progress, streams, &mut gate) {
        Ok(image) => named(&plan.command, &image.execute()),
        Err(failure) => failure,
    }
}

/// The whole way to `execve`.
fn prepare(
    plan: &Plan,
    progress: &Channel,
    streams: &[OwnedFd; 3],
    gate: &mut File,
) -> Result<Image, Failure> {
    let image = image(&plan.command)?;
    pass(gate, progress)?;
    default_signals();
    umask(Mode::from_bits_truncate(0o022));
    session(plan.terminal, streams)?;
    limits(plan)?;
    caps::no_new_privileges().at(Stage::Credentials)?;
    caps::drop_bounding().at(Stage::Credentials)?;
    caps::become_ids(plan.agent).at(Stage::Credentials)?;
    keyring::fresh_session().at(Stage::Credentials)?;
    seccomp::load(&plan.agent_filter).at(Stage::Filter)?;
    pass(gate, progress)?;
    enter(plan)?;
    let pidfd = own_pidfd().at(Stage::Credentials)?;
    close_from(3, Close::OnExec).at(Stage::Credentials)?;
    progress.send(&Progress::Ready, &[pidfd.as_fd()]).at(Stage::Credentials)?;
    pass(gate, progress)?;
    Ok(image)
}

/// What needs the root.
fn enter(plan: &Plan) -> Result<(), Failure> {
    if let Some(rules) = &plan.landlock {
        landlock::apply(rules).at(Stage::Landlock)?;
    }
    caps::empty_sets().at(Stage::Credentials)?;
    let directory = &plan.command.directory;
    chdir(directory)
        .map_err(|errno| SyscallError::from_nix("chdir", directory.display().to_string(), errno))
        .at(Stage::Directory)
}

fn session(terminal: Terminal, streams: &[OwnedFd; 3]) -> Result<(), Failure> {
    setsid().map_err(|errno| SyscallError::from_nix("setsid", "", errno)).at(Stage::Credentials)?;
    if let Terminal::Pty { .. } = terminal {
        let [input, ..] = streams;
        pty::take_control(input.as_fd()).at(Stage::Terminal)?;
    }
    become_standard_streams(streams).at(Stage::Terminal)
}

/// `RLIMIT_CORE`, whose type differs between C libraries.
const CORE: u32 = 4;

/// The plan's limits, and whatever they say: a core of 1 byte. With 0 a piped `core_pattern` would still start
/// its helper, as root, outside.
fn limits(plan: &Plan) -> Result<(), Failure> {
    for (resource, value) in plan.rlimits.iter().filter(|(resource, _)| *resource != CORE) {
        limit(*resource, *value).at(Stage::Limits)?;
    }
    limit(CORE, 1).at(Stage::Limits)
}

/// Lays the program out before the filter is on.
fn image(command: &Command) -> Result<Image, Failure> {
    let strings = |list: &[Vec<u8>]| list.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>();
    Ok(Image::new(c_string(&command.program)?, strings(&command.argv)?, strings(&command.environment)?))
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(|error| Failure::new(Stage::Exec, format!("NUL in an argument: {error}"), Errno::EINVAL))
}

/// The failure of `execve`, by what it is about: the program, or what the program needs to run.
fn named(command: &Command, error: &SyscallError) -> Failure {
    let program = Path::new(OsStr::from_bytes(&command.program));
    let object = match Errno::from_raw(error.errno) {
        Errno::ENOENT => missing(program),
        _ => program.to_string_lossy().into_owned(),
    };
    Failure { stage: Stage::Exec, object, errno: error.errno }
}

/// What is not there when a program is said not to be. It is read as the agent, in the sandbox's view.
fn missing(program: &Path) -> String {
    let begun =
        File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(program).and_then(|file| {
            let mut begun = Vec::new();
            // As much as the kernel looks at.
            file.take(256).read_to_end(&mut begun)?;
            Ok(begun)
        });
    match begun {
        Err(error) if error.kind() == ErrorKind::NotFound => program.to_string_lossy().into_owned(),
        Ok(begun) => interpreter(&begun).unwrap_or_else(|| "its dynamic loader".to_owned()),
        Err(_) => "its interpreter".to_owned(),
    }
}

/// What the `#!` line of a script names.
fn interpreter(begun: &[u8]) -> Option<String> {
    let line = begun.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
    let name = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\0')).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_the_program_or_what_runs_it() {
        let ground = tempfile::tempdir().unwrap();
        let script = ground.path().join("script");
        assert_eq!(missing(&script), script.display().to_string());
        for (text, named) in [
            ("#!/no/such -x\n", "/no/such"),
            ("#! /no/such", "/no/such"),
            ("#!/no/such\nexit", "/no/such"),
            ("#!", ""),
            ("\x7fELF", "its dynamic loader"),
        ] {
            std::fs::write(&script, text).unwrap();
            assert_eq!(missing(&script), named, "{text:?}");
        }
    }
}
