//! One sandbox from request to nothing left.
//!
//! ```text
//!  request ─ prepare ─▶ cgroup, judges ─▶ keeper: Launch ─▶ Prepared ─▶ lookup link, gateway ─▶ Go ─▶ Started
//!     │ refused              │ any failure: clear away, Refused                                     │
//!     ▼                      ▼                                                                      ▼
//!  Refused               clear away ◀─ Gone ◀─ Exited ◀─ the agent ended, the client left, skepd stops, or
//!                            │                            the audit broke: everything is killed
//!                            ▼
//!                          Ended
//! ```
//!
//! The order matters: the cgroup is known to the BPF programs before its first task exists, and `Go` is sent
//! only when the network is judged.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_kernel::bpf::{LookupLink, LookupPlace};
use skep_kernel::cgroup::SandboxCgroup;
use skep_kernel::channel::AsyncChannel;
use skep_kernel::listener::Peer;
use skep_kernel::memfd;
use skep_kernel::seqpacket::ChannelError;
use skep_policy::launch::{
    Ending, KeeperEvent, KeeperRequest, SANDBOX_NAME, Stage, Terminal, is_sandbox_name,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::audit::{self, Body, Record, Text};
use crate::caller::variable;
use crate::gateway::Service;
use crate::helper::Helper;
use crate::prepare::{Prepared, prepare};
use crate::protocol::{Refusal, Reply, Request, Run, Summary};
use crate::registry::{Live, Phase};
use crate::supervisor::Supervisor;

/// How long each step of a launch may take before it counts as failed. A launch takes milliseconds; a host
/// that swaps may need seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A wall-clock limit for those who have none: tokio's own longest sleep is of this order.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

/// How many denials a summary names.
const DENIALS_SHOWN: usize = 5;

/// Serves one run request to its end.
///
/// # Errors
/// When the client is gone; the sandbox is cleared away all the same.
pub async fn run(
    supervisor: Arc<Supervisor>,
    client: AsyncChannel,
    peer: Peer,
    descriptors: Vec<OwnedFd>,
) -> Result<(), ChannelError> {
    let (request, streams) = match decode(descriptors) {
        Ok(request) => request,
        Err(refusal) => return client.send(&Reply::Refused(refusal), &[]).await,
    };
    let plan_only = request.plan_only;
    let blocking = Arc::clone(&supervisor);
    let prepared = tokio::task::spawn_blocking(move || prepare(&blocking, peer, &request)).await;
    let prepared = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(refusal)) => return client.send(&Reply::Refused(refusal), &[]).await,
        Err(_panicked) => return client.send(&Reply::Refused(internal("preparing")), &[]).await,
    };
    if plan_only {
        return send_plan(&client, &prepared).await;
    }
    let weaker = prepared.weaker();
    if !weaker.is_empty() {
        client.send(&Reply::Weaker(weaker), &[]).await?;
    }
    for notice in &prepared.notices {
        client.send(&Reply::Notice(notice.clone()), &[]).await?;
    }
    let reply = match Sandbox::create(&supervisor, prepared) {
        Ok(sandbox) => sandbox.live(&client, streams).await,
        Err(refusal) => Reply::Refused(refusal),
    };
    client.send(&reply, &[]).await
}

fn decode(mut descriptors: Vec<OwnedFd>) -> Result<(Run, Vec<OwnedFd>), Refusal> {
    let malformed = |why: &str| Refusal::new("request", format!("the request is malformed: {why}"), "");
    if descriptors.is_empty() {
        return Err(malformed("no body"));
    }
    let streams = descriptors.split_off(1);
    let body = memfd::read(descriptors.remove(0)).map_err(|error| malformed(&error.to_string()))?;
    let request: Run = postcard::from_bytes(&body).map_err(|error| malformed(&error.to_string()))?;
    let expected = if request.window.is_some() || request.plan_only { 0 } else { 3 };
    if !request.plan_only && streams.len() != expected {
        return Err(malformed("three streams or a window"));
    }
    if !request.workspace.is_absolute() || !request.directory.is_absolute() {
        return Err(malformed("a path that is not absolute"));
    }
    if request.name.as_deref().is_some_and(|name| !is_sandbox_name(name)) {
        return Err(malformed(&format!("a name has {SANDBOX_NAME}")));
    }
    if request.argv.is_empty() || request.argv.iter().chain(&request.environment).any(|a| a.contains(&0)) {
        return Err(malformed("no command, or a NUL in it"));
    }
    Ok((request, streams))
}

async fn send_plan(client: &AsyncChannel, prepared: &Prepared) -> Result<(), ChannelError> {
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
        client.send(&Reply::Plan(piece.to_owned()), &[]).await?;
        rest = after;
    }
    client.send(&Reply::Done, &[]).await
}

/// A sandbox with everything outside of it that must be undone.
struct Sandbox<'a> {
    supervisor: &'a Supervisor,
    live: Arc<Live>,
    plan: skep_policy::launch::Plan,
    upstreams: Vec<(String, std::net::SocketAddr)>,
    start: audit::Start,
    wall_clock: Option<Duration>,
    cgroup: SandboxCgroup,
    keeper: Option<Helper>,
    lookup: Option<LookupLink>,
    has_gateway: bool,
}

/// How the sandbox's life went.
enum Outcome {
    /// The agent ran and ended.
    Ended(Ending),
    /// It never started.
    Failed(Refusal),
}

impl<'a> Sandbox<'a> {
    /// Makes the cgroup and announces it to the judges.
    fn create(supervisor: &'a Supervisor, prepared: Prepared) -> Result<Self, Refusal> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Refusal::new("launch", format!("{what}: {error}"), "skep doctor says what this host has")
        };
        let cgroup = supervisor.cgroups.create(&prepared.id).map_err(|e| failed("cgroup", &e))?;
        let Prepared { plan, upstreams, start, limits, .. } = &prepared;
        let (plan, upstreams, start) = (plan.clone(), upstreams.clone(), start.clone());
        let wall_clock = prepared.wall_clock();
        if let Err(error) = supervisor.cgroups.apply_limits(&cgroup, limits) {
            let refusal = failed("limits", &error);
            return Err(undo(&cgroup, refusal));
        }
        let live = Arc::new(prepared.into_live(cgroup.number()));
        if !supervisor.registry.insert(Arc::clone(&live)) {
            let message = format!("a sandbox named {} is running already", live.name);
            return Err(undo(
                &cgroup,
                Refusal::new("name", message, "choose another --name, or leave it out"),
            ));
        }
        let sandbox = Self {
            supervisor,
            live,
            plan,
            upstreams,
            start,
            wall_clock,
            cgroup,
            keeper: None,
            lookup: None,
            has_gateway: false,
        };
        if let Err(error) =
            supervisor.admit(sandbox.cgroup.number(), sandbox.plan.network, &sandbox.live.policy.egress)
        {
            supervisor.registry.remove(&sandbox.live);
            return Err(undo(&sandbox.cgroup, failed("BPF map", &error)));
        }
        Ok(sandbox)
    }

    /// Launches, follows and clears away; the reply tells the client how it went.
    async fn live(mut self, client: &AsyncChannel, streams: Vec<OwnedFd>) -> Reply {
        let begun = Instant::now();
        let outcome = match self.launch(client, streams).await {
            Ok(()) => self.follow(client).await,
            Err(refusal) => Outcome::Failed(refusal),
        };
        self.live.progress().phase = Phase::Ending;
        let recorded = self.clear_away(&outcome, begun).await;
        match (outcome, recorded) {
            (Outcome::Failed(refusal), _) | (_, Err(refusal)) => Reply::Refused(refusal),
            (Outcome::Ended(ending), Ok(())) => Reply::Ended(self.summary(ending)),
        }
    }

    async fn launch(&mut self, client: &AsyncChannel, streams: Vec<OwnedFd>) -> Result<(), Refusal> {
        self.write(Body::Start(self.start.clone()))?;
        let (mut sockets, master) = self.start_keeper(streams).await?;
        let namespace = sockets.remove(0);
        let service = self.judge_network(&namespace, sockets)?;
        drop(namespace);
        if self.tell_keeper(&KeeperRequest::Go, &[]).await.is_err() {
            tracing::debug!(
                "a keeper that failed does not hear Go; what it said of its failure is read next"
            );
        }
        // The gateway may come later than the agent: what the agent sends waits in the sockets it will serve.
        let serving = self.supervisor.gateways.serve(self.live.owner, service);
        let (serving, started) = tokio::join!(serving, self.keeper_event());
        let pid = match started? {
            (KeeperEvent::Started { pid }, _) => pid,
            (KeeperEvent::Failed { stage, object, errno }, _) => {
                return Err(self.launch_failure(stage, &object, errno));
            }
            _ => return Err(internal("keeper protocol")),
        };
        serving.map_err(|error| Refusal::new("gateway", error.to_string(), "skep audit has what it said"))?;
        {
            let mut progress = self.live.progress();
            progress.pid = Some(pid);
            progress.phase = Phase::Running;
        }
        let reply = Reply::Started { id: self.live.id.clone(), name: self.live.name.clone(), pid };
        let descriptors: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
        client
            .send(&reply, &descriptors)
            .await
            .map_err(|_gone| Refusal::new("client", "the client is gone", ""))
    }

    /// Starts the keeper with the plan and waits for the namespace, its sockets and the pty.
    async fn start_keeper(
        &mut self,
        streams: Vec<OwnedFd>,
    ) -> Result<(Vec<OwnedFd>, Option<OwnedFd>), Refusal> {
        let plan = postcard::to_stdvec(&self.plan).map_err(|_unencodable| internal("plan"))?;
        let plan = memfd::sealed("skep-plan", &plan).map_err(|error| launch("plan", &error))?;
        let template = self.supervisor.templates.of(self.supervisor, &self.plan).await?;
        let keeper = self.supervisor.keepers.take();
        self.keeper = Some(keeper.map_err(|error| launch("skep-keeper", &error))?);
        let mut descriptors = vec![plan.as_fd(), self.cgroup.directory(), self.cgroup.parent()];
        descriptors.extend(streams.iter().map(AsFd::as_fd));
        descriptors.push(template.as_fd());
        self.tell_keeper(&KeeperRequest::Launch { template: true }, &descriptors).await?;
        drop(streams);
        match self.keeper_event().await? {
            (KeeperEvent::Prepared, mut sockets) => {
                let master = match self.plan.terminal {
                    Terminal::Pty { .. } => sockets.pop(),
                    Terminal::Pipes => None,
                };
                if sockets.len() == 5 { Ok((sockets, master)) } else { Err(internal("keeper protocol")) }
            }
            (KeeperEvent::Failed { stage, object, errno }, _) => {
                Err(self.launch_failure(stage, &object, errno))
            }
            _ => Err(internal("keeper protocol")),
        }
    }

    /// Puts the network under judgement by the lookup program, before anything of the agent runs; what is left
    /// to do is the gateway's.
    fn judge_network(&mut self, namespace: &OwnedFd, sockets: Vec<OwnedFd>) -> Result<Service, Refusal> {
        let network = self.plan.network;
        let sockets: [OwnedFd; 4] = sockets.try_into().map_err(|_count| internal("keeper protocol"))?;
        let place =
            LookupPlace { own_v4: network.v4, own_v6: network.v6, gateway_port: network.gateway_port };
        let link = self
            .supervisor
            .lookup_slot()
            .map_err(|error| launch("sk_lookup", &error))?
            .attach(namespace.as_fd(), sockets[0].as_fd(), sockets[1].as_fd(), &place)
            .map_err(|error| launch("sk_lookup", &error))?;
        self.lookup = Some(link);
        self.has_gateway = true;
        Ok(Service {
            sandbox: self.live.id.clone(),
            rules: self.live.policy.egress.clone(),
            own: (network.v4, network.v6),
            upstreams: std::mem::take(&mut self.upstreams),
            sockets,
        })
    }

    /// Follows the running agent until nothing of it is left.
    async fn follow(&mut self, client: &AsyncChannel) -> Outcome {
        let mut broken = self.supervisor.recorder.broken();
        let mut stopping = self.supervisor.stopping();
        let over = self.wall_clock.unwrap_or(FOREVER);
        let wall_clock = tokio::time::sleep(over);
        tokio::pin!(wall_clock);
        let mut attached = true;
        let mut ending = None;
        loop {
            let Some(keeper) = &self.keeper else { return Outcome::Failed(internal("keeper")) };
            let happened = tokio::select! {
                event = keeper.channel.receive() => Happened::Keeper(event),
                request = client.receive(), if attached => Happened::Client(request),
                () = becomes_true(&mut broken), if ending.is_none() => Happened::Over(Ending::Signal(9)),
                () = becomes_true(&mut stopping), if ending.is_none() => Happened::Over(Ending::Signal(15)),
                () = &mut wall_clock, if ending.is_none() => Happened::Over(Ending::Signal(9)),
            };
            match happened {
                Happened::Keeper(Ok(Some((KeeperEvent::Exited(how), _)))) => {
                    ending.get_or_insert(how);
                }
                Happened::Keeper(Ok(Some((KeeperEvent::Gone, _)))) => {
                    return Outcome::Ended(ending.unwrap_or(Ending::Signal(9)));
                }
                Happened::Keeper(Ok(Some(_))) => return Outcome::Failed(internal("keeper protocol")),
                // The keeper died: its PID 1 dies with it, and clear_away makes sure of it.
                Happened::Keeper(Ok(None) | Err(_)) => {
                    return ending.map_or_else(keeper_died, Outcome::Ended);
                }
                Happened::Client(Ok(Some((Request::Signal(number), _)))) => self.signal(number).await,
                // The client left: so does its agent, as with a terminal that is closed.
                Happened::Client(_) => {
                    attached = false;
                    self.kill();
                }
                Happened::Over(how) => {
                    ending = Some(how);
                    self.kill();
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
            self.keeper.iter().for_each(Helper::kill);
        }
    }

    /// Undoes everything outside the sandbox and writes its last record.
    async fn clear_away(&mut self, outcome: &Outcome, begun: Instant) -> Result<(), Refusal> {
        self.kill();
        if let Some(keeper) = self.keeper.take()
            && timeout(PATIENCE, keeper.wait()).await.is_err()
        {
            tracing::error!(sandbox = self.live.id, "skep-keeper does not end");
        }
        self.lookup = None;
        if self.has_gateway {
            self.supervisor.gateways.dismiss(self.live.owner, &self.live.id).await;
        }
        self.supervisor.events.drained().await;
        let reads = self.supervisor.dismiss(self.cgroup.number());
        if let Err(error) = tokio::task::block_in_place(|| self.cgroup.remove(PATIENCE)) {
            tracing::error!(%error, sandbox = self.live.id, "its cgroup stays behind");
        }
        let status = match outcome {
            Outcome::Ended(Ending::Code(code)) => format!("exit {code}"),
            Outcome::Ended(Ending::Signal(signal)) => format!("signal {signal}"),
            Outcome::Failed(refusal) => format!("launch failed: {}", refusal.message),
        };
        let counters = {
            let mut progress = self.live.progress();
            progress.counters.reads = reads;
            progress.counters
        };
        let end = Body::End(audit::End {
            status: Text::from(status),
            milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            counters,
        });
        let written = self.write(end);
        self.supervisor.registry.remove(&self.live);
        written
    }

    fn summary(&self, ending: Ending) -> Summary {
        let progress = self.live.progress();
        Summary {
            ending,
            counters: progress.counters,
            denials: progress.most_telling(DENIALS_SHOWN),
            audit: self.supervisor.places.audit(),
        }
    }

    fn write(&self, body: Body) -> Result<(), Refusal> {
        self.supervisor.recorder.write(Record::of(&self.live.origin, body)).map_err(|error| {
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
        let keeper = self.keeper.as_ref().ok_or_else(|| internal("keeper"))?;
        keeper.channel.send(request, descriptors).await.map_err(|error| launch("skep-keeper", &error))
    }

    async fn keeper_event(&self) -> Result<(KeeperEvent, Vec<OwnedFd>), Refusal> {
        let keeper = self.keeper.as_ref().ok_or_else(|| internal("keeper"))?;
        match timeout(PATIENCE, keeper.channel.receive()).await {
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
        if errno == libc::ENOENT {
            let path = variable(&self.plan.command.environment, "PATH").unwrap_or_default();
            let message = format!(
                "{command}: command not found in the sandbox, whose PATH is {}",
                String::from_utf8_lossy(path).escape_debug()
            );
            let advice = "give its directory read and exec in the profile, or name a profile that does";
            return Refusal { exit: 127, ..Refusal::new("command-not-found", message, advice) };
        }
        let message = format!("{command}: {reason}");
        let advice = "the file must be executable, and its directory be in the profile's exec";
        Refusal { exit: 126, ..Refusal::new("not-executable", message, advice) }
    }
}

/// What the task of a running sandbox waits for.
enum Happened {
    /// The keeper said something, or ended.
    Keeper(Result<Option<(KeeperEvent, Vec<OwnedFd>)>, ChannelError>),
    /// The client said something, or left.
    Client(Result<Option<(Request, Vec<OwnedFd>)>, ChannelError>),
    /// The sandbox must end.
    Over(Ending),
}

fn keeper_died() -> Outcome {
    let advice = "skep audit has the records until then";
    Outcome::Failed(Refusal::new("keeper", "skep-keeper ended, and with it the sandbox", advice))
}

/// Resolves when the value is true; never if its sender is gone, for then the daemon is ending anyway.
async fn becomes_true(value: &mut watch::Receiver<bool>) {
    if value.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Removes a cgroup nobody has been in and returns the refusal that made it useless.
fn undo(cgroup: &SandboxCgroup, refusal: Refusal) -> Refusal {
    if let Err(error) = cgroup.remove(Duration::ZERO) {
        tracing::error!(%error, "an empty cgroup stays behind");
    }
    refusal
}

fn launch(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new("launch", format!("{what}: {error}"), "skep doctor says what this host has")
}

fn internal(what: &str) -> Refusal {
    Refusal::new("internal", format!("skepd failed at: {what}"), "its journal says more; please report it")
}
