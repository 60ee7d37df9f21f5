//! From the wish to run `true` to its status in hand.

use std::io::pipe;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use skep_cli::client::Client;
use skep_kernel::memfd;
use skep_policy::launch::Ending;
use skep_runtime::places::Places;
use skep_runtime::protocol::{Profile, Reply, Request, Run};
use skep_tests::skep::Skep;

use crate::report::{Samples, publish, table};

/// Cold starts take a second each.
const COLD: usize = 10;

/// Runs not counted: the template is built, caches fill.
const WARM_UP: usize = 20;

/// Measures and publishes.
pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let skep = Skep::new()?;
    let ours = Ours::new(&skep)?;
    let contenders: [(&str, &dyn Fn() -> anyhow::Result<()>); 5] = [
        ("bare", &|| finish(&mut Command::new("/usr/bin/true"))),
        ("bwrap", &|| finish(&mut bwrap())),
        ("skep", &|| ours.launch()),
        ("skep by its command line", &|| finish(&mut ours.command())),
        ("bare again (A/A)", &|| finish(&mut Command::new("/usr/bin/true"))),
    ];
    let mut samples: Vec<Samples> = contenders.iter().map(|(name, _)| Samples::new(name)).collect();
    for round in 0..WARM_UP + rounds {
        for offset in 0..contenders.len() {
            let index = (round + offset) % contenders.len();
            let began = Instant::now();
            contenders[index].1().with_context(|| contenders[index].0.to_owned())?;
            if round >= WARM_UP {
                samples[index].add(began.elapsed());
            }
        }
    }
    samples.push(cold()?);
    let note = "`skep`: the profile `workspace` with everything of it on, skepd warm, asked through the client \
        protocol; `bwrap`: `--unshare-all --ro-bind / / --dev /dev --proc /proc`; each from the wish to the status \
        in hand, after which skep has nothing left of the sandbox.";
    publish("launch", "cargo xtask bench launch", &format!("{note}\n\n{}", table(&samples, "bwrap")))
}

fn bwrap() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"]);
    command
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A skepd of its own, warm because each round needs it.
struct Ours {
    places: Places,
    workspace: PathBuf,
    binary: PathBuf,
}

impl Ours {
    fn new(skep: &Skep) -> anyhow::Result<Self> {
        let places = Places::new(skep.state(), skep.runtime(), skep.ground().beside("no-configuration"));
        let ours = Self {
            places,
            workspace: skep.ground().workspace(),
            binary: PathBuf::from(skep.command(["ls"]).get_program()),
        };
        // The command line starts the daemon.
        finish(&mut ours.command())?;
        Ok(ours)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--profile", "workspace", "--", "true"]);
        command.env("SKEP_STATE", &self.places.state).env("SKEP_RUNTIME", &self.places.runtime);
        command.current_dir(&self.workspace).stderr(Stdio::null());
        command
    }

    fn launch(&self) -> anyhow::Result<()> {
        let body = memfd::sealed("bench", &postcard::to_stdvec(&self.request())?)?;
        let (input, _) = pipe()?;
        // Nothing is written to it.
        let (_reader, output) = pipe()?;
        let descriptors = [body.as_fd(), input.as_fd(), output.as_fd(), output.as_fd()];
        let client = Client::ask(&self.places, &Request::Run, &descriptors)?;
        loop {
            match client.receive()?.0 {
                Reply::Weaker(_) | Reply::Started { .. } => {}
                Reply::Ended(summary) if summary.ending == Ending::Code(0) => return Ok(()),
                other => bail!("{other:?}"),
            }
        }
    }

    fn request(&self) -> Run {
        Run {
            profile: Profile::Named("workspace".to_owned()),
            workspace: self.workspace.clone(),
            directory: self.workspace.clone(),
            name: None,
            argv: vec![b"true".to_vec()],
            environment: vec![b"PATH=/usr/bin:/bin".to_vec(), home(&self.workspace)],
            window: None,
            accept_weaker: Vec::new(),
            upstreams: Vec::new(),
            subject: None,
            plan_only: false,
        }
    }
}

fn home(workspace: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let parent = workspace.parent().unwrap_or(workspace);
    [b"HOME=".as_slice(), parent.as_os_str().as_bytes()].concat()
}

/// Starting with no daemon at all: each time new places, so nothing is warm but the page cache.
fn cold() -> anyhow::Result<Samples> {
    let mut samples = Samples::new("skep, cold: no skepd was running");
    for _ in 0..COLD {
        let skep = Skep::new()?;
        let mut command = Command::new(PathBuf::from(skep.command(["ls"]).get_program()));
        command.args(["run", "--profile", "workspace", "--", "true"]).current_dir(skep.ground().workspace());
        command.env("SKEP_STATE", skep.state()).env("SKEP_RUNTIME", skep.runtime()).stderr(Stdio::null());
        let began = Instant::now();
        finish(&mut command)?;
        samples.add(began.elapsed());
        skep.await_idle(Duration::from_secs(30))?;
    }
    Ok(samples)
}
