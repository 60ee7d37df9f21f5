//! One attack: the same attempt outside, where it must work, and inside, where it must have no effect.
//!
//! Success is not judged by exit codes but by effects: a canary's text in the output, a change that a script run
//! outside finds, a listener on the host that heard something.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::compliance::{self, Line, Status};
use crate::ground::{CANARY, Ground};
use crate::jail;
use crate::process::{self, Finished};
use crate::sink::{self, Sink};
use crate::skep::Skep;

/// Races take ten seconds; nothing takes longer than this.
const DEADLINE: Duration = Duration::from_secs(60);

/// How the effect of an attempt is seen.
#[derive(Clone, Copy, Debug)]
pub enum Oracle {
    /// The canary's text is in the output.
    Leak,
    /// This script, run outside afterwards, succeeds if the attempt had its effect.
    Effect(&'static str),
    /// The attempt's output contains this text. Only for effects that cannot be seen from outside.
    Says(&'static str),
    /// A listener on the host heard something.
    Heard,
}

/// How it is known that the attempt works where nothing stops it.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// The same attempt and oracle, without a sandbox.
    Same,
    /// Another script, without a sandbox, under the same oracle: the attempt itself would hurt the host.
    Like(&'static str),
    /// Another script in the same sandbox: what the profile does allow must have the effect.
    Inside(&'static str),
    /// There is none, for this reason.
    None(&'static str),
}

/// An attack, described.
#[derive(Clone, Debug)]
pub struct Attack {
    case: u16,
    title: &'static str,
    attempt: &'static str,
    prepare: &'static str,
    wrap: &'static str,
    oracle: Oracle,
    control: Control,
    layers: &'static [&'static str],
    profile: &'static str,
    denial: &'static [&'static str],
    upstream: Option<&'static str>,
}

impl Attack {
    /// An attack by its number in the list of cases. `attempt` is a shell script that runs in the workspace and
    /// knows `$WS`, `$OUT` (a directory nobody granted, with a `canary`), `$USER_HOME`, `$ATTACK` (the helper),
    /// `$HOST` (an address of the host) and `$PORT` (of its listener).
    #[must_use]
    pub fn new(case: u16, title: &'static str, attempt: &'static str, oracle: Oracle) -> Self {
        Self {
            case,
            title,
            attempt,
            prepare: "",
            wrap: "\"$@\"",
            oracle,
            control: Control::Same,
            layers: &[],
            profile: jail::PROFILE,
            denial: &[],
            upstream: None,
        }
    }

    /// The layers that are meant to stop it.
    #[must_use]
    pub fn layers(self, layers: &'static [&'static str]) -> Self {
        Self { layers, ..self }
    }

    /// Replaces the control, which is otherwise the attempt itself.
    #[must_use]
    pub fn control(self, control: Control) -> Self {
        Self { control, ..self }
    }

    /// A script to run outside before the attempt.
    #[must_use]
    pub fn prepare(self, prepare: &'static str) -> Self {
        Self { prepare, ..self }
    }

    /// A script around the start of the sandbox (or, outside, of the attempt), which is `"$@"`.
    #[must_use]
    pub fn wrap(self, wrap: &'static str) -> Self {
        Self { wrap, ..self }
    }

    /// The text of a profile to use instead of the tests' own.
    #[must_use]
    pub fn profile(self, profile: &'static str) -> Self {
        Self { profile, ..self }
    }

    /// One denial in the audit must say all of this.
    #[must_use]
    pub fn denial(self, denial: &'static [&'static str]) -> Self {
        Self { denial, ..self }
    }

    /// Has the gateway find the listener of the host behind this name, whatever the port.
    #[must_use]
    pub fn upstream(self, name: &'static str) -> Self {
        Self { upstream: Some(name), ..self }
    }

    /// Runs the control, then the attempt, and records the result.
    ///
    /// # Errors
    /// The control had no effect (then the test proves nothing), the attempt had one, or the audit is silent.
    pub fn run(self) -> anyhow::Result<()> {
        let control = self.run_control()?;
        let field = Field::new(self.prepare)?;
        let finished = self.jailed(&field, self.attempt)?;
        let broke_through = field.shows(self.oracle, &finished)?;
        let status = if broke_through { Status::BrokeThrough } else { Status::Stopped };
        let Self { case, title, layers, .. } = self;
        if !jail::is_peer() {
            compliance::record(&Line { case, title, status, control, layers })?;
        }
        let said = format!("{}\n{}", finished.stdout, finished.stderr);
        ensure!(!broke_through, "case {case}, {title}: it had its effect\n{said}");
        ensure!(finished.code() != 125, "case {case}, {title}: the sandbox did not start\n{said}");
        ensure!(
            field.recorded(self.denial)?,
            "case {case}, {title}: no record says {:?}\n{said}",
            self.denial
        );
        Ok(())
    }

    fn run_control(&self) -> anyhow::Result<&'static str> {
        let field = Field::new(self.prepare)?;
        let (finished, said) = match self.control {
            Control::None(reason) => return Ok(reason),
            Control::Same => (self.started(&field, &field.outside(self.attempt))?, "the same, outside"),
            Control::Like(script) => (self.started(&field, &field.outside(script))?, "its like, outside"),
            Control::Inside(script) => (self.jailed(&field, script)?, "what is allowed, inside"),
        };
        let works = field.shows(self.oracle, &finished)?;
        let text = format!("{}\n{}", finished.stdout, finished.stderr);
        ensure!(works, "case {}, {}: the control has no effect\n{text}", self.case, self.title);
        Ok(said)
    }

    /// Starts a script in the sandbox.
    fn jailed(&self, field: &Field, script: &str) -> anyhow::Result<Finished> {
        let upstream = self.upstream.map(|name| format!("{name}=127.0.0.1:{}", field.sink.port()));
        let command = jail::command(&field.skep, self.profile, upstream.as_deref(), &field.script(script))?;
        self.started(field, &command)
    }

    /// Starts a command through the wrapping script, which has `MARK` too.
    fn started(&self, field: &Field, inner: &Command) -> anyhow::Result<Finished> {
        let mut command = Command::new("/bin/bash");
        command.args(["-c", self.wrap, "bash"]).arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("MARK", field.skep.ground().mark());
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        process::run(&mut command, DEADLINE)
    }
}

/// Where one attempt takes place.
#[derive(Debug)]
struct Field {
    skep: Skep,
    sink: Sink,
}

impl Field {
    fn new(prepare: &str) -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let outside = ground.beside("outside");
        fs::create_dir(&outside).context("mkdir outside")?;
        fs::write(outside.join("canary"), format!("{CANARY}\n")).context("write canary")?;
        fs::copy(helper()?, ground.workspace().join("attack")).context("copy the helper")?;
        let sink = Sink::new()?.with_unix(&outside.join("socket"), ground.mark())?;
        let field = Self { skep: Skep::on(ground), sink };
        let prepared = process::run(&mut field.outside(prepare), DEADLINE)?;
        ensure!(prepared.code() == 0, "prepare: {}{}", prepared.stdout, prepared.stderr);
        Ok(field)
    }

    /// A script with the variables it may use in front.
    fn script(&self, script: &str) -> String {
        let ground = self.skep.ground();
        let text = |path: PathBuf| path.display().to_string();
        let host =
            sink::outside_address().map_or_else(|| "127.0.0.1".to_owned(), |address| address.to_string());
        let variables = [
            ("WS", text(ground.workspace())),
            ("OUT", text(ground.beside("outside"))),
            ("USER_HOME", text(ground.home())),
            ("ATTACK", text(ground.workspace().join("attack"))),
            ("MARK", ground.mark().to_owned()),
            ("HOST", host),
            ("PORT", self.sink.port().to_string()),
        ];
        let lines = variables.map(|(name, value)| format!("{name}='{value}'\n"));
        lines.concat() + script
    }

    fn outside(&self, script: &str) -> Command {
        let ground = self.skep.ground();
        let mut command = Command::new("/bin/bash");
        command.args(["-c", &self.script(script)]).current_dir(ground.workspace()).env_clear();
        command.envs([("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("LANG", "C.UTF-8")]);
        command.env("HOME", ground.home()).env("MARK", ground.mark());
        command
    }

    fn recorded(&self, denial: &[&str]) -> anyhow::Result<bool> {
        if denial.is_empty() || jail::is_peer() {
            return Ok(true);
        }
        Ok(self.skep.audit(None)?.iter().any(|record| record.is_denial() && record.says(denial)))
    }

    fn shows(&self, oracle: Oracle, finished: &Finished) -> anyhow::Result<bool> {
        let said = |text: &str| finished.stdout.contains(text) || finished.stderr.contains(text);
        Ok(match oracle {
            Oracle::Leak => said(CANARY),
            Oracle::Says(text) => said(text),
            Oracle::Heard => self.sink.heard() > 0,
            Oracle::Effect(script) => process::run(&mut self.outside(script), DEADLINE)?.code() == 0,
        })
    }
}

/// The helper program, which cargo builds beside the tests.
fn helper() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("current executable")?;
    let built = own.ancestors().nth(2).map(|target| target.join("attack"));
    built
        .filter(|path| path.is_file())
        .context("the helper `attack` is not beside the tests: cargo builds it")
}
