//! Running a program to its end, or to a deadline.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, with undecodable bytes replaced.
    pub stdout: String,
    /// Its standard error, with undecodable bytes replaced.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// The exit code as a shell would give it: 128 + n for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// Runs a command with empty input. Output goes to files, so that a process left behind with an open descriptor
/// cannot keep the test waiting, and a full pipe cannot stop the program.
///
/// # Errors
/// It cannot be started, or is not done by the deadline; then it and all its descendants are killed.
pub fn run(command: &mut Command, deadline: Duration) -> anyhow::Result<Finished> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let status = wait(&mut child, deadline)?;
    let mut finished = |status| -> anyhow::Result<Finished> {
        Ok(Finished { status, stdout: text(&mut stdout)?, stderr: text(&mut stderr)?, took: begun.elapsed() })
    };
    match status {
        Some(status) => finished(status),
        None => {
            kill_tree(child.id())?;
            let finished = finished(child.wait().context("wait")?)?;
            bail!("{command:?} was killed after {deadline:?}:\n{}\n{}", finished.stdout, finished.stderr);
        }
    }
}

/// Waits with a growing pause, short enough for what is measured by it. `None` when it runs at the deadline.
///
/// # Errors
/// It is not our child.
pub fn wait(child: &mut Child, deadline: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(250);
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

fn text(file: &mut File) -> anyhow::Result<String> {
    std::io::Seek::rewind(file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A program that is ended with its test, and all it has started.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that is gone already is what this is for.
        let _ = kill_tree(self.0.id());
        let _ = self.0.wait();
    }
}

/// Waits until something is so, looking every few milliseconds.
///
/// # Errors
/// It is not so by the deadline, or looking failed.
pub fn until(deadline: Duration, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    while !is_so()? {
        if Instant::now() >= end {
            bail!("waited for it {deadline:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Kills a process and everything that descends from it, by process id.
///
/// # Errors
/// `/proc` cannot be read, or a process of ours cannot be killed.
pub fn kill_tree(root: u32) -> anyhow::Result<()> {
    descendants(root)?.into_iter().chain([root]).try_for_each(kill_one)
}

/// Sends a signal by its short name.
///
/// # Errors
/// There is no such signal, or no such process.
pub fn send(process: u32, signal: &str) -> anyhow::Result<()> {
    let signal: Signal = format!("SIG{signal}").parse().with_context(|| format!("signal {signal}"))?;
    kill(Pid::from_raw(i32::try_from(process)?), signal).with_context(|| format!("signal {process}"))
}

/// Kills one process.
///
/// # Errors
/// It is not ours to kill.
pub fn kill_one(process: u32) -> anyhow::Result<()> {
    match kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGKILL) {
        // It ended in between.
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => bail!("kill({process}) failed: {error}"),
    }
}

/// All descendants of a process, nearest first.
///
/// # Errors
/// `/proc` cannot be read.
pub fn descendants(root: u32) -> anyhow::Result<Vec<u32>> {
    let parents = parents()?;
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&process) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == process).map(|(child, _)| *child));
        at += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Every process with its parent.
fn parents() -> anyhow::Result<Vec<(u32, u32)>> {
    Ok(ids()?.into_iter().filter_map(|id| Some((id, parent(id)?))).collect())
}

/// Every process.
///
/// # Errors
/// `/proc` cannot be read.
pub fn ids() -> anyhow::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").context("read /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The parent from `/proc/ID/stat`; the name before it is in parentheses and may contain anything.
fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The name of a process, as the kernel has it: 15 bytes.
#[must_use]
pub fn name(id: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{id}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// Processes that carry a mark in their environment or have it in their working directory.
///
/// # Errors
/// `/proc` cannot be read.
pub fn marked(mark: &str) -> anyhow::Result<Vec<u32>> {
    let own = std::process::id();
    Ok(ids()?.into_iter().filter(|id| *id != own && is_marked(*id, mark)).collect())
}

/// Asks every [`marked`] skepd to end and waits until it has.
///
/// # Errors
/// `/proc` cannot be read, or a process of ours cannot be signalled.
pub fn end_daemons(mark: &str, deadline: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    let running =
        || marked(mark).map(|found| found.into_iter().filter(|id| name(*id).is_some_and(|n| n == "skepd")));
    for daemon in running()? {
        // It may end in between.
        let _gone = send(daemon, "TERM");
    }
    while Instant::now() < end && running()?.next().is_some() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Kills every [`marked`] process, by its id.
///
/// # Errors
/// `/proc` cannot be read, or a process of ours cannot be killed.
pub fn kill_marked(mark: &str) -> anyhow::Result<()> {
    marked(mark)?.into_iter().try_for_each(kill_one)
}

fn is_marked(id: u32, mark: &str) -> bool {
    let process = Path::new("/proc").join(id.to_string());
    let environment = std::fs::read(process.join("environ")).unwrap_or_default();
    let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
    directory.to_string_lossy().contains(mark)
        || environment.windows(mark.len()).any(|window| window == mark.as_bytes())
}
