//! Limits of a sandbox: memory, processes, processor time, device bandwidth.
//!
//! The values are written by cgroups-rs. Its own idea of where version 2 is mounted (/sys/fs/cgroup) is not
//! used: each of its controllers is pointed at the open directory of the sandbox.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::PathBuf;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::error::Error;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;
use serde::{Deserialize, Serialize};

use super::{CgroupError, write_at};

/// A controller of version 2 that a limit needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Bandwidth of block devices.
    Io,
    /// Memory and swap.
    Memory,
    /// Number of tasks.
    Pids,
}

/// A set of controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controllers(BTreeSet<Controller>);

/// What a sandbox may use; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, beyond which something of the sandbox is killed, and all of it at once.
    pub memory: Option<u64>,
    /// Bytes of memory, beyond which the sandbox is slowed down and its memory reclaimed.
    pub memory_high: Option<u64>,
    /// Bytes of swap.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processor time.
    pub cpu: Option<CpuTime>,
    /// Bandwidth, by device.
    pub io: Vec<DeviceLimit>,
}

/// `quota` microseconds of processor time in each `period` of microseconds; a quota above the period is more
/// than one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// Microseconds of processor time.
    pub quota: u64,
    /// Microseconds of wall-clock time, 1,000 to 1,000,000.
    pub period: u64,
}

/// Bytes a second of one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes a second read.
    pub read: Option<u64>,
    /// Bytes a second written.
    pub write: Option<u64>,
}

impl Controllers {
    /// From the text of `cgroup.controllers`; names no limit needs are left out.
    pub(super) fn parse(text: &str) -> Self {
        let all = [Controller::Cpu, Controller::Io, Controller::Memory, Controller::Pids];
        let listed = |controller: &Controller| text.split_whitespace().any(|name| name == controller.name());
        Self(all.into_iter().filter(listed).collect())
    }

    /// Is it in the set?
    pub fn has(&self, controller: Controller) -> bool {
        self.0.contains(&controller)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Controller> {
        self.0.iter().copied()
    }

    pub(super) fn missing_in(&self, other: &Self) -> Vec<Controller> {
        self.0.difference(&other.0).copied().collect()
    }
}

impl Controller {
    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Io => "io",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Limits {
    /// The controllers these limits need.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] for the first that is not `available`.
    pub fn needs(&self, available: &Controllers) -> Result<Controllers, CgroupError> {
        let wanted = [
            (self.memory.is_some(), "memory.max", Controller::Memory),
            (self.memory_high.is_some(), "memory.high", Controller::Memory),
            (self.swap.is_some(), "memory.swap.max", Controller::Memory),
            (self.pids.is_some(), "pids.max", Controller::Pids),
            (self.cpu.is_some(), "cpu.max", Controller::Cpu),
            (!self.io.is_empty(), "io.max", Controller::Io),
        ];
        let mut needed = Controllers::default();
        for (_, limit, controller) in wanted.into_iter().filter(|(set, ..)| *set) {
            if !available.has(controller) {
                return Err(CgroupError::NoController { limit, controller });
            }
            needed.0.insert(controller);
        }
        Ok(needed)
    }

    pub(super) fn write(&self, directory: BorrowedFd<'_>) -> Result<(), CgroupError> {
        self.write_memory(directory)?;
        if let Some(pids) = self.pids {
            let value = MaxValue::Value(signed(pids));
            named("pids.max", PidController::new(at(directory), PathBuf::new(), true).set_pid_max(value))?;
        }
        if let Some(CpuTime { quota, period }) = self.cpu {
            let controller = CpuController::new(at(directory), PathBuf::new(), true);
            named("cpu.max", controller.set_cfs_quota_and_period(Some(signed(quota)), Some(period)))?;
        }
        self.io.iter().try_for_each(|device| device.write(directory))
    }

    fn write_memory(&self, directory: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let controller = MemController::new(at(directory), PathBuf::new(), true);
        let value = |limit: Option<u64>| limit.map(|bytes| MaxValue::Value(signed(bytes)));
        let memory =
            SetMemory { max: value(self.memory), high: value(self.memory_high), low: None, min: None };
        named("memory.max", controller.set_mem(memory))?;
        if self.memory.is_some() {
            // An agent that lost one process of many goes on in a state nobody designed.
            write_at(directory, "memory.oom.group", "1")?;
        }
        match self.swap {
            Some(swap) => named("memory.swap.max", controller.set_memswap_limit(signed(swap))),
            None => Ok(()),
        }
    }
}

impl DeviceLimit {
    fn write(&self, directory: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let controller = BlkIoController::new(at(directory), PathBuf::new(), true);
        let (major, minor) = (self.major.into(), self.minor.into());
        if let Some(read) = self.read {
            named("io.max", controller.throttle_read_bps_for_device(major, minor, read))?;
        }
        if let Some(write) = self.write {
            named("io.max", controller.throttle_write_bps_for_device(major, minor, write))?;
        }
        Ok(())
    }
}

fn named(limit: &'static str, result: Result<(), Error>) -> Result<(), CgroupError> {
    result.map_err(|source| CgroupError::Limit { limit, source })
}

/// cgroups-rs takes a path; this one leads to the directory that is open.
fn at(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Beyond 2^63 bytes or tasks there is nothing to limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
