//! A parent cgroup with a sandbox or more in it, the programs attached, and commands run inside or outside.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_kernel::bpf::{Event, EventReader, Options, Programs, Settings};
use skep_kernel::cgroup;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Removes its cgroups when it goes.
struct Groups {
    parent: PathBuf,
    sandboxes: Vec<PathBuf>,
}

impl Drop for Groups {
    fn drop(&mut self) {
        for directory in self.sandboxes.iter().chain([&self.parent]) {
            // A task leaves its cgroup after it has been reaped (seen on 6.18), so the first try may be early.
            let deadline = Instant::now() + Duration::from_secs(10);
            while let Err(error) = std::fs::remove_dir(directory) {
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                    eprintln!("{}: {error}", directory.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

pub(crate) struct Rig {
    pub(crate) programs: Programs,
    pub(crate) reader: EventReader,
    pub(crate) cgroup: u64,
    pub(crate) directory: tempfile::TempDir,
    groups: Groups,
}

impl Rig {
    /// With a ring that loses nothing.
    pub(crate) fn new(report_reads: bool) -> Self {
        Self::with_ring(report_reads, 8 << 20)
    }

    pub(crate) fn with_ring(report_reads: bool, ring_bytes: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skep-bpf-test-{}-{number}", std::process::id());
        let parent = cgroup::mount_point().expect("cgroup v2 is mounted").join(name);
        std::fs::create_dir(&parent).expect("root may make cgroups");
        let groups = Groups { parent, sandboxes: Vec::new() };
        let parent = File::open(&groups.parent).unwrap();
        let loaded = Programs::load(parent.as_fd(), Options { ring_bytes });
        let mut programs = loaded.unwrap_or_else(|error| panic!("{error}: {error:#?}"));
        let reader = programs.events().expect("not taken yet");
        let mut rig = Self { programs, reader, cgroup: 0, directory: tempfile::tempdir().unwrap(), groups };
        rig.cgroup = rig.admit(report_reads);
        rig
    }

    /// One more sandbox, in which commands run from now on; the id of its cgroup.
    pub(crate) fn admit(&mut self, report_reads: bool) -> u64 {
        let sandbox = self.groups.parent.join(format!("sandbox-{}", self.groups.sandboxes.len()));
        std::fs::create_dir(&sandbox).unwrap();
        let cgroup = std::fs::metadata(&sandbox).unwrap().ino();
        self.groups.sandboxes.push(sandbox);
        self.programs.admit(cgroup, &settings(report_reads)).unwrap();
        cgroup
    }

    /// A path in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a shell script inside the sandbox, in the test's own directory.
    pub(crate) fn inside(&self, script: &str) -> Output {
        self.run_inside(Command::new("sh").args(["-c", script]))
    }

    /// Runs the same outside.
    pub(crate) fn outside(&self, script: &str) -> Output {
        Command::new("sh").args(["-c", script]).current_dir(self.directory.path()).output().unwrap()
    }

    /// Runs a command inside the sandbox.
    pub(crate) fn run_inside(&self, command: &Command) -> Output {
        self.command_inside(command).output().unwrap()
    }

    /// A command that will be inside the sandbox: a shell moves itself into the cgroup and becomes the command.
    pub(crate) fn command_inside(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        let sandbox = self.groups.sandboxes.last().unwrap();
        shell.arg(sandbox.join("cgroup.procs")).arg(command.get_program());
        shell.args(command.get_args()).current_dir(self.directory.path());
        // Cargo's own long search paths would be looked through, and reported, at every start.
        shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env_remove("LD_LIBRARY_PATH");
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell
    }

    /// Everything reported up to now, losses last.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.reader.settle().unwrap();
        let mut events = Vec::new();
        while let Some(taken) = self.reader.next() {
            self.reader.give_back(&taken);
            events.push(taken.event);
        }
        events.extend(self.reader.account().unwrap());
        events
    }
}

/// Settings of a sandbox whose gateway judges every port.
pub(crate) fn settings(report_reads: bool) -> Settings {
    Settings {
        own_v4: "10.113.0.2".parse().unwrap(),
        own_v6: "fd00:5ce9::2".parse().unwrap(),
        ports: None,
        report_reads,
        report_missing: true,
        built_first: false,
    }
}

/// The bytes of a path.
pub(crate) fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}
