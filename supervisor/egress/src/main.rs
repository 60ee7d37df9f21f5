//! `skep-egress UID GID`: the gateway of one owner's sandboxes, started by `skepd` as root with the control
//! channel as descriptor 0.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use skep_egress::dial::Dialer;
use skep_egress::{confine, gateway};
use skep_kernel::process::take_control_descriptor;
use skep_kernel::seqpacket::Channel;
use skep_policy::launch::Ids;
use tokio::runtime;
use tokio::task::LocalSet;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-egress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let ids = arguments()?;
    let channel = Channel::from_socket(take_control_descriptor()?).context("descriptor 0")?;
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let dialer = {
        let _inside = runtime.enter();
        Dialer::from_host().context("resolver settings")?
    };
    let slots = confine::connections()?;
    confine::confine(ids)?;
    LocalSet::new().block_on(&runtime, gateway::serve(channel, dialer, slots))?;
    Ok(())
}

/// The ids to run with: nobody else's on this host.
fn arguments() -> Result<Ids> {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .map(|text| text.parse().with_context(|| format!("{text:?} is no id")))
        .collect::<Result<_>>()?;
    match numbers[..] {
        [uid, gid] => Ok(Ids { uid, gid }),
        _ => bail!("usage: skep-egress UID GID, with the control channel as descriptor 0"),
    }
}
