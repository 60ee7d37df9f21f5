//! The BPF programs on this kernel. Every test here needs root, a cgroup v2 hierarchy and the built objects
//! (`cargo xtask build`), and fails without them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cost;
mod destinations;
mod files;
mod lookup;
mod losses;
mod processes;
mod rig;
mod roles;
