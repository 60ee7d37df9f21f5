//! The only home of syscalls: namespaces, mounts, cgroups, seccomp, Landlock, BPF, probes.
//!
//! A module wraps one thing of the kernel and decides nothing; a failed call comes back as a
//! [`SyscallError`] with its name, its object and its errno. What stands here without the feature `supervisor`
//! also builds for musl, for the keeper and the gateway.
//!
//! `unsafe` is denied by default; a module that needs it says why in an `UNSAFETY` line.
#![deny(unsafe_code)]

#[cfg(feature = "supervisor")]
pub mod bpf;
pub mod caps;
#[cfg(feature = "supervisor")]
pub mod cgroup;
#[cfg(feature = "tokio")]
pub mod channel;
pub mod clone;
pub mod error;
#[cfg(feature = "supervisor")]
pub mod filter;
pub mod idmap;
#[cfg(feature = "supervisor")]
pub mod impatience;
pub mod keyring;
pub mod landlock;
pub mod listener;
pub mod memfd;
pub mod mount;
#[cfg(feature = "supervisor")]
pub mod mountinfo;
pub mod netns;
#[cfg(feature = "supervisor")]
pub mod probe;
pub mod process;
pub mod pseudo;
pub mod pty;
pub mod seccomp;
pub mod seqpacket;
pub mod spawn;
pub mod splice;
pub mod terminal;
pub mod udp;
pub mod view;

pub use error::SyscallError;
