//! The ground a test stands on: a home with canaries, a workspace, and directories for the sandbox's state.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::process::{self, Finished};

/// What a canary file holds: text that can appear in no output by accident.
pub const CANARY: &str = "canary-7f3d91-do-not-read";

/// Directories of one test, removed with it.
///
/// They lie in `/var/tmp`: a sandbox has a `/tmp` of its own, and Codex refuses a home below its temporary
/// directory.
#[derive(Debug)]
pub struct Ground {
    root: TempDir,
    mark: String,
}

impl Ground {
    /// Makes a home with canaries and an empty git repository as workspace.
    ///
    /// # Errors
    /// A directory or file cannot be made, or `git init` fails.
    pub fn new() -> anyhow::Result<Self> {
        let root =
            tempfile::Builder::new().prefix("skep-").tempdir_in("/var/tmp").context("test directory")?;
        let mark = root.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ground = Self { root, mark };
        // The agent's uid is not root's: what it may see is decided by the sandbox, not by this mode.
        fs::set_permissions(ground.root.path(), fs::Permissions::from_mode(0o755))?;
        for directory in [ground.home(), ground.workspace(), ground.temporary()] {
            fs::create_dir(&directory).with_context(|| format!("mkdir {}", directory.display()))?;
        }
        ground.plant_canaries()?;
        let initialised = ground.shell("git init --quiet .")?;
        ensure!(initialised.status.success(), "git init failed: {}", initialised.stderr);
        Ok(ground)
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The workspace, a git repository.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// A temporary directory for agents that run without a sandbox.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    /// A directory beside home and workspace, which no profile grants.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A text no other test has, to find this test's processes and sessions by.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Runs a shell script in the workspace, outside any sandbox.
    ///
    /// # Errors
    /// No shell, or not done within a minute.
    pub fn shell(&self, script: &str) -> anyhow::Result<Finished> {
        let mut command = Command::new("/bin/bash");
        command.args(["-euc", script]).current_dir(self.workspace()).env_clear();
        command.envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")]);
        command.env("HOME", self.home()).env("MARK", self.mark());
        process::run(&mut command, Duration::from_secs(60))
    }

    fn plant_canaries(&self) -> anyhow::Result<()> {
        let secrets = [".ssh/id_ed25519", ".aws/credentials", ".netrc", ".config/secret"];
        for secret in secrets {
            plant(&self.home().join(secret), 0o600)?;
        }
        plant(&self.home().join(".bashrc"), 0o644)
    }
}

fn plant(path: &Path, mode: u32) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // A comment in every language that might read it.
    fs::write(path, format!("# {CANARY}\n")).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

impl Drop for Ground {
    /// Ends what a test left running, on a panic too: a daemon by asking, so that it takes its control groups along.
    fn drop(&mut self) {
        if let Err(error) = process::end_daemons(&self.mark, Duration::from_secs(10)) {
            eprintln!("ignoring: skepd of {} was not asked to end: {error}", self.mark);
        }
        if let Err(error) = process::kill_marked(&self.mark) {
            eprintln!("ignoring: processes of {} may be left: {error}", self.mark);
        }
        // A mount left below would be emptied with the directory: whatever it shows must survive the test.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_else(|_| self.mark.clone());
        if mounts.contains(&self.mark) {
            eprintln!("ignoring: something is mounted below {}, which stays", self.root.path().display());
            self.root.disable_cleanup(true);
        }
    }
}
