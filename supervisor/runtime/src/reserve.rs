//! Empty sandboxes, made ahead of launches: a cgroup, a keeper, namespaces with a PID 1 that waits in them, and a
//! network that is judged already. That is half of a launch, and no plan is needed for it.
//!
//! An empty sandbox ends with the channel of its keeper, which then removes the cgroup too.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_kernel::bpf::{BpfError, LookupLink, LookupPlace};
use skep_kernel::cgroup::{CgroupError, SandboxCgroup, Tree};
use skep_kernel::seqpacket::ChannelError;
use skep_kernel::spawn::SpawnError;
use skep_policy::launch::{Ids, KeeperEvent, KeeperRequest, Network, Stage};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::caller::{OwnIds, own_ids};
use crate::helper::{Helper, Program};
use crate::hex::hex;
use crate::prepare::Place;
use crate::supervisor::is_set;

/// How many wait: enough for launches that follow each other closely.
const WAITING: usize = 2;

/// How long one may take to be made. It takes a millisecond; a host that swaps may need seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox that waits for its plan.
pub struct Empty {
    /// Its control group.
    pub cgroup: SandboxCgroup,
    /// Its keeper.
    pub keeper: Helper,
    /// TCP v4, TCP v6, UDP v4 and UDP v6 listeners in its network namespace.
    pub sockets: [OwnedFd; 4],
    /// What hands the namespace's connections to them.
    pub lookup: LookupLink,
    /// Ids that no other sandbox has.
    pub own: OwnIds,
}

impl Empty {
    /// What a plan for it must know.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { id: self.cgroup.id().to_owned(), cgroup: self.cgroup.number(), own: self.own }
    }

    fn end(self) {
        end(&self.cgroup, self.keeper);
    }
}

/// Why an empty sandbox cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// It has no control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its keeper could not be started.
    #[error("starting skep-keeper failed: {0}")]
    Start(#[from] SpawnError),
    /// The connection to the keeper broke.
    #[error("skep-keeper: {0}")]
    Channel(#[from] ChannelError),
    /// The keeper could not make the namespaces.
    #[error("{stage:?} {object}: {}", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// Which step.
        stage: Stage,
        /// The call and its object.
        object: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// The network cannot be judged.
    #[error("sk_lookup: {0}")]
    Lookup(#[from] BpfError),
    /// The keeper ended, or answered something else, or nothing in time.
    #[error("skep-keeper {0}")]
    Silent(&'static str),
}

/// The empty sandboxes that wait.
pub struct Reserve {
    keeper: Program,
    cgroups: Arc<Tree>,
    stopping: watch::Receiver<bool>,
    /// `None` when the daemon stops.
    waiting: Mutex<Option<Vec<Empty>>>,
    /// How many have been made.
    serial: AtomicU64,
    /// Held by whoever refills: two at once would make one too many each.
    refilling: tokio::sync::Mutex<()>,
}

impl Reserve {
    /// None yet.
    #[must_use]
    pub fn new(keeper: Program, cgroups: Arc<Tree>, stopping: watch::Receiver<bool>) -> Arc<Self> {
        let (waiting, refilling) = (Mutex::new(Some(Vec::new())), tokio::sync::Mutex::default());
        // Another daemon of this host begins elsewhere, or its sandboxes would have the same ids.
        let serial = AtomicU64::new(RandomState::new().hash_one(Instant::now()));
        let reserve = Arc::new(Self { keeper, cgroups, stopping, waiting, serial, refilling });
        reserve.refill_after(Duration::ZERO);
        reserve
    }

    /// One of those that wait, or a new one.
    ///
    /// # Errors
    /// When none waits and none can be made.
    pub async fn take(&self) -> Result<Empty, ReserveError> {
        loop {
            let Some(mut empty) = self.waiting().as_mut().and_then(Vec::pop) else {
                return self.make().await;
            };
            // Somebody may have ended its keeper meanwhile.
            if !empty.keeper.has_ended() {
                return Ok(empty);
            }
            empty.end();
        }
    }

    /// Takes one back that was not needed, and ends it if enough wait: one was made for each of those who asked at
    /// once, and so many would stay.
    pub fn give_back(&self, empty: Empty) {
        let mut waiting = self.waiting();
        if let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.len() < WAITING) {
            return waiting.push(empty);
        }
        drop(waiting);
        empty.end();
    }

    /// Ends one that was taken and is no longer empty, though nothing was launched in it, and makes another.
    pub fn discard(self: &Arc<Self>, empty: Empty) {
        empty.end();
        self.refill_after(Duration::ZERO);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Empty>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids that no other sandbox of this daemon has.
    #[must_use]
    pub fn next_ids(&self) -> OwnIds {
        own_ids(self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes empty sandboxes in the background until enough wait; a while after a launch, which would be slower for
    /// it.
    pub fn refill_after(self: &Arc<Self>, rest: Duration) {
        let reserve = Arc::clone(self);
        tokio::spawn(async move {
            sleep(rest).await;
            let _alone = reserve.refilling.lock().await;
            while reserve.waiting().as_ref().is_some_and(|waiting| waiting.len() < WAITING) {
                match reserve.make().await {
                    Ok(empty) => reserve.give_back(empty),
                    // The launch that needs one tries again and tells its user.
                    Err(error) => return tracing::warn!(%error, "no empty sandbox could be made ahead"),
                }
            }
        });
    }

    async fn make(&self) -> Result<Empty, ReserveError> {
        let (keeper, cgroups) = (self.keeper.clone(), Arc::clone(&self.cgroups));
        let (cgroup, keeper) = blocking(move || {
            let cgroup = cgroups.create(&new_id())?;
            match keeper.start() {
                Ok(keeper) => Ok((cgroup, keeper)),
                Err(error) => {
                    remove(&cgroup);
                    Err(error.into())
                }
            }
        })
        .await?;
        let (own, mut stopping) = (self.next_ids(), self.stopping.clone());
        let isolated = tokio::select! {
            isolated = isolate(&cgroup, &keeper, own.agent) => isolated,
            () = is_set(&mut stopping) => Err(ReserveError::Silent("is not needed: skepd is ending")),
        };
        match isolated {
            Ok((sockets, lookup)) => Ok(Empty { cgroup, keeper, sockets, lookup, own }),
            Err(error) => {
                end(&cgroup, keeper);
                Err(error)
            }
        }
    }

    /// Ends those that wait, and makes no more ahead.
    pub async fn clear(&self) {
        let waiting = self.waiting().take();
        waiting.into_iter().flatten().for_each(Empty::end);
        // One may be in the making.
        let _made = self.refilling.lock().await;
    }
}

/// Has a keeper make the namespaces, and puts the network under judgement.
async fn isolate(
    cgroup: &SandboxCgroup,
    keeper: &Helper,
    own: Ids,
) -> Result<([OwnedFd; 4], LookupLink), ReserveError> {
    let network = Network::OF_A_SANDBOX;
    let request = KeeperRequest::Isolate { sandbox: cgroup.id().to_owned(), network, own };
    keeper.channel.send(&request, &[cgroup.directory(), cgroup.parent()]).await?;
    let descriptors = match timeout(PATIENCE, keeper.channel.receive()).await {
        Ok(Ok(Some((KeeperEvent::Isolated, descriptors)))) => descriptors,
        Ok(Ok(Some((KeeperEvent::Failed { stage, object, errno }, _)))) => {
            return Err(ReserveError::Failed { stage, object, errno });
        }
        Ok(Ok(Some(_))) => return Err(ReserveError::Silent("answered something else")),
        Ok(Ok(None)) => return Err(ReserveError::Silent("ended before it was ready")),
        Ok(Err(error)) => return Err(error.into()),
        Err(_elapsed) => return Err(ReserveError::Silent("did not become ready in time")),
    };
    let Ok([namespace, sockets @ ..]) = <[OwnedFd; 5]>::try_from(descriptors) else {
        return Err(ReserveError::Silent("sent other descriptors"));
    };
    blocking(move || {
        let [tcp_v4, tcp_v6, ..] = &sockets;
        let place = LookupPlace::from(network);
        let lookup = LookupLink::attach(namespace.as_fd(), tcp_v4.as_fd(), tcp_v6.as_fd(), &place)?;
        Ok((sockets, lookup))
    })
    .await
}

/// Ends a sandbox that nobody needs, whole or half made.
fn end(cgroup: &SandboxCgroup, keeper: Helper) {
    drop(keeper);
    tokio::task::block_in_place(|| remove(cgroup));
}

/// Ends what is in the control group of such a sandbox, and removes it.
fn remove(cgroup: &SandboxCgroup) {
    // Its keeper may have been faster.
    let removed = cgroup.kill().and_then(|()| cgroup.remove(PATIENCE));
    if let Err(error) = removed {
        tracing::debug!(%error, "the control group of an empty sandbox");
    }
}

/// Runs what would hold the event loop up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReserveError> + Send + 'static,
) -> Result<T, ReserveError> {
    spawn_blocking(work).await.unwrap_or(Err(ReserveError::Silent("was not started: skepd is ending")))
}

/// 64 random bits from the standard library's per-process random keys and a counter of its own.
pub(crate) fn new_id() -> String {
    hex(&RandomState::new().hash_one(Instant::now()).to_be_bytes())
}
