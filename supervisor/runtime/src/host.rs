//! What was proven about this host, in the words of the policy and of the audit.

use std::path::Path;

use skep_kernel::cgroup::{CpuTime, Limits};
use skep_kernel::probe::{Facts, Proof};
use skep_policy::layers::{CgroupLimits, Host};

use crate::audit::{Layer, Text};

/// Microseconds in which a share of processor time is counted: the kernel's own default.
const PERIOD: u64 = 100_000;

/// Proves the layers, each by a denial. Takes some milliseconds.
#[must_use]
pub fn prove(state: &Path) -> Facts {
    skep_kernel::probe::facts(&[state])
}

/// The facts as the policy binds rules to them. `lookup` is whether the BPF programs of the network loaded.
#[must_use]
pub fn host(facts: &Facts, lookup: bool) -> Host {
    Host {
        landlock_abi: facts.landlock.proof.works().then_some(facts.landlock.abi),
        bpf_lsm: facts.lists_bpf_lsm(),
        // The path judge does not exist yet: nothing may be bound to it.
        judge: false,
        seccomp: facts.seccomp.proof.works(),
        sk_lookup: lookup,
        idmapped_mounts: !facts.idmapped_mounts.is_empty()
            && facts.idmapped_mounts.iter().all(|(_, proof)| proof.works()),
        controllers: facts.cgroup.controllers.iter().map(|controller| controller.to_string()).collect(),
        wall_clock: true,
    }
}

/// The facts as the first record of a sandbox shows them.
#[must_use]
pub fn layers(facts: &Facts, lookup: bool) -> Vec<Layer> {
    let layer = |name: &str, on: bool, reason: Option<String>| Layer {
        name: name.to_owned(),
        on,
        reason: reason.map(Text::from),
    };
    let proven = |name: &str, proof: &Proof| layer(name, proof.works(), Some(explain(proof)));
    vec![
        layer("mounts", true, None),
        proven("landlock", &facts.landlock.proof),
        proven("seccomp", &facts.seccomp.proof),
        proven("cgroup", &facts.cgroup.proof),
        layer("network", lookup, None),
        layer("bpf-lsm", false, Some("the path judge is not part of this version".to_owned())),
    ]
}

/// What a proof says, in words.
#[must_use]
pub fn explain(proof: &Proof) -> String {
    match proof {
        Proof::Works => "seen to refuse".to_owned(),
        Proof::Refused(errno) => format!("the kernel answers {}", std::io::Error::from_raw_os_error(*errno)),
        Proof::Ineffective => "it was set up and refused nothing".to_owned(),
        Proof::Untried(why) => format!("could not be tried: {why}"),
    }
}

/// The limits of a binding as the cgroup takes them.
#[must_use]
pub fn limits(bound: &CgroupLimits) -> Limits {
    Limits {
        memory: bound.memory,
        pids: bound.pids,
        cpu: bound.cpu.map(|percent| CpuTime { quota: u64::from(percent.0) * PERIOD / 100, period: PERIOD }),
        ..Limits::default()
    }
}
