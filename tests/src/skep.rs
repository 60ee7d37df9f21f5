//! The real `skep`, with a transient skepd of its own per test.
//!
//! State and runtime directories are the test's, so tests run side by side and none meets an installed service.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::audit::Record;
use crate::ground::Ground;
use crate::process::{self, Finished, Running};

/// Long enough for a loaded machine, short enough that a hang is seen.
const DEADLINE: Duration = Duration::from_secs(60);

/// The script of a sandbox that stays.
pub const HOLD: &str = "echo up > up; exec sleep 600";

const BINARIES: [&str; 4] = ["skep", "skepd", "skep-keeper", "skep-egress"];

/// Binaries and directories of one test.
#[derive(Debug)]
pub struct Skep {
    ground: Ground,
    binaries: PathBuf,
}

impl Skep {
    /// A fresh ground and the binaries of `SKEP_BIN_DIR`, or of `target/skep-test`.
    ///
    /// # Errors
    /// A binary is missing, or the ground cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let skep = Self::on(Ground::new()?);
        for name in BINARIES {
            let found = skep.binaries.join(name).is_file();
            ensure!(found, "{name} is missing in {}: run `cargo xtask test`", skep.binaries.display());
        }
        Ok(skep)
    }

    /// The same on a ground that is already prepared, without looking for the binaries.
    #[must_use]
    pub fn on(ground: Ground) -> Self {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/skep-test");
        Self { ground, binaries: std::env::var_os("SKEP_BIN_DIR").map_or(built, PathBuf::from) }
    }

    /// The same with a shell script in the place of one binary, which it finds as `"$0.real"`.
    ///
    /// # Errors
    /// The others cannot be copied, or the script cannot be written.
    pub fn with_script(name: &str, script: &str) -> anyhow::Result<Self> {
        let mut skep = Self::new()?;
        let binaries = skep.ground.beside("bin");
        fs::create_dir(&binaries)?;
        for binary in BINARIES {
            // Not a link: each finds the others beside itself.
            fs::copy(skep.binaries.join(binary), binaries.join(binary)).context(binary)?;
        }
        let place = binaries.join(name);
        fs::rename(&place, binaries.join(format!("{name}.real")))?;
        fs::write(&place, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        skep.binaries = binaries;
        Ok(skep)
    }

    /// Home, workspace and canaries.
    #[must_use]
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// One of the binaries.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.binaries.join(name);
        // As the program itself sees its path.
        path.canonicalize().unwrap_or(path)
    }

    /// Where skepd keeps its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.ground.beside("state")
    }

    /// Where its socket is.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.ground.beside("run")
    }

    /// A `skep` command line with this test's directories and home, and nothing else of our environment.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.binaries.join("skep"));
        command.args(arguments).current_dir(self.ground.workspace()).env_clear();
        command.envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("TERM", "dumb")]);
        command.env("HOME", self.ground.home());
        command.env("SKEP_STATE", self.state()).env("SKEP_RUNTIME", self.runtime());
        command
    }

    /// Starts to describe a run of a command in a sandbox.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Run<'_> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Run {
            skep: self,
            name: format!("test-{}-{count}", std::process::id()),
            options: Vec::new(),
            argv: argv.into_iter().map(|word| word.as_ref().to_owned()).collect(),
            environment: Vec::new(),
            directory: self.ground.workspace(),
            deadline: DEADLINE,
        }
    }

    /// Runs a shell script in a sandbox.
    #[must_use]
    pub fn shell(&self, script: &str) -> Run<'_> {
        self.run(["/bin/bash", "-c", script])
    }

    /// Starts a run of [`HOLD`] and waits until it is there; its skepd stays with it.
    ///
    /// # Errors
    /// It does not start.
    pub fn hold(&self, mut run: Command) -> anyhow::Result<Running> {
        let holder = Running(run.spawn().context("start the holder")?);
        let up = self.ground.workspace().join("up");
        process::until(DEADLINE, || Ok(up.exists())).context("the holder did not start")?;
        Ok(holder)
    }

    /// The records of a run, or of everything.
    ///
    /// # Errors
    /// `skep audit` fails or prints what is no record.
    pub fn audit(&self, name: Option<&str>) -> anyhow::Result<Vec<Record>> {
        let mut command = self.command(["audit", "--json"].into_iter().chain(name));
        let finished = process::run(&mut command, DEADLINE)?;
        ensure!(finished.code() == 0, "skep audit: {}", finished.stderr);
        finished.stdout.lines().map(Record::parse).collect()
    }

    /// Processes of the transient skepd and of everything it started, sandboxes included.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let mut found = process::marked(self.ground.mark())?;
        for process in found.clone() {
            found.extend(process::descendants(process)?);
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Those of them with this name.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes_named(&self, name: &str) -> anyhow::Result<Vec<u32>> {
        let mut found = self.processes()?;
        found.retain(|process| process::name(*process).is_some_and(|found| found == name));
        Ok(found)
    }

    /// Waits until the transient skepd has left, and everything of it.
    ///
    /// # Errors
    /// Who is still there at the deadline.
    pub fn await_idle(&self, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            let names: Vec<_> = left.iter().filter_map(|process| process::name(*process)).collect();
            ensure!(Instant::now() < end, "still there after {deadline:?}: {left:?} {names:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A run that has not begun.
#[derive(Debug)]
pub struct Run<'a> {
    skep: &'a Skep,
    name: String,
    options: Vec<OsString>,
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    deadline: Duration,
}

impl Run<'_> {
    /// Names a profile, shipped or a file.
    #[must_use]
    pub fn profile(self, profile: impl AsRef<OsStr>) -> Self {
        self.option("--profile", profile)
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.options.extend([OsString::from(name), value.as_ref().to_owned()]);
        self
    }

    /// Adds variables to the environment of `skep`.
    #[must_use]
    pub fn environment<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let owned = variables.into_iter().map(|(n, v)| (n.as_ref().to_owned(), v.as_ref().to_owned()));
        self.environment.extend(owned);
        self
    }

    /// Starts `skep` somewhere else than in the workspace.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Gives it another time than a minute.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The command line, for a test that starts and watches it itself.
    #[must_use]
    pub fn command(&self) -> Command {
        let fixed = ["run", "--name", &self.name].map(OsString::from);
        let end = [OsString::from("--")];
        let words = fixed.iter().chain(&self.options).chain(&end).chain(&self.argv);
        let mut command = self.skep.command(words);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory);
        command
    }

    /// The name of the sandbox.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it to its end and reads its audit.
    ///
    /// # Errors
    /// It cannot be started, is not done by the deadline, or has no readable audit.
    pub fn finish(self) -> anyhow::Result<Ran> {
        let finished = process::run(&mut self.command(), self.deadline)?;
        let audit = self.skep.audit(Some(&self.name));
        let audit = audit.with_context(|| format!("after exit {}: {}", finished.code(), finished.stderr))?;
        Ok(Ran { finished, audit })
    }
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The end of `skep run`.
    pub finished: Finished,
    /// The run's records.
    pub audit: Vec<Record>,
}

impl Ran {
    /// The exit code of `skep run`.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.finished.code()
    }

    /// Was a denial recorded that says all of this?
    #[must_use]
    pub fn denied(&self, texts: &[&str]) -> bool {
        self.audit.iter().any(|record| record.is_denial() && record.says(texts))
    }
}
