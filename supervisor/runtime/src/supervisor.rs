//! The daemon's parts, put together.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_kernel::SyscallError;
use skep_kernel::bpf::{BpfError, Counts, Options as BpfOptions, Programs, Settings};
use skep_kernel::cgroup::{CgroupError, SandboxCgroup, Tree};
use skep_kernel::filter::{self, AgentFilter, FilterError};
use skep_kernel::process::raise_descriptor_limit;
use skep_kernel::spawn::{SpawnError, Spawner};
use skep_policy::egress::Rules;
use skep_policy::launch::Network;
use skep_policy::layers::Host;
use tokio::sync::watch;

use crate::audit::{AuditError, Body, Failure, Layer, Log, Lost, Options, Record, Text};
use crate::caller::GATEWAY;
use crate::events::Events;
use crate::gateway::Gateways;
use crate::helper::Program;
use crate::hex::hex;
use crate::host;
use crate::places::{PlaceError, Places, sibling};
use crate::profiles::Shelf;
use crate::record::Recorder;
use crate::registry::Registry;
use crate::reserve::Reserve;
use crate::scans::Scans;
use crate::template::Templates;

/// How long the processes of a leftover may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The seccomp programs: they depend on nothing of a launch.
#[derive(Clone, Debug)]
pub struct Filters {
    /// The agent's.
    pub agent: Vec<u8>,
    /// PID 1's.
    pub init: Vec<u8>,
}

/// Everything skepd is made of.
pub struct Supervisor {
    /// Where it keeps things.
    pub places: Places,
    /// The sandboxes.
    pub registry: Arc<Registry>,
    /// Who reads the audit.
    pub scans: Scans,
    /// What of the audit one sandbox may fill, in bytes.
    pub share: u64,
    /// The audit.
    pub recorder: Arc<Recorder>,
    /// Our part of the cgroup hierarchy.
    pub cgroups: Arc<Tree>,
    /// The gateways.
    pub gateways: Gateways,
    /// The reader of the kernel's records.
    pub events: Events,
    /// The profiles.
    pub shelf: Shelf,
    /// Empty sandboxes.
    pub reserve: Arc<Reserve>,
    /// Mount namespaces with the shared part of roots.
    pub templates: Templates,
    /// skep-keeper.
    pub keeper: Program,
    /// What the host can enforce, as rules are bound to it.
    pub host: Host,
    /// The same as records show it.
    pub layers: Vec<Layer>,
    /// Release of the kernel.
    pub kernel_release: String,
    /// The seccomp programs.
    pub filters: Filters,
    programs: Mutex<Programs>,
    /// How often a program was skipped, as far as the audit has it.
    skipped: AtomicU64,
    stopping: watch::Sender<bool>,
}

/// Why skepd does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory of ours cannot be made or is not ours.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The audit cannot be opened.
    #[error("audit: {0}")]
    Audit(#[from] AuditError),
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] SyscallError),
    /// The control groups cannot be had.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The seccomp programs cannot be compiled.
    #[error("seccomp: {0}")]
    Filter(#[from] FilterError),
    /// Helpers cannot be started.
    #[error("starting helpers: {0}")]
    Spawn(#[from] SpawnError),
    /// The BPF programs cannot be loaded.
    #[error("BPF: {0}")]
    Bpf(#[from] BpfError),
}

impl Supervisor {
    /// Starts: opens the audit (which locks the state directory), clears a dead daemon's leftovers away, loads
    /// and attaches the BPF programs, begins to read their records. Needs a tokio runtime.
    ///
    /// # Errors
    /// When any part cannot be had: a daemon that would judge less than all does not start.
    pub fn start(places: Places, audit: Options) -> Result<Arc<Self>, StartError> {
        places.make()?;
        let program =
            |name| sibling(name).map_err(|e| SyscallError::from_io("readlink", "/proc/self/exe", &e));
        // A thousand clients have several each; the usual 1,024 are fewer.
        raise_descriptor_limit()?;
        // Before a client can be there: in its thread is nothing of theirs.
        let spawner = Arc::new(Spawner::start()?);
        let keeper = Program::new(&spawner, program("skep-keeper")?, &[]);
        let ids = [GATEWAY.uid, GATEWAY.gid].map(|id| id.to_string());
        let gateway = Program::new(&spawner, program("skep-egress")?, &ids);
        let registry = Arc::new(Registry::default());
        let share = audit.share();
        let log = Log::open(&places.state, audit)?;
        places.shorten_words();
        let recorder = Arc::new(Recorder::new(log, Arc::clone(&registry)));
        let cgroups = Arc::new(Tree::open(&tree_name(&places))?);
        clear_leftovers(&cgroups, &recorder)?;
        let mut programs = Programs::load(cgroups.sandboxes(), BpfOptions::default())?;
        let reader = programs.events().ok_or(BpfError::NotBuilt)?;
        let events = Events::start(reader, Arc::clone(&registry), Arc::clone(&recorder))?;
        let facts = host::prove(&places.state);
        let filters = Filters { agent: filter::agent(AgentFilter::default())?, init: filter::init()? };
        let stopping = watch::channel(false).0;
        Ok(Arc::new(Self {
            gateways: Gateways::new(gateway, Arc::clone(&recorder)),
            host: host::host(&facts, true),
            layers: host::layers(&facts, true),
            kernel_release: facts.kernel,
            filters,
            shelf: Shelf::new(&places.configuration),
            reserve: Reserve::new(keeper.clone(), Arc::clone(&cgroups), stopping.subscribe()),
            templates: Templates::default(),
            stopping,
            programs: Mutex::new(programs),
            skipped: AtomicU64::new(0),
            places,
            registry,
            scans: Scans::default(),
            share,
            recorder,
            cgroups,
            events,
            keeper,
        }))
    }

    /// Becomes true when the daemon stops.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Ends every sandbox and waits until nothing is left of them.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        while !self.registry.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.reserve.clear().await;
        self.events.drained(None).await;
        // Before the audit is closed: its lock keeps the next daemon from making the same tree meanwhile.
        if let Err(error) = self.cgroups.remove_if_empty() {
            tracing::warn!(%error, "empty control groups stay behind");
        }
        if let Err(error) = self.recorder.close() {
            tracing::error!(%error, "the audit could not be closed");
        }
    }

    /// Makes a cgroup's tasks known to the BPF programs.
    ///
    /// # Errors
    /// When the map is full: the sandbox must not start.
    pub fn admit(&self, cgroup: u64, egress: &Rules) -> Result<(), BpfError> {
        let Network { v4: own_v4, v6: own_v6, .. } = Network::OF_A_SANDBOX;
        let ports = egress.ports();
        let settings =
            Settings { own_v4, own_v6, ports, report_reads: false, report_missing: true, built_first: true };
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).admit(cgroup, &settings)
    }

    /// Forgets a cgroup.
    ///
    /// Returns what the kernel only counted of its tasks; `None` where that is not known.
    pub fn dismiss(&self, cgroup: u64) -> Option<Counts> {
        let dismissed = self.programs.lock().unwrap_or_else(PoisonError::into_inner).dismiss(cgroup);
        match dismissed {
            Ok(counts) => counts,
            Err(error) => {
                tracing::error!(%error, "a cgroup stays in the BPF map");
                None
            }
        }
    }

    /// Writes down how often the kernel has skipped a program since this was done last: no gap shows these.
    pub fn record_skipped(&self) {
        let skipped = self.programs.lock().unwrap_or_else(PoisonError::into_inner).skipped();
        let skipped = match skipped {
            Ok(skipped) => skipped,
            Err(error) => return tracing::error!(%error, "records that were never made cannot be counted"),
        };
        let count = skipped.saturating_sub(self.skipped.fetch_max(skipped, Ordering::Relaxed));
        if count == 0 {
            return;
        }
        let body = Body::Lost(Lost { source: "programs".to_owned(), count, ..Lost::default() });
        if self.recorder.write(Record::general(body)).is_err() {
            tracing::debug!("every sandbox ends");
        }
    }
}

/// Ends and removes what a daemon that was killed has left behind. It is not known which of it had an agent: those
/// that have a record of their start.
fn clear_leftovers(cgroups: &Tree, recorder: &Recorder) -> Result<(), StartError> {
    let leftovers = cgroups.leftovers(|_nobody_is_running_yet| false)?;
    if leftovers.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = leftovers.iter().map(SandboxCgroup::id).collect();
    let body = Body::Recovered(Failure {
        what: "leftovers of a crash".to_owned(),
        message: Text::from(format!(
            "control groups of sandboxes that ran, or waited for an agent, are removed with all that is in them: {}",
            names.join(" ")
        )),
    });
    recorder.write(Record::general(body))?;
    for leftover in leftovers {
        leftover.kill()?;
        leftover.remove(PATIENCE)?;
    }
    Ok(())
}

/// Resolves when the flag is set; never if nobody can set it any more, for then the daemon is ending anyway.
pub(crate) async fn is_set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|is_set| *is_set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The daemon at the usual places has the cgroup tree `skep`; each other state directory has a tree of its own,
/// so that two daemons never take each other's sandboxes for leftovers.
fn tree_name(places: &Places) -> String {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    if places.state == Path::new("/var/lib/skep") {
        return "skep".to_owned();
    }
    format!("skep-{}", hex(&Sha256::digest(places.state.as_os_str().as_bytes())[..6]))
}
