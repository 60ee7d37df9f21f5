//! Nothing is left behind: not by launches, not by crashes. These tests look at the whole machine, so they are a
//! program of their own and take turns.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use skep_tests::Outcome;
use skep_tests::audit::Record;
use skep_tests::ground::{CANARY, Ground};
use skep_tests::process::{Running, kill_one, kill_tree, run, send, until, wait};
use skep_tests::skep::{HOLD, Skep};
use skep_tests::snapshot::{Snapshot, descriptors};

const SETTLE: Duration = Duration::from_secs(60);

/// How often something is killed.
const KILLS: u32 = 30;

/// How many lines of the course of kills a failure is shown with.
const LAST: usize = 25;

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A skep with one sandbox that stays, so that its skepd is the same all the time.
struct Warm {
    skep: Skep,
    _holder: Running,
    before: Snapshot,
    open: Vec<String>,
}

impl Warm {
    fn new() -> anyhow::Result<Self> {
        let skep = Skep::new()?;
        let holder = skep.hold(skep.shell(HOLD).command())?;
        // The first run makes what is made once: a template, a gateway, caches.
        ensure!(skep.run(["true"]).finish()?.code() == 0, "the first run failed");
        // What is made ahead for the next launch is made in the background: two looks must agree.
        let mut before = Snapshot::take(skep.ground(), &kept(&skep))?;
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let again = Snapshot::take(skep.ground(), &kept(&skep))?;
            if again.since(&before).is_empty() {
                break;
            }
            before = again;
        }
        let open = descriptors(daemon(&skep)?)?;
        Ok(Self { skep, _holder: holder, before, open })
    }

    fn nothing_is_left(&self) -> Outcome {
        self.before.await_return(self.skep.ground(), &kept(&self.skep), SETTLE)?;
        let open = descriptors(daemon(&self.skep)?)?;
        ensure!(
            open.len() <= self.open.len(),
            "skepd has more descriptors:\n{open:#?}\nbefore:\n{:#?}",
            self.open
        );
        Ok(())
    }
}

fn kept(skep: &Skep) -> [PathBuf; 2] {
    [skep.state(), skep.runtime()]
}

fn daemon(skep: &Skep) -> anyhow::Result<u32> {
    skep.processes_named("skepd")?.first().copied().context("no skepd runs")
}

fn wait_for(path: &std::path::Path) -> Outcome {
    let deadline = Duration::from_secs(20);
    until(deadline, || Ok(path.exists())).with_context(|| format!("{} did not appear", path.display()))
}

/// The control of all others: a snapshot that sees nothing would be content with everything.
#[test]
fn a_snapshot_sees_what_is_left_and_that_it_goes() -> Outcome {
    let _turn = turn();
    let ground = Ground::new()?;
    let before = Snapshot::take(&ground, &[ground.workspace()])?;
    let script = "cp /bin/sleep skep-left; exec unshare --net --mount ./skep-left 600";
    let mut left = Command::new("/bin/bash").args(["-c", script]).current_dir(ground.workspace()).spawn()?;
    wait_for(&ground.workspace().join("skep-left"))?;
    let seen = |kind: &str, lines: &[String]| lines.iter().any(|line| line.starts_with(kind));
    let everything = ["process", "namespace net", "namespace mnt", "file"];
    let mut lines = Vec::new();
    for _ in 0..100 {
        lines = Snapshot::take(&ground, &[ground.workspace()])?.since(&before);
        if everything.iter().all(|kind| seen(kind, &lines)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    left.kill()?;
    left.wait()?;
    ensure!(everything.iter().all(|kind| seen(kind, &lines)), "seen only {lines:#?}");
    fs::remove_file(ground.workspace().join("skep-left"))?;
    before.await_return(&ground, &[ground.workspace()], SETTLE)
}

#[test]
fn five_hundred_launches_in_a_row_leave_nothing() -> Outcome {
    let _turn = turn();
    let warm = Warm::new()?;
    for number in 0..500 {
        let ran = run(&mut warm.skep.run(["true"]).command(), SETTLE)?;
        ensure!(ran.code() == 0, "launch {number}: {}", ran.stderr);
    }
    warm.nothing_is_left()
}

#[test]
fn a_hundred_launches_at_once_leave_nothing() -> Outcome {
    let _turn = turn();
    let warm = Warm::new()?;
    let mut launches = Vec::new();
    for _ in 0..100 {
        launches.push(warm.skep.run(["true"]).command().spawn().context("start skep")?);
    }
    for (number, mut launch) in launches.into_iter().enumerate() {
        let status = launch.wait()?;
        ensure!(status.success(), "launch {number}: {status}");
    }
    warm.nothing_is_left()
}

/// Each of them was given an empty sandbox before it was refused.
#[test]
fn thirty_refusals_at_once_leave_nothing() -> Outcome {
    let _turn = turn();
    let warm = Warm::new()?;
    let mut refused = Vec::new();
    for _ in 0..30 {
        refused.push(warm.skep.run(["no-such-command"]).command().spawn().context("start skep")?);
    }
    for (number, mut skep) in refused.into_iter().enumerate() {
        ensure!(skep.wait()?.code() == Some(127), "run {number} is not refused for its command");
    }
    warm.nothing_is_left()
}

/// None of them takes an empty sandbox away from those who come next.
#[test]
fn refusals_for_a_name_leave_the_empty_sandboxes() -> Outcome {
    let _turn = turn();
    let warm = Warm::new()?;
    let listed = run(&mut warm.skep.command(["ls", "--json"]), SETTLE)?.stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let name = listed["name"].as_str().context("no name")?;
    let keepers = || warm.skep.processes_named("skep-keeper");
    let before = keepers()?;
    for _ in 0..3 {
        let refused = run(&mut warm.skep.command(["run", "--name", name, "--", "true"]), SETTLE)?;
        ensure!(refused.stderr.contains("is running already"), "{}", refused.stderr);
    }
    ensure!(keepers()? == before, "{before:?} became {:?}", keepers()?);
    warm.nothing_is_left()
}

/// A launch whose keeper hangs, in a daemon that was there already: it needs a template that nobody builds.
struct Hanging {
    skep: Skep,
    before: Snapshot,
    launch: Child,
}

/// Far below what a launch waits for its keeper by itself.
const AT_ONCE: Duration = Duration::from_secs(15);

impl Hanging {
    fn new() -> anyhow::Result<Self> {
        let script = "test -e \"$0.hangs\" && exec sleep 600; exec \"$0.real\" \"$@\"";
        let skep = Skep::with_script("skep-keeper", script)?;
        let before = Snapshot::take(skep.ground(), &[skep.runtime()])?;
        ensure!(skep.run(["true"]).finish()?.code() == 0, "nothing hangs yet");
        fs::write(skep.ground().beside("bin/skep-keeper.hangs"), "")?;
        let profile = skep.ground().beside("other.toml");
        let text = "schema = 1\nname = \"other\"\nuse = [\"workspace\"]\n[files]\nread = [\"/srv\"]\n";
        fs::write(&profile, text)?;
        let launch = skep.run(["true"]).profile(&profile).command().spawn()?;
        let hanging = Self { skep, before, launch };
        hanging.until("the launch begins", || Ok(hanging.listed()?.contains("preparing")))?;
        Ok(hanging)
    }

    fn listed(&self) -> anyhow::Result<String> {
        Ok(run(&mut self.skep.command(["ls", "--json"]), SETTLE)?.stdout)
    }

    fn until(&self, what: &str, condition: impl Fn() -> anyhow::Result<bool>) -> Outcome {
        until(AT_ONCE, condition).with_context(|| what.to_owned())
    }

    /// Everything goes, the daemon at last.
    fn nothing_is_left(&self) -> Outcome {
        self.skep.await_idle(SETTLE)?;
        self.before.await_return(self.skep.ground(), &[self.skep.runtime()], SETTLE)
    }
}

#[test]
fn a_launch_that_hangs_ends_when_its_client_leaves() -> Outcome {
    let _turn = turn();
    let mut hanging = Hanging::new()?;
    hanging.launch.kill()?;
    hanging.launch.wait()?;
    hanging.until("the launch ends", || Ok(hanging.listed()?.is_empty()))?;
    hanging.nothing_is_left()
}

#[test]
fn a_launch_that_hangs_does_not_keep_skepd_from_stopping() -> Outcome {
    let _turn = turn();
    let mut hanging = Hanging::new()?;
    send(daemon(&hanging.skep)?, "TERM")?;
    hanging.until("skepd ends", || Ok(daemon(&hanging.skep).is_err()))?;
    ensure!(ended(&mut hanging.launch)?.code() == Some(125), "skep does not say that nothing was run");
    hanging.nothing_is_left()
}

#[test]
fn the_transient_daemon_leaves_and_takes_everything_with_it() -> Outcome {
    let _turn = turn();
    let skep = Skep::new()?;
    let before = Snapshot::take(skep.ground(), &[skep.runtime()])?;
    ensure!(skep.run(["true"]).finish()?.code() == 0, "the run failed");
    skep.await_idle(SETTLE)?;
    before.await_return(skep.ground(), &[skep.runtime()], SETTLE)
}

#[test]
fn a_killed_daemon_leaves_nothing() -> Outcome {
    killed_at_any_moment("skepd")
}

#[test]
fn a_killed_keeper_leaves_nothing() -> Outcome {
    killed_at_any_moment("skep-keeper")
}

#[test]
fn a_killed_gateway_leaves_nothing() -> Outcome {
    killed_at_any_moment("skep-egress")
}

/// What each launch to be killed does: tells whether it is in its jail, and stays a moment.
struct Victims {
    skep: Skep,
    script: String,
    /// What all of them said, and when they were killed: a failure is shown with it.
    course: PathBuf,
}

impl Victims {
    fn new() -> anyhow::Result<Self> {
        let skep = Skep::new()?;
        fs::write(skep.ground().beside("canary"), CANARY)?;
        let canary = skep.ground().beside("canary").display().to_string();
        let script =
            format!("{{ grep ^Seccomp: /proc/self/status; cat {canary}; }} >> told 2>/dev/null; sleep 0.05");
        let course = skep.ground().beside("course");
        Ok(Self { skep, script, course })
    }

    fn start(&self) -> anyhow::Result<Child> {
        self.skep.shell(&self.script).command().stderr(self.course()?).spawn().context("start skep")
    }

    fn course(&self) -> anyhow::Result<File> {
        File::options().create(true).append(true).open(&self.course).context("open the course")
    }

    /// How long one takes. The first of a daemon starts it on the way.
    fn measure(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let status = ended(&mut self.start()?)?;
        ensure!(status.success(), "a launch that nobody disturbs fails: {status}");
        writeln!(self.course()?, "== undisturbed: {:?}", begun.elapsed())?;
        Ok(begun.elapsed())
    }

    fn never_without_a_jail(&self) -> Outcome {
        let told = fs::read_to_string(self.skep.ground().workspace().join("told"))?;
        let jailed = told.lines().all(|line| line == "Seccomp:\t2");
        ensure!(jailed && !told.is_empty(), "an agent ran without its jail:\n{told}");
        Ok(())
    }

    /// Starts and kills thirty times, at moments spread over a launch: a killed skepd makes the next launch start one.
    fn killed_at_any_moment(&self, name: &str) -> Outcome {
        let skep = &self.skep;
        let before = Snapshot::take(skep.ground(), &[skep.runtime()])?;
        let (cold, warm) = (self.measure()?, self.measure()?);
        let span = if name == "skepd" { cold } else { warm };
        let mut hits = 0;
        for round in 0..KILLS {
            let mut launch = self.start()?;
            // In no order: 37 and 30 have no common divisor.
            let moment = span * (round * 37 % KILLS) / KILLS;
            std::thread::sleep(moment);
            let met = skep.processes_named(name)?;
            met.iter().copied().try_for_each(kill_one)?;
            hits += met.len();
            let status = ended(&mut launch).with_context(|| format!("round {round}"))?;
            writeln!(self.course()?, "== round {round}: killed {met:?} after {moment:?}; skep: {status}")?;
        }
        ensure!(hits >= 10, "{name} was met only {hits} times");
        self.never_without_a_jail()?;
        let next = skep.run(["true"]).finish()?;
        ensure!(next.code() == 0, "the next run ends with {}: {}", next.code(), next.finished.stderr);
        skep.await_idle(SETTLE)?;
        let verified = run(&mut skep.command(["audit", "verify"]), SETTLE)?;
        ensure!(verified.code() == 0, "the audit is broken: {}{}", verified.stdout, verified.stderr);
        before.await_return(skep.ground(), &[skep.runtime()], SETTLE)
    }
}

fn ended(launch: &mut Child) -> anyhow::Result<ExitStatus> {
    match wait(launch, SETTLE)? {
        Some(status) => Ok(status),
        None => {
            kill_tree(launch.id())?;
            launch.wait()?;
            anyhow::bail!("skep hangs")
        }
    }
}

fn killed_at_any_moment(name: &str) -> Outcome {
    let _turn = turn();
    let victims = Victims::new()?;
    victims.killed_at_any_moment(name).map_err(|error| {
        let course = fs::read_to_string(&victims.course).unwrap_or_default();
        let noise = |line: &&str| line.starts_with("  ") || line.contains("WEAKER");
        let lines: Vec<_> = course.lines().filter(|line| !noise(line)).collect();
        let last = lines[lines.len().saturating_sub(LAST)..].join("\n");
        let words = fs::read_to_string(victims.skep.state().join("skepd.log")).unwrap_or_default();
        anyhow::anyhow!("{error:#}\nskepd said: {words}\nafter {name} was killed like this, at last:\n{last}")
    })
}

/// skepd and the keeper die together: nobody is left to remove the cgroup, but the next skepd.
#[test]
fn what_a_crash_left_is_cleared_away_and_recorded_at_the_next_start() -> Outcome {
    let _turn = turn();
    let skep = Skep::new()?;
    let before = Snapshot::take(skep.ground(), &[skep.runtime()])?;
    let mut launch = skep.hold(skep.shell(HOLD).command())?;
    let keepers = skep.processes_named("skep-keeper")?;
    keepers.iter().try_for_each(|keeper| send(*keeper, "STOP"))?;
    kill_one(daemon(&skep)?)?;
    keepers.into_iter().try_for_each(kill_one)?;
    ensure!(ended(&mut launch.0)?.code() == Some(125), "skep does not notice");
    // A snapshot that looked for control groups in the wrong place would see none here.
    let left = Snapshot::take(skep.ground(), &[skep.runtime()])?.since(&before);
    ensure!(left.iter().any(|line| line.starts_with("cgroup") && line.contains("/sandboxes/")), "{left:#?}");
    ensure!(skep.run(["true"]).finish()?.code() == 0, "the next run fails");
    let audit = skep.audit(None)?;
    let ran =
        audit.iter().find(|record| record.kind() == "start").and_then(Record::sandbox).context("no start")?;
    let recovered: Vec<_> = audit.iter().filter(|record| record.kind() == "recovered").collect();
    // One record for all of them: empty ones waited beside it.
    ensure!(recovered.len() == 1 && recovered[0].says(&[ran]), "{recovered:#?}");
    skep.await_idle(SETTLE)?;
    before.await_return(skep.ground(), &[skep.runtime()], SETTLE)
}
