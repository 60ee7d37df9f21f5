//! One sandbox from request to nothing left.
//!
//! ```text
//!  request ─ prepare ─▶ an empty sandbox: limits, judges ─▶ Launch ─▶ Started ─▶ gateway
//!     │ refused              │ any failure: clear away, Refused             │
//!     ▼                      ▼                                              ▼
//!  Refused               clear away ◀─ Gone ◀─ Exited ◀─ the agent ended, the client left, skepd ends it for
//!                            │                            a `Cause`, or no gateway can be had: all is killed
//!                            ▼
//!                          Ended
//! ```
//!
//! The order matters: the network of an empty sandbox is judged already, and its cgroup is known to the BPF
//! programs before the plan, which is before the first program of the agent's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_kernel::bpf::LookupLink;
use skep_kernel::cgroup::SandboxCgroup;
use skep_kernel::listener::Peer;
use skep_kernel::memfd;
use skep_kernel::seqpacket::ChannelError;
use skep_kernel::splice::is_pipe;
use skep_policy::launch::{Ending, KeeperEvent, KeeperRequest, Network, Plan, Stage};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep, timeout};

use crate::audit::{self, Body, Record, Text};
use crate::client::{Client, Sent};
use crate::gateway::{GatewayError, Service};
use crate::helper::Helper;
use crate::prepare::{Place, Prepared, prepare};
use crate::protocol::{Cause, Refusal, Reply, Request, Run, Summary};
use crate::record::{Failures, losses};
use crate::registry::{Live, Phase, Registry};
use crate::reserve::{Empty, new_id};
use crate::supervisor::{Supervisor, is_set};

/// How long each step of a launch may take before it counts as failed. A launch takes milliseconds; a host
/// that swaps may need seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A wall-clock limit for those who have none: tokio's own longest sleep is of this order.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

/// How long an agent has the processors to itself before the next empty sandbox is made. Many live no longer.
const REST: Duration = Duration::from_millis(5);

/// How often it is asked whether a client is still there while nobody waits for its requests.
const LOOK: Duration = Duration::from_millis(50);

/// Signals of a client that wait to be passed on.
const SIGNALS: usize = 32;

/// The largest request: a profile, and more arguments than the kernel takes.
const LARGEST: u64 = 4 << 20;

/// How many denials a summary names.
const DENIALS_SHOWN: usize = 5;

/// Serves one run request to its end, on the thread of its connection. That thread decides and prepares; the sandbox
/// is followed by a task, so that nothing the client does or sends can keep it from its end.
///
/// # Errors
/// When the client is gone; the sandbox is cleared away all the same.
pub fn run(supervisor: &Arc<Supervisor>, client: Client, peer: Peer, sent: Sent) -> Result<(), ChannelError> {
    client.stays()?;
    let (request, streams) = match decode(&sent) {
        Ok(decoded) => decoded,
        Err(refusal) => return client.send(&Reply::Refused(refusal)),
    };
    if request.plan_only {
        let place = Place { id: new_id(), cgroup: 0, own: supervisor.reserve.next_ids() };
        return match prepare(supervisor, peer, &request, place) {
            Ok(prepared) => send_plan(&client, &prepared),
            Err(refusal) => client.send(&Reply::Refused(refusal)),
        };
    }
    let events = Handle::current();
    let mut sandbox = match events.block_on(begin(supervisor, &client, peer, &request))? {
        Ok(sandbox) => sandbox,
        Err(refusal) => return client.send(&Reply::Refused(refusal)),
    };
    // The keeper has the plan before there is a task: its work and ours go on side by side.
    let handed_over = events.block_on(sandbox.hand_over_unless_unwanted(streams, &client));
    let client = Arc::new(client);
    let (signals, heard) = mpsc::channel(SIGNALS);
    let task = events.spawn(serve(sandbox, handed_over, Arc::clone(&client), heard));
    drop(sent);
    // Whatever else it says is its end: so its agent ends, as with a terminal that is closed.
    while let Ok(Some(Request::Signal(number))) = client.receive() {
        // A sandbox that is flooded with signals misses some, as any process does.
        let _missed = signals.try_send(number);
    }
    drop(signals);
    events.block_on(task).unwrap_or_else(|panicked| {
        tracing::error!(%panicked, "a sandbox's task failed");
        Ok(())
    })
}

/// Everything before the plan is handed over. The first error is the client's end.
async fn begin(
    supervisor: &Arc<Supervisor>,
    client: &Client,
    peer: Peer,
    request: &Run,
) -> Result<Result<Sandbox, Refusal>, ChannelError> {
    let empty = match supervisor.reserve.take().await {
        Ok(empty) => empty,
        Err(error) => return Ok(Err(launch("keeper", &error))),
    };
    let prepared = match prepare(supervisor, peer, request, empty.place()) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            supervisor.reserve.give_back(empty);
            return Ok(Err(refusal));
        }
    };
    if let Err(gone) = warn(client, &prepared) {
        supervisor.reserve.give_back(empty);
        return Err(gone);
    }
    Ok(Sandbox::create(supervisor, empty, prepared))
}

/// Tells the client what it should know before the agent starts.
fn warn(client: &Client, prepared: &Prepared) -> Result<(), ChannelError> {
    let weaker = prepared.weaker();
    if weaker.is_empty() { Ok(()) } else { client.send(&Reply::Weaker(weaker)) }
}

/// Follows a sandbox to its end and tells its client.
async fn serve(
    mut sandbox: Sandbox,
    handed_over: Result<(), Refusal>,
    client: Arc<Client>,
    signals: mpsc::Receiver<i32>,
) -> Result<(), ChannelError> {
    let reply = sandbox.live(handed_over, &client, signals).await;
    let sent = client.tell(reply, Vec::new()).await;
    sandbox.remove();
    client.end_receiving();
    sent
}

/// The request and the streams behind it.
///
/// # Errors
/// When it is not what a client of ours sends.
fn decode(sent: &[OwnedFd]) -> Result<(Run, &[OwnedFd]), Refusal> {
    let malformed = |why: &str| Refusal::new("request", format!("the request is malformed: {why}"), "");
    let (body, streams) = sent.split_first().ok_or_else(|| malformed("no body"))?;
    let body = memfd::read(body, LARGEST).map_err(|error| match error.errno {
        libc::EFBIG => malformed(&format!("it has more than {LARGEST} bytes")),
        _ => malformed(&error.to_string()),
    })?;
    let request: Run = postcard::from_bytes(&body).map_err(|error| malformed(&error.to_string()))?;
    let expected = if request.window.is_some() || request.plan_only { 0 } else { 3 };
    if !request.plan_only && streams.len() != expected {
        return Err(malformed("three streams or a window"));
    }
    // The keeper and PID 1 close their copies of them: no server of a file system may have a say in that.
    if !streams.iter().all(is_pipe) {
        return Err(malformed("its streams must be pipes"));
    }
    match request.check() {
        Ok(()) => Ok((request, streams)),
        Err(why) => Err(malformed(&why)),
    }
}

fn send_plan(client: &Client, prepared: &Prepared) -> Result<(), ChannelError> {
    /// Well below the limit of one message.
    const PIECE: usize = 32 * 1024;
    let text = prepared.plan_as_json();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        client.send(&Reply::Plan(piece.to_owned()))?;
        rest = after;
    }
    client.send(&Reply::Done)
}

/// A sandbox with everything outside of it that must be undone.
struct Sandbox {
    supervisor: Arc<Supervisor>,
    live: Arc<Live>,
    plan: Plan,
    start: audit::Start,
    /// From before its first record: whichever is missing, it ends.
    unrecorded: Failures,
    wall_clock: Option<Duration>,
    /// Why we have ended it, if we have.
    cause: Option<Cause>,
    cgroup: SandboxCgroup,
    keeper: Helper,
    lookup: Option<LookupLink>,
    begun: Instant,
    /// What the gateway will serve, until it is asked to.
    service: Option<Service>,
    /// Its answer, until it is heard.
    serving: Option<Serving>,
    /// Until everything above is gone.
    _registered: Registered,
}

/// A sandbox in the registry. It leaves it also when its task panics, for a daemon that stops waits for all of them;
/// the keeper, whose channel is closed before that, ends what is in it.
struct Registered {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Registered {
    /// `None` if its owner has one of this name.
    fn new(registry: &Arc<Registry>, live: &Arc<Live>) -> Option<Self> {
        let (registry, live) = (Arc::clone(registry), Arc::clone(live));
        registry.insert(Arc::clone(&live)).then(|| Self { registry, live })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.live);
    }
}

/// The gateway's answer to being asked to serve a sandbox.
type Serving = JoinHandle<Result<(), GatewayError>>;

/// How the sandbox's life went.
enum Outcome {
    /// The agent ran and ended, and so has everything else in the sandbox.
    Gone(Ending),
    /// The agent ran and ended; of the rest nobody has told.
    Ended(Ending),
    /// It never started, or could not go on.
    Failed(Refusal),
}

impl Sandbox {
    /// Gives an empty sandbox its name and its limits, and announces it to the judges.
    fn create(supervisor: &Arc<Supervisor>, empty: Empty, prepared: Prepared) -> Result<Self, Refusal> {
        let wall_clock = prepared.wall_clock();
        let Prepared { live, plan, upstreams, limits, start, .. } = prepared;
        let live = Arc::new(live);
        let Some(registered) = Registered::new(&supervisor.registry, &live) else {
            supervisor.reserve.give_back(empty);
            let message = format!("a sandbox named {} of the same user is running already", live.name);
            return Err(Refusal::new("name", message, "choose another --name, or leave it out"));
        };
        let limited = supervisor.cgroups.apply_limits(&empty.cgroup, &limits);
        let judged = limited.map_err(|error| launch("limits", &error)).and_then(|()| {
            let admitted = supervisor.admit(empty.cgroup.number(), &live.policy.egress);
            admitted.map_err(|error| launch("BPF map", &error))
        });
        if let Err(refusal) = judged {
            // What was admitted in part is forgotten again.
            let _nothing_ran = supervisor.dismiss(empty.cgroup.number());
            supervisor.reserve.discard(empty);
            return Err(refusal);
        }
        let Empty { cgroup, keeper, sockets, lookup, .. } = empty;
        let service = Service {
            sandbox: live.id.clone(),
            rules: live.policy.egress.clone(),
            own: (Network::OF_A_SANDBOX.v4, Network::OF_A_SANDBOX.v6),
            upstreams,
            sockets,
        };
        Ok(Self {
            supervisor: Arc::clone(supervisor),
            live,
            plan,
            start,
            unrecorded: supervisor.recorder.failures(),
            wall_clock,
            cause: None,
            cgroup,
            keeper,
            lookup: Some(lookup),
            begun: Instant::now(),
            service: Some(service),
            serving: None,
            _registered: registered,
        })
    }

    /// What may take its time in it is the building of a template, of whatever the host's file systems are.
    async fn hand_over_unless_unwanted(
        &mut self,
        streams: &[OwnedFd],
        client: &Client,
    ) -> Result<(), Refusal> {
        let mut stopping = self.supervisor.stopping();
        tokio::select! {
            handed_over = self.hand_over(streams) => handed_over,
            () = is_set(&mut stopping) => Err(broken_off(Some(Cause::Stopping))),
            () = left(client) => Err(broken_off(None)),
        }
    }

    /// Records the launch and gives the plan to the keeper.
    async fn hand_over(&mut self, streams: &[OwnedFd]) -> Result<(), Refusal> {
        self.write([Body::Start(self.start.clone())])?;
        let template = self.supervisor.templates.of(&self.supervisor, &self.plan).await?;
        self.plan.template.retain(|op| op.put_off().is_some());
        let plan = postcard::to_stdvec(&self.plan).map_err(|_unencodable| internal("plan"))?;
        let plan = memfd::sealed("skep-plan", &plan).map_err(|error| launch("plan", &error))?;
        let mut descriptors = vec![plan.as_fd(), template.as_fd()];
        descriptors.extend(streams.iter().map(AsFd::as_fd));
        self.tell_keeper(&KeeperRequest::Launch { template: true }, &descriptors).await
    }

    /// Awaits the agent's start, follows it and clears away; the reply tells the client how it went.
    async fn live(
        &mut self,
        handed_over: Result<(), Refusal>,
        client: &Arc<Client>,
        signals: mpsc::Receiver<i32>,
    ) -> Reply {
        let mut controls = Controls::of(self, signals);
        let started = match handed_over {
            Ok(()) => self.started(client, &mut controls).await,
            Err(refusal) => Err(refusal),
        };
        self.supervisor.reserve.refill_after(REST);
        let outcome = match started {
            Ok(()) => self.follow(&mut controls).await,
            Err(refusal) => Outcome::Failed(refusal),
        };
        self.live.progress().phase = Phase::Ending;
        let recorded = self.clear_away(&outcome).await;
        match (outcome, recorded) {
            (Outcome::Failed(refusal), _) | (_, Err(refusal)) => Reply::Refused(refusal),
            (Outcome::Gone(ending) | Outcome::Ended(ending), Ok(())) => Reply::Ended(self.summary(ending)),
        }
    }

    /// Waits until the agent runs, and tells the client.
    async fn started(&mut self, client: &Arc<Client>, controls: &mut Controls) -> Result<(), Refusal> {
        let event = tokio::select! {
            event = self.keeper_event() => event?,
            cause = controls.broken_off() => return Err(broken_off(cause)),
        };
        let (pid, master) = match event {
            (KeeperEvent::Started { pid }, master) => (pid, master),
            (KeeperEvent::Failed { stage, object, errno }, _) => {
                return Err(self.launch_failure(stage, &object, errno));
            }
            _ => return Err(internal("keeper protocol")),
        };
        {
            let mut progress = self.live.progress();
            progress.pid = Some(pid);
            progress.phase = Phase::Running;
        }
        let reply = Reply::Started { id: self.live.id.clone(), name: self.live.name.clone(), pid };
        let told = client.tell(reply, master).await;
        told.map_err(|_gone| Refusal::new("client", "the client is gone", ""))?;
        // Not earlier: what the agent sends waits in the sockets, and the launch needs the processors.
        let service = self.service.take().ok_or_else(|| internal("gateway"))?;
        let (supervisor, owner) = (Arc::clone(&self.supervisor), self.live.owner);
        self.serving = Some(tokio::spawn(async move { supervisor.gateways.serve(owner, service).await }));
        for signal in std::mem::take(&mut controls.early) {
            self.signal(signal).await;
        }
        Ok(())
    }

    /// Follows the running agent until nothing of it is left.
    async fn follow(&mut self, controls: &mut Controls) -> Outcome {
        let mut ending = None;
        loop {
            let happened = tokio::select! {
                event = self.keeper.channel.receive() => Happened::Keeper(event),
                control = controls.next(), if ending.is_none() => Happened::Control(control),
                served = answer(&mut self.serving) => Happened::Served(served),
            };
            match happened {
                Happened::Keeper(Ok(Some((KeeperEvent::Exited(how), _)))) => {
                    ending.get_or_insert(how);
                }
                Happened::Keeper(Ok(Some((KeeperEvent::Gone, _)))) => {
                    return Outcome::Gone(ending.unwrap_or(Ending::Signal(9)));
                }
                Happened::Keeper(Ok(Some(_))) => return Outcome::Failed(internal("keeper protocol")),
                // The keeper died: its PID 1 dies with it, and clear_away makes sure of it.
                Happened::Keeper(Ok(None) | Err(_)) => {
                    return ending.map_or_else(keeper_died, Outcome::Ended);
                }
                Happened::Control(Control::Signal(number)) => self.signal(number).await,
                // So does its agent, as with a terminal that is closed.
                Happened::Control(Control::Left) => self.kill(),
                Happened::Control(Control::End(cause)) => {
                    ending = Some(ending_by(cause));
                    self.cause = Some(cause);
                    self.kill();
                }
                Happened::Served(Ok(())) => {}
                Happened::Served(Err(error)) => {
                    let advice = "skep audit has what it said";
                    return Outcome::Failed(Refusal::new("gateway", error.to_string(), advice));
                }
            }
        }
    }

    async fn signal(&self, number: i32) {
        let known = (1..=64).contains(&number);
        if known && self.tell_keeper(&KeeperRequest::Signal(number), &[]).await.is_err() {
            tracing::debug!("a signal met a sandbox that is ending");
        }
    }

    /// Ends every process of the sandbox now, whatever it does.
    fn kill(&self) {
        if let Err(error) = self.cgroup.kill() {
            tracing::error!(%error, sandbox = self.live.id, "cgroup.kill failed, the keeper is ended instead");
            self.keeper.kill();
        }
    }

    /// Ends everything of the sandbox that could still act, and writes its last record.
    async fn clear_away(&mut self, outcome: &Outcome) -> Result<(), Refusal> {
        match outcome {
            Outcome::Gone(_) => {}
            Outcome::Ended(_) | Outcome::Failed(_) => self.end_processes(),
        }
        self.lookup = None;
        self.supervisor.events.drained(Some(self.cgroup.number())).await;
        let counts = self.supervisor.dismiss(self.cgroup.number());
        self.dismiss_gateway(counts.is_none_or(|counts| counts.sent > 0)).await;
        let status = match (outcome, self.cause) {
            (Outcome::Failed(refusal), _) => {
                let what = if self.live.progress().pid.is_some() { "failed" } else { "launch failed" };
                format!("{what}: {}", refusal.message)
            }
            (_, Some(cause)) => format!("killed: {cause}"),
            (Outcome::Gone(Ending::Code(code)) | Outcome::Ended(Ending::Code(code)), None) => {
                format!("exit {code}")
            }
            (Outcome::Gone(Ending::Signal(signal)) | Outcome::Ended(Ending::Signal(signal)), None) => {
                format!("signal {signal}")
            }
        };
        let lost = counts.and_then(|counts| losses(&self.live, counts.lost));
        let counters = {
            let mut progress = self.live.progress();
            progress.counters.reads = counts.map_or(0, |counts| counts.reads);
            progress.counters
        };
        let end = Body::End(audit::End {
            status: Text::from(status),
            milliseconds: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            counters,
        });
        let written = self.write(lost.into_iter().chain([end]));
        self.supervisor.registry.retire(&self.live);
        written
    }

    /// Returns when no process is left, whatever the keeper was about to do.
    fn end_processes(&self) {
        self.keeper.kill();
        self.kill();
        if let Err(error) = tokio::task::block_in_place(|| self.cgroup.wait_empty(PATIENCE)) {
            tracing::error!(%error, sandbox = self.live.id, "its processes do not end");
        }
    }

    /// Cuts the network off. What the gateway still has to say comes before the last record.
    async fn dismiss_gateway(&mut self, has_sent: bool) {
        let (supervisor, live) = (Arc::clone(&self.supervisor), Arc::clone(&self.live));
        let mut serving = self.serving.take();
        let dismissed = async move {
            // The gateway must have been asked to serve before it is asked to stop.
            if serving.is_some()
                && let Err(error) = answer(&mut serving).await
            {
                supervisor.recorder.gateway_failed(&live.id, &error.to_string());
            }
            supervisor.gateways.dismiss(live.owner, &live.id).await;
        };
        match has_sent {
            true => dismissed.await,
            // Nobody waits for it.
            false => drop(tokio::spawn(dismissed)),
        }
    }

    /// Removes what is left when everything has ended and been told.
    fn remove(self) {
        if let Err(error) = tokio::task::block_in_place(|| self.cgroup.remove(PATIENCE)) {
            tracing::error!(%error, sandbox = self.live.id, "its cgroup stays behind");
        }
        self.supervisor.record_skipped();
    }

    fn summary(&self, ending: Ending) -> Summary {
        let progress = self.live.progress();
        Summary {
            ending,
            cause: self.cause,
            counters: progress.counters,
            denials: progress.most_telling(DENIALS_SHOWN),
            denials_in_all: progress.denials.iter().count() as u64,
            audit: self.supervisor.places.audit(),
        }
    }

    fn write(&self, bodies: impl IntoIterator<Item = Body>) -> Result<(), Refusal> {
        let records = bodies.into_iter().map(|body| Record::of(&self.live.origin, body)).collect();
        self.supervisor.recorder.write_all(records).map_err(|error| {
            Refusal::new(
                "audit",
                format!("the audit cannot be written: {error}"),
                format!("make room in {}", self.supervisor.places.audit().display()),
            )
        })
    }

    async fn tell_keeper(
        &self,
        request: &KeeperRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Refusal> {
        self.keeper.channel.send(request, descriptors).await.map_err(|error| launch("skep-keeper", &error))
    }

    async fn keeper_event(&self) -> Result<(KeeperEvent, Vec<OwnedFd>), Refusal> {
        match timeout(PATIENCE, self.keeper.channel.receive()).await {
            Ok(Ok(Some(event))) => Ok(event),
            Ok(Ok(None)) => Err(Refusal::new("keeper", "skep-keeper ended during the launch", "try again")),
            Ok(Err(error)) => Err(launch("skep-keeper", &error)),
            Err(_elapsed) => Err(Refusal::new("keeper", "skep-keeper did not answer in time", "try again")),
        }
    }

    /// What a failed step of the keeper means to the person who typed the command.
    fn launch_failure(&self, stage: Stage, object: &str, errno: i32) -> Refusal {
        let reason = std::io::Error::from_raw_os_error(errno);
        let object = object.escape_debug();
        let command = String::from_utf8_lossy(&self.plan.command.program).escape_debug().to_string();
        if stage != Stage::Exec {
            let advice = "skep run --plan shows each step, skep doctor what this host can do";
            return Refusal::new(
                "launch",
                format!("the launch failed at {stage:?} {object}: {reason}"),
                advice,
            );
        }
        exec_failure(&command, &object.to_string(), errno, &self.live.profile)
    }
}

/// Why the agent's program could not be executed. It was there, and executable, when the caller's files were looked at.
fn exec_failure(command: &str, object: &str, errno: i32, profile: &str) -> Refusal {
    let missing =
        |message, advice| Refusal { exit: 127, ..Refusal::new("command-not-found", message, advice) };
    let bad = |message, advice| Refusal { exit: 126, ..Refusal::new("not-executable", message, advice) };
    match errno {
        libc::ENOENT if object == command => missing(
            format!("{command}: the profile {profile} does not grant it, so the sandbox does not have it"),
            "give its directory read and exec in the profile, or name a profile that does",
        ),
        libc::ENOENT => missing(
            format!("{command}: the sandbox has it, but not what runs it: {object}"),
            "install that, or give its directory read and exec in the profile",
        ),
        libc::ENOEXEC => bad(
            format!("{command}: it is no program of this machine's, and no script: it has no #! line"),
            "let its first line name what runs it, like #!/bin/sh, or name that before it",
        ),
        _ => bad(
            format!("{command}: {}", std::io::Error::from_raw_os_error(errno)),
            "the file must be executable, and its directory be in the profile's exec",
        ),
    }
}

/// What the task of a running sandbox waits for.
enum Happened {
    /// The keeper said something, or ended.
    Keeper(Result<Option<(KeeperEvent, Vec<OwnedFd>)>, ChannelError>),
    /// Somebody outside wants something of it.
    Control(Control),
    /// The gateway serves it, or cannot.
    Served(Result<(), GatewayError>),
}

/// What is wanted of a sandbox from outside.
enum Control {
    /// A signal for the agent.
    Signal(i32),
    /// The client has left.
    Left,
    /// The sandbox must end.
    End(Cause),
}

/// Everything outside that a sandbox obeys.
struct Controls {
    unrecorded: Failures,
    share_used_up: watch::Receiver<bool>,
    share: u64,
    stopping: watch::Receiver<bool>,
    wall_clock: Pin<Box<Sleep>>,
    limit: Duration,
    /// `None` once the client has left.
    signals: Option<mpsc::Receiver<i32>>,
    /// Signals from before there was an agent.
    early: Vec<i32>,
}

impl Controls {
    fn of(sandbox: &Sandbox, signals: mpsc::Receiver<i32>) -> Self {
        let (supervisor, share) = (&sandbox.supervisor, &sandbox.live.origin.share);
        let limit = sandbox.wall_clock.unwrap_or(FOREVER);
        Self {
            unrecorded: sandbox.unrecorded.clone(),
            share_used_up: share.used_up(),
            share: share.bytes(),
            stopping: supervisor.stopping(),
            wall_clock: Box::pin(sleep(limit)),
            limit,
            signals: Some(signals),
            early: Vec::new(),
        }
    }

    async fn next(&mut self) -> Control {
        let signal = tokio::select! {
            () = self.unrecorded.next() => return Control::End(Cause::Audit),
            () = is_set(&mut self.share_used_up) => {
                return Control::End(Cause::Share { bytes: self.share });
            }
            () = is_set(&mut self.stopping) => return Control::End(Cause::Stopping),
            () = &mut self.wall_clock => {
                let milliseconds = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
                return Control::End(Cause::WallClock { milliseconds });
            }
            signal = next_signal(&mut self.signals) => signal,
        };
        if signal.is_none() {
            self.signals = None;
        }
        signal.map_or(Control::Left, Control::Signal)
    }

    /// Says why a launch is to be broken off, `None` because the client left; signals are kept for the agent.
    async fn broken_off(&mut self) -> Option<Cause> {
        loop {
            match self.next().await {
                Control::Signal(number) if self.early.len() < SIGNALS => self.early.push(number),
                Control::Signal(_) => {}
                Control::Left => return None,
                Control::End(cause) => return Some(cause),
            }
        }
    }
}

/// Resolves when the client has left. It is looked at now and then: its requests are for later.
async fn left(client: &Client) {
    while !client.has_left() {
        sleep(LOOK).await;
    }
}

async fn next_signal(signals: &mut Option<mpsc::Receiver<i32>>) -> Option<i32> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}

/// The gateway's answer, once.
async fn answer(serving: &mut Option<Serving>) -> Result<(), GatewayError> {
    let Some(asked) = serving else { return std::future::pending().await };
    let answered = asked.await;
    *serving = None;
    answered.unwrap_or(Err(GatewayError::Silent("was not asked")))
}

/// How an agent ends that we end.
fn ending_by(cause: Cause) -> Ending {
    match cause {
        Cause::Stopping => Ending::Signal(15),
        Cause::Audit | Cause::Share { .. } | Cause::WallClock { .. } => Ending::Signal(9),
    }
}

fn broken_off(cause: Option<Cause>) -> Refusal {
    match cause {
        Some(cause) => Refusal::new("ended", cause.to_string(), cause.advice()),
        None => Refusal::new("ended", "the client left during the launch", ""),
    }
}

fn keeper_died() -> Outcome {
    let advice = "skep audit has the records until then";
    Outcome::Failed(Refusal::new("keeper", "skep-keeper ended, and with it the sandbox", advice))
}

fn launch(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new("launch", format!("{what}: {error}"), "skep doctor says what this host has")
}

fn internal(what: &str) -> Refusal {
    Refusal::new("internal", format!("skepd failed at: {what}"), "its journal says more; please report it")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn decoded(streams: Vec<OwnedFd>) -> Result<usize, String> {
        let body = postcard::to_stdvec(&Run::for_tests()).unwrap();
        let mut sent = vec![memfd::sealed("run", &body).unwrap()];
        sent.extend(streams);
        decode(&sent).map(|(_, streams)| streams.len()).map_err(|refusal| refusal.message)
    }

    fn pipes() -> [OwnedFd; 3] {
        [(); 3].map(|()| std::io::pipe().unwrap().0.into())
    }

    #[test]
    fn streams_are_pipes_whose_close_nobody_can_hold_up() {
        assert_eq!(decoded(pipes().into()), Ok(3));
        let others: [OwnedFd; 5] = [
            tempfile::tempfile().unwrap().into(),
            File::open("/").unwrap().into(),
            File::open("/dev/null").unwrap().into(),
            UnixStream::pair().unwrap().0.into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
        ];
        for (index, other) in others.into_iter().enumerate() {
            let [first, second, _] = pipes();
            let refused = decoded(vec![first, second, other]).unwrap_err();
            assert!(refused.contains("pipes"), "{index}: {refused}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_told_by_its_cause() {
        for (object, errno, exit, word) in [
            ("/w/x", libc::ENOENT, 127, "the profile p does not grant it"),
            ("/no/such", libc::ENOENT, 127, "not what runs it: /no/such"),
            ("/w/x", libc::ENOEXEC, 126, "no #! line"),
            ("/w/x", libc::EACCES, 126, "Permission denied"),
        ] {
            let refusal = exec_failure("/w/x", object, errno, "p");
            assert!(refusal.exit == exit && refusal.message.contains(word), "{refusal:?}");
        }
    }

    #[tokio::test]
    async fn a_sandbox_whose_task_panics_does_not_stay_registered() {
        let registry = Arc::new(Registry::default());
        let live = Arc::new(Live::for_tests("a", 1));
        let registered = Registered::new(&registry, &live).unwrap();
        assert!(Registered::new(&registry, &Arc::new(Live::for_tests("a", 2))).is_none());
        let task = tokio::spawn(async move {
            let _registered = registered;
            std::panic::resume_unwind(Box::new("a task"));
        });
        assert!(task.await.unwrap_err().is_panic());
        assert!(registry.is_empty());
    }
}
