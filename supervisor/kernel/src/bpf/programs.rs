//! Loading `observe`, and telling it which cgroups are sandboxes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Array, HashMap, MapData};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use skep_ebpf_abi::settings::{self, ANY_PORT, BUILT_FIRST, PORTS, REPORT_MISSING, REPORT_READS};
use skep_ebpf_abi::syscalls;

use super::ledger::found;
use super::object::{OBSERVE, map_error, program_error};
use super::{BpfError, EventReader, btf};

pub use skep_ebpf_abi::settings::Counts;

/// Programs on the parent cgroup, by name: where tasks connect.
const CGROUP_HOOKS: [&str; 4] = ["connect4", "connect6", "sendmsg4", "sendmsg6"];
/// Programs on tracepoints, each named as its tracepoint.
const TRACEPOINTS: [&str; 3] = ["sched_process_exec", "sched_process_exit", "sys_exit"];

const SETTINGS_SIZE: usize = size_of::<settings::Settings>();
pub(super) const COUNTS_SIZE: usize = size_of::<Counts>();
const SHAPE_SIZE: usize = size_of::<syscalls::Shape>();

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of the ring in bytes: a power of two, at least a page. One small record takes a kilobyte.
    pub ring_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 16 << 20 }
    }
}

/// What one sandbox wants to hear, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its own IPv4 address, reachable for itself; unspecified for none.
    pub own_v4: Ipv4Addr,
    /// Its own IPv6 address, likewise.
    pub own_v6: Ipv6Addr,
    /// Ports on which some name may be connected to; `None` for any.
    pub ports: Option<BTreeSet<u16>>,
    /// Report successful opens for reading, which are only counted otherwise.
    pub report_reads: bool,
    /// Report opens and executions that answered ENOENT: what a path nobody granted answers.
    pub report_missing: bool,
    /// Report nothing of files before its first program is executed, refused executions apart.
    pub built_first: bool,
}

impl Settings {
    fn encode(&self) -> [u8; SETTINGS_SIZE] {
        let bit = |on, bit| if on { bit } else { 0 };
        // More ports than fit are left to the gateway.
        let named = self.ports.as_ref().filter(|ports| ports.len() <= PORTS);
        let mut ports = [0; PORTS];
        ports.iter_mut().zip(named.into_iter().flatten()).for_each(|(place, port)| *place = *port);
        bytemuck::cast(settings::Settings {
            flags: bit(self.report_reads, REPORT_READS)
                | bit(self.report_missing, REPORT_MISSING)
                | bit(named.is_none(), ANY_PORT)
                | bit(self.built_first, BUILT_FIRST),
            own_v4: self.own_v4.to_bits(),
            own_v6: words(self.own_v6),
            ports,
        })
    }
}

/// An IPv6 address as four words in host byte order.
pub(super) fn words(address: Ipv6Addr) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
    [a << 16 | b, c << 16 | d, e << 16 | f, g << 16 | h]
}

/// The loaded and attached programs. Dropping them detaches all of them.
pub struct Programs {
    ebpf: Ebpf,
    sandboxes: HashMap<MapData, u64, [u8; SETTINGS_SIZE]>,
    counts: HashMap<MapData, u64, [u8; COUNTS_SIZE]>,
    consumed: HashMap<MapData, u64, u64>,
    reader: Option<EventReader>,
}

impl Programs {
    /// Loads the programs and attaches them: the hooks on connects to `parent_cgroup`, whose descendants the
    /// sandboxes will be, the others to their tracepoints. To be called once per process.
    ///
    /// # Errors
    /// When the library was built without the programs, the kernel lacks a member they read, or it refuses one.
    pub fn load(parent_cgroup: BorrowedFd<'_>, options: Options) -> Result<Self, BpfError> {
        let ring = options.ring_bytes;
        if !ring.is_power_of_two() || ring < 4096 {
            return Err(BpfError::RingSize(ring));
        }
        let object = OBSERVE.bytes()?;
        let offsets = btf::offsets()?;
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_max_entries("EVENTS", ring);
        loader.override_global("OFFSETS", bytemuck::bytes_of(&offsets), true);
        let ring_bytes = u64::from(ring);
        loader.override_global("RING_BYTES", bytemuck::bytes_of(&ring_bytes), true);
        let mut ebpf = loader.load(object).map_err(|source| OBSERVE.failed(source))?;
        describe_syscalls(&mut ebpf)?;
        let sandboxes = OBSERVE.map(&mut ebpf, "SANDBOXES")?;
        let (counts, consumed) = (OBSERVE.handle(&ebpf, "COUNTS")?, OBSERVE.handle(&ebpf, "CONSUMED")?);
        let reader = Some(EventReader::new(&mut ebpf, ring)?);
        for name in CGROUP_HOOKS {
            attach_to_cgroup(&mut ebpf, name, parent_cgroup).map_err(|error| error.into_error(name))?;
        }
        for name in TRACEPOINTS {
            attach_to_tracepoint(&mut ebpf, name).map_err(|error| error.into_error(name))?;
        }
        Ok(Self { ebpf, sandboxes, counts, consumed, reader })
    }

    /// From now on the tasks of this cgroup are a sandbox's. To be called before its first task.
    ///
    /// # Errors
    /// When the maps are full.
    pub fn admit(&mut self, cgroup: u64, settings: &Settings) -> Result<(), BpfError> {
        let none = [0; COUNTS_SIZE];
        self.counts.insert(cgroup, none, 0).map_err(|source| map_error("COUNTS", source))?;
        self.consumed.insert(cgroup, 0, 0).map_err(|source| map_error("CONSUMED", source))?;
        self.sandboxes.insert(cgroup, settings.encode(), 0).map_err(|source| map_error("SANDBOXES", source))
    }

    /// The sandbox is gone. Says what was counted of it; `None` if it was not admitted.
    ///
    /// # Errors
    /// When the kernel refuses a removal.
    pub fn dismiss(&mut self, cgroup: u64) -> Result<Option<Counts>, BpfError> {
        let Some(counts) = self.counts(cgroup)? else { return Ok(None) };
        self.sandboxes.remove(&cgroup).map_err(|source| map_error("SANDBOXES", source))?;
        self.consumed.remove(&cgroup).map_err(|source| map_error("CONSUMED", source))?;
        self.counts.remove(&cgroup).map_err(|source| map_error("COUNTS", source))?;
        Ok(Some(counts))
    }

    /// What was counted of a sandbox so far.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counts(&self, cgroup: u64) -> Result<Option<Counts>, BpfError> {
        let counts = found(self.counts.get(&cgroup, 0)).map_err(|source| map_error("COUNTS", source))?;
        Ok(counts.map(bytemuck::cast))
    }

    /// The reader of the records; there is one, and it can be taken once.
    pub fn events(&mut self) -> Option<EventReader> {
        self.reader.take()
    }

    /// How often the kernel skipped a program because it was already running on that CPU. Each is a report
    /// missed that no number shows, so anything but 0 belongs in the audit.
    ///
    /// # Errors
    /// When a program has no descriptor or the kernel does not tell.
    pub fn skipped(&self) -> Result<u64, BpfError> {
        let mut sum = 0;
        for name in TRACEPOINTS {
            let missing = BpfError::Mismatch { object: OBSERVE.name, missing: name };
            let program = self.ebpf.program(name).ok_or(missing)?;
            let descriptor = program.fd().map_err(|source| program_error(name, source))?;
            let info = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
            let text = std::fs::read_to_string(info)
                .map_err(|error| program_error(name, ProgramError::IOError(error)))?;
            sum += misses(&text);
        }
        Ok(sum)
    }
}

/// `recursion_misses` of a program's fdinfo; kernels before 5.12 have none.
fn misses(fdinfo: &str) -> u64 {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn describe_syscalls(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let missing = BpfError::Mismatch { object: OBSERVE.name, missing: "SYSCALLS" };
    let map = ebpf.map_mut("SYSCALLS").ok_or(missing)?;
    let mut map: Array<&mut MapData, [u8; SHAPE_SIZE]> =
        Array::try_from(map).map_err(|source| map_error("SYSCALLS", source))?;
    for (number, _, shape) in syscalls::WATCHED {
        map.set(*number, bytemuck::cast::<_, [u8; SHAPE_SIZE]>(*shape), 0)
            .map_err(|source| map_error("SYSCALLS", source))?;
    }
    Ok(())
}

/// Either of the two ways a program can fail to run.
enum AttachError {
    Bpf(BpfError),
    Program(ProgramError),
}

impl AttachError {
    fn into_error(self, name: &'static str) -> BpfError {
        match self {
            Self::Bpf(error) => error,
            Self::Program(source) => program_error(name, source),
        }
    }
}

impl From<BpfError> for AttachError {
    fn from(error: BpfError) -> Self {
        Self::Bpf(error)
    }
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

/// A link on a cgroup lets others' programs run beside it (BPF_F_ALLOW_MULTI is what links always have, and the
/// kernel refuses the flag itself there), and holds for all descendants, future ones included.
fn attach_to_cgroup(ebpf: &mut Ebpf, name: &'static str, cgroup: BorrowedFd<'_>) -> Result<(), AttachError> {
    let program: &mut CgroupSockAddr = OBSERVE.program(ebpf, name)?;
    program.load()?;
    program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(())
}

fn attach_to_tracepoint(ebpf: &mut Ebpf, name: &'static str) -> Result<(), AttachError> {
    let program: &mut RawTracePoint = OBSERVE.program(ebpf, name)?;
    program.load()?;
    program.attach(name)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_becomes_words_in_order() {
        assert_eq!(words("fd5c:e900::1:2".parse().unwrap()), [0xfd5c_e900, 0, 0, 0x0001_0002]);
    }

    #[test]
    fn more_ports_than_fit_are_left_to_the_gateway() {
        let encoded = |ports: Option<BTreeSet<u16>>| -> settings::Settings {
            let (own_v4, own_v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
            let settings = Settings {
                own_v4,
                own_v6,
                ports,
                report_reads: false,
                report_missing: false,
                built_first: false,
            };
            bytemuck::cast(settings.encode())
        };
        let few = encoded(Some((1..=20).collect()));
        assert!(few.opens(1) && few.opens(20) && !few.opens(99));
        assert!(encoded(Some((1..=21).collect())).opens(99));
        assert!(encoded(None).opens(99));
        assert!(!encoded(Some(BTreeSet::new())).opens(443));
    }

    #[test]
    fn everything_may_move_between_threads() {
        fn moves<T: Send>() {}
        moves::<Programs>();
        moves::<EventReader>();
        moves::<super::super::LookupLink>();
    }

    #[test]
    fn misses_are_read_from_fdinfo() {
        assert_eq!(misses("prog_type:\t17\nrecursion_misses:\t12\nverified_insns:\t5\n"), 12);
        assert_eq!(misses("prog_type:\t17\n"), 0);
    }

    #[test]
    fn a_ring_of_an_odd_size_is_refused() {
        let directory = std::fs::File::open("/").unwrap();
        let error = Programs::load(directory.as_fd(), Options { ring_bytes: 5000 }).err().unwrap();
        assert!(matches!(error, BpfError::RingSize(5000)));
    }
}
