//! Launches one sandbox from a plan and stays its parent.
//!
//! `skep-keeper` is started by `skepd` with a control channel as descriptor 0. It is a process of one thread, so
//! that it may fork; it executes the plan (`skep_policy::launch`) and decides nothing. Three processes share its
//! program: the keeper itself ([`keep`], [`launch`]), PID 1 of the sandbox ([`init`]) and, until its `execve`,
//! the agent ([`agent`]).
#![deny(unsafe_code)]

pub mod agent;
pub mod devices;
pub mod failure;
pub mod init;
pub mod inner;
pub mod keep;
pub mod launch;
pub mod place;
pub mod proc;
pub mod root;
pub mod scratch;
pub mod sources;

use nix::sys::stat::{Mode, umask};
use skep_kernel::process::{
    Close, close_from, ignore_signals, take_control_descriptor, usual_descriptor_limit,
};
use skep_kernel::seqpacket::Channel;
use skep_kernel::{SyscallError, caps};

/// The keeper's whole life.
///
/// # Errors
/// When the process was not started as a keeper is: with a channel as descriptor 0, by root.
pub fn run() -> Result<(), StartError> {
    caps::not_dumpable()?;
    close_from(3, Close::Now)?;
    // skepd's own is raised, and every agent would have it.
    usual_descriptor_limit()?;
    ignore_signals();
    umask(Mode::empty());
    let channel = Channel::from_socket(take_control_descriptor()?)?;
    caps::replace_groups(&[])?;
    keep::serve(&channel);
    Ok(())
}

/// Why a keeper did not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] SyscallError),
    /// Descriptor 0 is no control channel.
    #[error("descriptor 0: {0}")]
    Channel(#[from] skep_kernel::seqpacket::ChannelError),
}
