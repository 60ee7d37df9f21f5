//! What a run may leave behind on the host: taken before, taken after, compared.
//!
//! It sees the whole machine, so a test that uses it runs in a test binary of its own, alone. What other tests on
//! the machine hold meanwhile is left out as far as it can be told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use sha2::{Digest, Sha256};

use crate::foreign::Foreign;
use crate::ground::Ground;
use crate::process;

/// Namespaces by kind, as the links in `/proc/ID/ns` are called.
const NAMESPACES: [&str; 7] = ["mnt", "pid_for_children", "net", "ipc", "uts", "cgroup", "user"];

/// One look at the host. Every entry is a line that names the thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at processes of ours, mounts, namespaces, cgroups, BPF objects, and at files below `directories`.
    ///
    /// # Errors
    /// Something cannot be read: a blind snapshot would compare equal.
    pub fn take(ground: &Ground, directories: &[PathBuf]) -> anyhow::Result<Self> {
        let foreign = Foreign::beside(ground.mark())?;
        let mut lines = BTreeSet::new();
        lines.extend(processes(&foreign)?);
        lines.extend(namespaces(&foreign)?);
        lines.extend(mounts()?);
        let tree = tree_name(ground);
        let ours = |path: &String| path.contains(&tree) || path.contains("skep-probe-");
        let cgroups = cgroups(Path::new("/sys/fs/cgroup")).into_iter().filter(ours);
        lines.extend(counted(cgroups.map(|path| format!("cgroup {}", without_id(&path)))));
        lines.extend(bpf_objects(&foreign)?);
        lines.extend(directories.iter().flat_map(|directory| files(directory)));
        Ok(Self(lines))
    }

    /// What is there now and was not then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Waits until nothing is left of what was not there before. The kernel frees some of it later: BPF objects
    /// after a grace period, network namespaces in a work queue. What was gone at one look is not left behind,
    /// whatever other tests have brought since.
    ///
    /// # Errors
    /// What is still there at the deadline.
    pub fn await_return(
        &self,
        ground: &Ground,
        directories: &[PathBuf],
        deadline: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        let mut left = Self::take(ground, directories)?.since(self);
        loop {
            if left.is_empty() {
                return Ok(());
            }
            let now = Self::take(ground, directories)?;
            left.retain(|line| now.0.contains(line));
            anyhow::ensure!(
                Instant::now() < end,
                "left behind after {deadline:?}:\n{}\nwhat runs with a name or in a cgroup of ours:\n{}",
                left.join("\n"),
                running()?.join("\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Open descriptors of a process, by what they are: to compare a daemon with itself.
///
/// # Errors
/// The process is gone.
pub fn descriptors(process: u32) -> anyhow::Result<Vec<String>> {
    let directory = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&directory).with_context(|| format!("read {directory}"))?;
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut targets: Vec<_> = targets.map(|target| target.display().to_string()).collect();
    targets.sort();
    Ok(targets)
}

/// Processes whose name or cgroup says that they are ours.
fn processes(foreign: &Foreign) -> anyhow::Result<Vec<String>> {
    let ids = process::ids()?.into_iter().filter(|id| !foreign.has_process(*id));
    Ok(counted(ids.filter_map(|id| Some(format!("process {}", ours(id)?.0)))))
}

/// Name and control groups of a process of ours.
fn ours(id: u32) -> Option<(String, String)> {
    let name = process::name(id)?;
    let cgroup = fs::read_to_string(format!("/proc/{id}/cgroup")).ok()?;
    (name.starts_with("skep") || cgroup.contains("skep")).then_some((name, cgroup))
}

/// The same for a person: `/proc/ID/stat` up to state and parent, and the control group of version 2.
fn running() -> anyhow::Result<Vec<String>> {
    let line = |id| {
        let cgroup = ours(id)?.1.lines().find(|line| line.starts_with("0::")).map(str::to_owned)?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        let state: Vec<_> = rest.split(' ').take(2).collect();
        Some(format!("{name}) {} {cgroup}", state.join(" ")))
    };
    Ok(process::ids()?.into_iter().filter_map(line).collect())
}

/// Numbers what has the same name, instead of its ids: of what is kept ready for the next launch, one goes and
/// another comes.
fn counted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let number = |name: String| {
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        format!("{name} {count}")
    };
    names.map(number).collect()
}

/// Namespaces that a process is in, or holds open without being in them.
fn namespaces(foreign: &Foreign) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for id in process::ids()?.into_iter().filter(|id| !foreign.has_process(*id)) {
        let inside = NAMESPACES.iter().map(|kind| format!("/proc/{id}/ns/{kind}"));
        found.extend(inside.filter_map(|link| fs::read_link(link).ok()));
        let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        found.extend(targets.filter(|target| is_namespace(target)));
    }
    let kind = |target: &PathBuf| target.to_string_lossy().split(':').next().unwrap_or_default().to_owned();
    Ok(counted(found.iter().map(|target| format!("namespace {}", kind(target)))))
}

/// The cgroup of a sandbox without its id.
fn without_id(path: &str) -> String {
    match path.split_once("/sandboxes/") {
        Some((tree, _id)) => format!("{tree}/sandboxes/*"),
        None => path.to_owned(),
    }
}

/// `net:[4026531840]`; sockets and pipes look alike but for their kind.
fn is_namespace(target: &Path) -> bool {
    let text = target.to_string_lossy();
    text.split_once(":[").is_some_and(|(kind, _)| kind == "pid" || NAMESPACES.contains(&kind))
}

fn mounts() -> anyhow::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    Ok(table.lines().map(|line| format!("mount {line}")).collect())
}

/// The control groups of a daemon are named after its state directory; those of other tests are not ours.
fn tree_name(ground: &Ground) -> String {
    let digest = Sha256::digest(ground.beside("state").as_os_str().as_encoded_bytes());
    digest[..6].iter().fold("skep-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

fn cgroups(below: &Path) -> Vec<String> {
    let directories = fs::read_dir(below).into_iter().flatten().flatten().filter(|entry| {
        // The type comes with the entry: a cgroup may go away between the listing and a stat.
        entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    directories
        .flat_map(|entry| {
            let path = entry.path();
            let text = path.display().to_string();
            let own = text.contains("skep").then_some(text);
            own.into_iter().chain(cgroups(&path))
        })
        .collect()
}

fn bpf_objects(foreign: &Foreign) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for program in loaded_programs().filter_map(|program| still_there(program).transpose()) {
        let program = program.context("list BPF programs")?;
        if !foreign.has_program(program.id()) {
            found.push(format!("bpf program {}", program.name_as_str().unwrap_or_default()));
        }
    }
    for map in loaded_maps().filter_map(|map| still_there(map).transpose()) {
        let map = map.context("list BPF maps")?;
        if !foreign.has_map(map.id()) {
            found.push(format!("bpf map {}", map.name_as_str().unwrap_or_default()));
        }
    }
    for link in loaded_links().filter_map(|link| still_there(link).transpose()) {
        let link = link.context("list BPF links")?;
        if !foreign.has_link(link.id()) {
            found.push("bpf link".to_owned());
        }
    }
    Ok(counted(found.into_iter()))
}

/// An object may go away between being listed and being looked at, or (EAGAIN) be listed before it is there.
fn still_there<T, E: Error + Send + Sync + 'static>(looked: Result<T, E>) -> anyhow::Result<Option<T>> {
    looked.map(Some).or_else(|error| {
        let error = anyhow::Error::new(error);
        let gone = |cause: &(dyn Error + 'static)| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|io| matches!(io.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock))
        };
        if error.chain().any(gone) { Ok(None) } else { Err(error) }
    })
}

/// Everything below a directory. Contents may grow (the audit does), names may not.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let below = if is_directory { files(&path) } else { Vec::new() };
            std::iter::once(format!("file {}", path.display())).chain(below)
        })
        .collect()
}
