//! The gateway processes, one per owner, and what they report.
//!
//! A gateway is started when the first agent of an owner runs, and ends a while after the last. It may die at any moment:
//! its connections die with it and nothing passes meanwhile; the sockets it serves are held here as well, so
//! the next gateway takes over where packets wait.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_kernel::memfd;
use skep_kernel::seqpacket::ChannelError;
use skep_kernel::spawn::SpawnError;
use skep_policy::egress::Rules;
use skep_policy::gateway::{GatewayEvent, GatewayRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::helper::{Helper, Program};
use crate::record::Recorder;

/// How long a gateway may take to confine itself, to take a sandbox on, or to let go of one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a gateway without a sandbox is kept for the next one.
const IDLE: Duration = Duration::from_secs(30);

/// How often a gateway is started again within [`RESTART_WINDOW`] before its sandboxes are left without one.
const MOST_RESTARTS: usize = 5;

/// See [`MOST_RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// One sandbox as a gateway needs it.
#[derive(Debug)]
pub struct Service {
    /// Its id.
    pub sandbox: String,
    /// Its rules.
    pub rules: Rules,
    /// Its own addresses.
    pub own: (Ipv4Addr, Ipv6Addr),
    /// Names with fixed addresses, in test builds.
    pub upstreams: Vec<(String, SocketAddr)>,
    /// Its TCP v4, TCP v6, UDP v4 and UDP v6 sockets.
    pub sockets: [OwnedFd; 4],
}

/// Why a sandbox has no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// It could not be started.
    #[error("starting skep-egress failed: {0}")]
    Start(#[from] SpawnError),
    /// The connection to it broke.
    #[error("skep-egress: {0}")]
    Channel(#[from] ChannelError),
    /// It did not become ready.
    #[error("skep-egress {what}; it said: {said}")]
    NotReady {
        /// What it did instead.
        what: String,
        /// What it wrote to its standard error.
        said: String,
    },
    /// It ended, or answered something else, or nothing in time.
    #[error("skep-egress {0}")]
    Silent(&'static str),
}

/// All gateways.
pub struct Gateways {
    program: Program,
    recorder: Arc<Recorder>,
    idle: Duration,
    /// The ways to the actors. An actor ends when nobody has a way to it any more, so that nothing is ever said to one
    /// that has ended; and this is none.
    by_owner: Mutex<HashMap<u32, mpsc::WeakSender<Command>>>,
}

#[derive(Debug)]
enum Command {
    /// With the way by which it came: the actor keeps it for as long as it serves anybody.
    Serve(Service, mpsc::Sender<Command>, oneshot::Sender<Result<(), GatewayError>>),
    Dismiss(String, oneshot::Sender<()>),
}

impl Gateways {
    /// None yet; `program` is skep-egress.
    #[must_use]
    pub fn new(program: Program, recorder: Arc<Recorder>) -> Self {
        Self { program, recorder, idle: IDLE, by_owner: Mutex::default() }
    }

    /// Has the owner's gateway serve a sandbox; when this returns, packets may arrive.
    ///
    /// # Errors
    /// When no gateway can be had.
    pub async fn serve(&self, owner: u32, service: Service) -> Result<(), GatewayError> {
        let (answer, answered) = oneshot::channel();
        let actor = self.actor(owner);
        match actor.send(Command::Serve(service, actor.clone(), answer)).await {
            Ok(()) => answered.await.unwrap_or(Err(GatewayError::Silent("failed"))),
            Err(_failed) => Err(GatewayError::Silent("failed")),
        }
    }

    /// Has the gateway let go of a sandbox whose processes are gone: what they sent has been delivered, or was
    /// given up, and everything there is to say of it is written down when this returns.
    pub async fn dismiss(&self, owner: u32, sandbox: &str) {
        let Some(actor) = self.by_owner().get(&owner).and_then(mpsc::WeakSender::upgrade) else { return };
        let (done, is_done) = oneshot::channel();
        // A gateway that ended has closed everything, and so has an actor.
        if actor.send(Command::Dismiss(sandbox.to_owned(), done)).await.is_ok()
            && timeout(PATIENCE, is_done).await.is_err()
        {
            tracing::error!(sandbox, "skep-egress did not let go of the sandbox in time");
        }
    }

    fn by_owner(&self) -> MutexGuard<'_, HashMap<u32, mpsc::WeakSender<Command>>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn actor(&self, owner: u32) -> mpsc::Sender<Command> {
        let mut by_owner = self.by_owner();
        if let Some(actor) = by_owner.get(&owner).and_then(mpsc::WeakSender::upgrade) {
            return actor;
        }
        let (sender, commands) = mpsc::channel(16);
        let actor = Actor {
            program: self.program.clone(),
            recorder: Arc::clone(&self.recorder),
            services: BTreeMap::new(),
            leaving: HashMap::new(),
            restarts: Vec::new(),
            way: None,
            idle: self.idle,
        };
        tokio::spawn(actor.live(commands));
        by_owner.insert(owner, sender.downgrade());
        sender
    }
}

/// The task that owns one gateway.
struct Actor {
    program: Program,
    recorder: Arc<Recorder>,
    services: BTreeMap<String, Service>,
    /// Sandboxes the gateway is letting go of, and who waits for that. It may take a moment, in which others
    /// are served.
    leaving: HashMap<String, oneshot::Sender<()>>,
    restarts: Vec<Instant>,
    /// Kept from the first sandbox until it has been idle for its time.
    way: Option<mpsc::Sender<Command>>,
    idle: Duration,
}

impl Actor {
    async fn live(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut gateway: Option<Helper> = None;
        loop {
            let next = tokio::select! {
                command = timeout(self.idle, commands.recv()) => Next::Command(command),
                event = next_event(gateway.as_ref()) => Next::Event(event),
            };
            match next {
                Next::Command(Ok(Some(command))) => self.obey(&mut gateway, command).await,
                Next::Command(Ok(None)) => return,
                Next::Command(Err(_idle)) if self.services.is_empty() => self.way = None,
                Next::Command(Err(_idle)) => {}
                Next::Event(Ok(Some(event))) => self.hear(gateway.as_ref(), event).await,
                Next::Event(ended) => {
                    let Some(broken) = gateway.take() else { continue };
                    self.leaving.clear();
                    let said = broken.last_words().await;
                    tracing::warn!(?ended, said, "skep-egress ended, its connections are cut");
                    self.restart(&mut gateway, &said).await;
                }
            }
        }
    }

    async fn obey(&mut self, gateway: &mut Option<Helper>, command: Command) {
        match command {
            Command::Serve(service, way, answer) => {
                self.way = Some(way);
                let id = service.sandbox.clone();
                let result = self.take_on(gateway, &service).await;
                if result.is_ok() {
                    self.services.insert(id, service);
                }
                // A sandbox whose task is gone dismisses nothing; its channel closing is enough.
                if answer.send(result).is_err() {
                    tracing::debug!("a sandbox ended while its gateway was prepared");
                }
            }
            Command::Dismiss(sandbox, done) => {
                let Some(_service) = self.services.remove(&sandbox) else { return };
                let Some(gateway) = gateway else { return };
                let request = GatewayRequest::Dismiss { sandbox: sandbox.clone() };
                match gateway.channel.send(&request, &[]).await {
                    Ok(()) => drop(self.leaving.insert(sandbox, done)),
                    Err(error) => tracing::debug!(%error, "skep-egress is gone already"),
                }
            }
        }
    }

    /// Starts a gateway if there is none and hands it the sandbox.
    async fn take_on(&mut self, gateway: &mut Option<Helper>, service: &Service) -> Result<(), GatewayError> {
        let running = match gateway {
            Some(running) => running,
            None => gateway.insert(self.start().await?),
        };
        let request = GatewayRequest::Serve {
            sandbox: service.sandbox.clone(),
            rules: service.rules.clone(),
            own: service.own,
            upstreams: service.upstreams.clone(),
        };
        let sockets = service.sockets.each_ref().map(AsFd::as_fd);
        send(running, &request, &sockets).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = tokio::time::timeout_at(deadline, running.channel.receive())
                .await
                .map_err(|_elapsed| GatewayError::Silent("did not take the sandbox on in time"))??;
            match event {
                Some((GatewayEvent::Serving { sandbox }, _)) if sandbox == service.sandbox => return Ok(()),
                Some((event, _)) => self.hear(Some(running), event).await,
                None => return Err(GatewayError::Silent("ended")),
            }
        }
    }

    async fn start(&self) -> Result<Helper, GatewayError> {
        let program = self.program.clone();
        let started = tokio::task::spawn_blocking(move || program.start()).await;
        let running = started.unwrap_or(Err(SpawnError::Ended))?;
        let what = match timeout(PATIENCE, running.channel.receive()).await {
            Ok(Ok(Some((GatewayEvent::Ready, _)))) => return Ok(running),
            Ok(Ok(Some(_))) => "spoke before it was ready".to_owned(),
            Ok(Ok(None)) => "ended before it was ready".to_owned(),
            Ok(Err(error)) => format!("was not heard: {error}"),
            Err(_elapsed) => "did not become ready in time".to_owned(),
        };
        Err(GatewayError::NotReady { what, said: running.last_words().await })
    }

    /// Starts the gateway again for the sandboxes it served, unless it keeps dying.
    async fn restart(&mut self, gateway: &mut Option<Helper>, said: &str) {
        let now = Instant::now();
        self.restarts.retain(|moment| now.duration_since(*moment) < RESTART_WINDOW);
        if self.services.is_empty() {
            return;
        }
        let ended = format!("skep-egress ended, its connections are cut; it said: {said}");
        self.services.keys().for_each(|sandbox| self.recorder.gateway_failed(sandbox, &ended));
        if self.restarts.len() >= MOST_RESTARTS {
            tracing::error!("skep-egress keeps ending; its sandboxes stay without a network");
            return;
        }
        self.restarts.push(now);
        for service in std::mem::take(&mut self.services).into_values() {
            match self.take_on(gateway, &service).await {
                Ok(()) => {
                    self.services.insert(service.sandbox.clone(), service);
                }
                Err(error) => {
                    tracing::error!(%error, sandbox = service.sandbox, "no gateway, no network");
                    self.recorder.gateway_failed(&service.sandbox, &error.to_string());
                }
            }
        }
    }

    /// Writes an event down and, if it waits for that, lets the gateway go on.
    async fn hear(&mut self, gateway: Option<&Helper>, event: GatewayEvent) {
        if let GatewayEvent::Dismissed { sandbox } = &event {
            // Whoever waited is told by the drop.
            self.leaving.remove(sandbox);
            return;
        }
        let (GatewayEvent::Judged { number, .. }, Some(gateway)) = (&event, gateway) else {
            self.recorder.gateway(&event);
            return;
        };
        // Not written: not answered. The gateway waits, gives up and denies.
        if self.recorder.gateway(&event)
            && let Err(error) = gateway.channel.send(&GatewayRequest::Recorded { number: *number }, &[]).await
        {
            tracing::debug!(%error, "skep-egress is gone already");
        }
    }
}

/// Sends a request, in a memory file where it is larger than a message.
async fn send(
    gateway: &Helper,
    request: &GatewayRequest,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ChannelError> {
    match gateway.channel.send(request, descriptors).await {
        Err(ChannelError::Size(_)) => {}
        sent => return sent,
    }
    let body = memfd::encode("skep-request", request)?;
    gateway.channel.send(&GatewayRequest::Large, &[&[body.as_fd()], descriptors].concat()).await
}

enum Next {
    Command(Result<Option<Command>, tokio::time::error::Elapsed>),
    Event(Result<Option<GatewayEvent>, ChannelError>),
}

async fn next_event(gateway: Option<&Helper>) -> Result<Option<GatewayEvent>, ChannelError> {
    match gateway {
        Some(gateway) => Ok(gateway.channel.receive().await?.map(|(event, _)| event)),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use skep_kernel::spawn::Spawner;

    use super::*;
    use crate::audit::{Log, Options};
    use crate::registry::Registry;

    fn service() -> Service {
        let socket = || OwnedFd::from(File::open("/dev/null").unwrap());
        Service {
            sandbox: "s".to_owned(),
            rules: Rules::default(),
            own: (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            upstreams: Vec::new(),
            sockets: std::array::from_fn(|_| socket()),
        }
    }

    /// Its time to leave comes between the moment it is found and the moment it is asked.
    #[tokio::test]
    async fn a_gateway_that_was_about_to_leave_answers_and_leaves_when_nobody_needs_it() {
        const OWNER: u32 = 1000;
        let state = tempfile::tempdir().unwrap();
        let log = Log::open(state.path(), Options::default()).unwrap();
        let recorder = Arc::new(Recorder::new(log, Arc::new(Registry::default())));
        let idle = Duration::from_millis(1);
        let missing = Program::new(&Arc::new(Spawner::start().unwrap()), "/no/such/program".into(), &[]);
        let gateways = Gateways { idle, ..Gateways::new(missing, recorder) };
        let actor = gateways.actor(OWNER);
        tokio::time::sleep(50 * idle).await;
        let (answer, answered) = oneshot::channel();
        actor.send(Command::Serve(service(), actor.clone(), answer)).await.unwrap();
        assert!(matches!(answered.await.unwrap(), Err(GatewayError::Start(_))));
        drop(actor);
        while gateways.by_owner().get(&OWNER).is_some_and(|actor| actor.upgrade().is_some()) {
            tokio::time::sleep(idle).await;
        }
        assert!(matches!(gateways.serve(OWNER, service()).await, Err(GatewayError::Start(_))));
    }
}
