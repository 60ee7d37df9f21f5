//! Drives a real keeper the way skepd does: hand-made plans, a cgroup of the test's own.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several tests"
)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skep_kernel::memfd;
use skep_kernel::seqpacket::Channel;
use skep_kernel::spawn::{self, Spawner};
use skep_policy::launch::{
    Command, Ending, Ids, KeeperEvent, KeeperRequest, Network, ObjectKind, Plan, RootOp, Terminal, VERSION,
};

pub const AGENT: Ids = Ids { uid: 4242, gid: 4243 };
pub const INIT: Ids = Ids { uid: 64_987, gid: 64_988 };

/// `ret ALLOW`
pub const ALLOW_ALL: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup of the test's own, removed with whatever is left in it.
pub struct Cgroup {
    pub name: String,
    pub path: PathBuf,
}

impl Cgroup {
    pub fn make() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skep-test-{}-{number}", std::process::id());
        let path = parent().join(&name);
        fs::create_dir(&path).expect("the tests need root and a cgroup v2 hierarchy");
        Self { name, path }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::write(self.path.join("cgroup.kill"), "1").ok();
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn parent() -> PathBuf {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    if unified.exists() { unified } else { PathBuf::from("/sys/fs/cgroup") }
}

pub fn bind(from: &str, write: bool) -> RootOp {
    RootOp::Bind {
        from: from.into(),
        at: from.into(),
        kind: ObjectKind::Directory,
        write,
        exec: true,
        owner_as_agent: None,
    }
}

/// What launches can share: the system, `/dev` and a few files.
pub fn template() -> Vec<RootOp> {
    let link = |at: &str, target: &str| RootOp::Symlink { at: at.into(), target: target.into() };
    vec![
        bind("/usr", false),
        link("/bin", "usr/bin"),
        link("/lib", "usr/lib"),
        link("/lib64", "usr/lib64"),
        RootOp::Directory { at: "/etc".into(), mode: 0o755 },
        RootOp::Content {
            at: "/etc/passwd".into(),
            bytes: b"agent:x:4242:4243::/tmp:/bin/sh\n".to_vec(),
            mode: 0o644,
        },
        RootOp::Devices { shm_bytes: 1 << 20 },
    ]
}

pub fn private() -> Vec<RootOp> {
    vec![RootOp::Tmpfs { at: "/tmp".into(), bytes: 8 << 20, mode: 0o1777, exec: true }, RootOp::Proc]
}

/// Programs that let everything pass, so that what is tested is the rest; with `SKEP_TEST_FILTERS` those of that
/// directory, to see that all of it works under the real ones too.
fn filter(name: &str) -> Vec<u8> {
    match std::env::var_os("SKEP_TEST_FILTERS") {
        Some(directory) => fs::read(Path::new(&directory).join(name)).unwrap(),
        None => ALLOW_ALL.to_vec(),
    }
}

pub fn plan(argv: &[&str]) -> Plan {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Plan {
        version: VERSION,
        sandbox: "unnamed".into(),
        agent: AGENT,
        init: INIT,
        lookup: AGENT,
        template: template(),
        private: private(),
        landlock: None,
        rlimits: Vec::new(),
        agent_filter: filter("agent.bpf"),
        init_filter: filter("init.bpf"),
        command: Command {
            program: if argv[0].contains('/') {
                bytes(argv[0])
            } else {
                bytes(&format!("/usr/bin/{}", argv[0]))
            },
            argv: argv.iter().copied().map(bytes).collect(),
            environment: vec![bytes("PATH=/usr/bin"), bytes("HOME=/tmp")],
            directory: "/".into(),
        },
        terminal: Terminal::Pipes,
    }
}

pub fn shell(script: &str) -> Plan {
    plan(&["sh", "-c", script])
}

/// A keeper at work, and everything it was given.
pub struct Run {
    pub keeper: Child,
    pub channel: Channel,
    pub cgroup: Cgroup,
    pub output: Option<File>,
    /// Network namespace and listeners.
    pub network: Vec<OwnedFd>,
}

/// What came of a run.
pub struct Outcome {
    pub ending: Ending,
    pub output: String,
    pub status: ExitStatus,
}

pub fn keeper() -> spawn::Helper {
    let other = std::env::var_os("SKEP_TEST_KEEPER");
    let program = other.as_deref().map_or(Path::new(env!("CARGO_BIN_EXE_skep-keeper")), Path::new);
    Spawner::start().unwrap().helper(program, &[], None).unwrap()
}

pub fn sealed(plan: &Plan) -> OwnedFd {
    memfd::sealed("plan", &postcard::to_stdvec(plan).unwrap()).unwrap()
}

/// Has a template built from a plan.
pub fn build_template(plan: &Plan) -> OwnedFd {
    let mut helper = keeper();
    helper.channel.send(&KeeperRequest::BuildTemplate, &[sealed(plan).as_fd()]).unwrap();
    let (event, mut descriptors) = helper.channel.receive::<KeeperEvent>().unwrap().unwrap();
    assert_eq!(event, KeeperEvent::Template);
    assert!(helper.channel.receive::<KeeperEvent>().unwrap().is_none());
    assert!(helper.child.wait().unwrap().success());
    descriptors.remove(0)
}

/// Starts a launch up to the request. Standard output and error arrive in [`Run::output`].
pub fn launch(plan: Plan, template: Option<BorrowedFd<'_>>) -> Run {
    launch_in(waiting(), plan, template)
}

/// An empty sandbox that waits for its plan.
pub struct Waiting {
    pub helper: spawn::Helper,
    pub network: Vec<OwnedFd>,
    pub cgroup: Cgroup,
}

pub fn waiting() -> Waiting {
    let (helper, cgroup) = (keeper(), Cgroup::make());
    let directory = File::open(&cgroup.path).unwrap();
    let above = File::open(parent()).unwrap();
    let (sandbox, network) = (cgroup.name.clone(), Network::OF_A_SANDBOX);
    let request = KeeperRequest::Isolate { sandbox, network, own: Ids { uid: 70_000, gid: 70_000 } };
    helper.channel.send(&request, &[directory.as_fd(), above.as_fd()]).unwrap();
    let (event, network) = helper.channel.receive::<KeeperEvent>().unwrap().unwrap();
    assert_eq!((event, network.len()), (KeeperEvent::Isolated, 5));
    Waiting { helper, network, cgroup }
}

/// [`launch`] in an empty sandbox.
pub fn launch_in(waiting: Waiting, plan: Plan, template: Option<BorrowedFd<'_>>) -> Run {
    let Waiting { helper, network, cgroup } = waiting;
    let plan = Plan { sandbox: cgroup.name.clone(), ..plan };
    let memory = sealed(&plan);
    let null = File::open("/dev/null").unwrap();
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let mut descriptors = vec![memory.as_fd()];
    descriptors.extend(template);
    if plan.terminal == Terminal::Pipes {
        descriptors.extend([null.as_fd(), write.as_fd(), write.as_fd()]);
    }
    let request = KeeperRequest::Launch { template: template.is_some() };
    helper.channel.send(&request, &descriptors).unwrap();
    drop(write);
    Run { keeper: helper.child, channel: helper.channel, cgroup, output: Some(File::from(read)), network }
}

impl Run {
    /// The next event; a keeper that says nothing for ten seconds is a failure, not a hang.
    pub fn event(&self) -> Option<(KeeperEvent, Vec<OwnedFd>)> {
        let mut wait = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut wait, PollTimeout::from(10_000_u16)), Ok(1), "the keeper says nothing");
        self.channel.receive().unwrap()
    }

    pub fn expect(&self, expected: &KeeperEvent) -> Vec<OwnedFd> {
        let (event, descriptors) = self.event().expect("the keeper has gone");
        assert_eq!(&event, expected);
        descriptors
    }

    pub fn started(&self) -> u32 {
        match self.event().expect("the keeper has gone").0 {
            KeeperEvent::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// To the end of a plan that is expected to work.
    pub fn finish(mut self) -> Outcome {
        self.started();
        let mut output = String::new();
        self.output.take().unwrap().read_to_string(&mut output).unwrap();
        let ending = match self.event().expect("the keeper has gone").0 {
            KeeperEvent::Exited(ending) => ending,
            other => panic!("{other:?}"),
        };
        self.expect(&KeeperEvent::Gone);
        assert!(self.event().is_none());
        let status = self.keeper.wait().unwrap();
        assert_eq!(processes(&self.cgroup), "");
        Outcome { ending, output, status }
    }

    /// To the failure of a plan that is expected to fail.
    pub fn failure(mut self) -> KeeperEvent {
        let event = self.event().expect("the keeper has gone").0;
        let after = self.event();
        assert!(after.is_none(), "after {event:?}: {after:?}");
        self.keeper.wait().unwrap();
        assert_eq!(processes(&self.cgroup), "");
        event
    }
}

pub fn processes(cgroup: &Cgroup) -> String {
    fs::read_to_string(cgroup.path.join("cgroup.procs")).unwrap()
}

/// Runs a script as the agent and returns what it wrote; it must end well.
pub fn output_of(plan: Plan) -> String {
    let outcome = launch(plan, None).finish();
    assert_eq!(outcome.ending, Ending::Code(0), "{}", outcome.output);
    outcome.output
}

pub fn said(script: &str) -> String {
    output_of(shell(script))
}
