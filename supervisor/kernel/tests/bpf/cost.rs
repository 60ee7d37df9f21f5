//! What observation costs. Prints; asserts nothing, for the machine is shared.

use std::time::Instant;

use crate::rig::Rig;
use crate::roles;

#[test]
#[ignore = "measures: cargo test -p skep-kernel --features supervisor --test bpf -- --ignored --nocapture cost"]
fn as_root_the_cost_of_an_open() {
    let only = |output: &std::process::Output| roles::reported(output).join(" ");
    let bare = only(&roles::command("open").output().unwrap());
    let start = Instant::now();
    let rig = Rig::new(false);
    let load = start.elapsed();
    let outside = only(&roles::command("open").output().unwrap());
    let counted = only(&rig.run_inside(&roles::command("open")));
    drop(rig);
    // Nobody reads meanwhile, and all must have room.
    let rig = Rig::with_ring(false, 64 << 20);
    let recorded = only(&rig.run_inside(&roles::command("open-write")));
    println!(
        "load {load:?}; ns per open+close: bare {bare}, outside {outside}, inside counted {counted}, recorded {recorded}"
    );
}
