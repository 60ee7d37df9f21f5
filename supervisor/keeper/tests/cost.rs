//! What a launch costs, beside bubblewrap. A measurement, no check: run it alone, with the keeper as it is shipped,
//! and where the machine has other work under `chrt -f 20`:
//!
//! ```text
//! cargo build --profile keeper --target x86_64-unknown-linux-musl -p skep-keeper
//! SKEP_TEST_KEEPER=target/x86_64-unknown-linux-musl/keeper/skep-keeper \
//!     cargo test --release -p skep-keeper --test cost -- --ignored --nocapture
//! ```
//!
//! `skepd`'s own part (the plan, BPF) is not in it; `cargo xtask bench launch` has the whole.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

mod support;

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_policy::launch::{Ending, KeeperEvent, LandlockRule, Plan};
use support::{build_template, launch_in, plan, waiting};

const ROUNDS: usize = 200;

/// The plan of a usual launch: 20 Landlock rules, no output to collect.
fn everything_on() -> Plan {
    let mut plan = plan(&["/usr/bin/true"]);
    let rule = |at: &str, write| LandlockRule { at: at.into(), write, exec: !write };
    let mut rules = vec![rule("/usr", false), rule("/etc", false), rule("/proc", true), rule("/dev", true)];
    rules.extend((0..16).map(|_| rule("/tmp", true)));
    plan.landlock = Some(rules);
    plan
}

fn bwrap() -> Duration {
    let start = Instant::now();
    let arguments = ["--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"];
    let status = Command::new("bwrap").args(arguments).stdin(Stdio::null()).status().unwrap();
    assert!(status.success());
    start.elapsed()
}

fn bare() -> Duration {
    let start = Instant::now();
    assert!(Command::new("/usr/bin/true").stdin(Stdio::null()).status().unwrap().success());
    start.elapsed()
}

/// What is done ahead; then from the plan to the start, to the exit status and to the end of the keeper.
fn ours(plan: &Plan, template: Option<&std::os::fd::OwnedFd>) -> [Duration; 4] {
    let start = Instant::now();
    let waiting = waiting();
    let ahead = start.elapsed();
    let start = Instant::now();
    let mut run = launch_in(waiting, plan.clone(), template.map(AsFd::as_fd));
    run.started();
    let started = start.elapsed();
    run.expect(&KeeperEvent::Exited(Ending::Code(0)));
    let exited = start.elapsed();
    run.expect(&KeeperEvent::Gone);
    run.keeper.wait().unwrap();
    [ahead, started, exited, start.elapsed()]
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).unwrap().as_micros();
    println!("{name:28} p10 {:5} p50 {:5} p99 {:6} us", at(10), at(50), at(99));
}

#[test]
#[ignore = "a measurement"]
fn as_root_a_launch_beside_bubblewrap() {
    // The daemon this stands for has some memory, which a fork would have to copy.
    let memory = vec![1_u8; 64 << 20];
    let plan = everything_on();
    let template = build_template(&plan);
    let mut all: [Vec<Duration>; 7] = Default::default();
    for _ in 0..ROUNDS {
        let [ahead, started, exited, gone] = ours(&plan, Some(&template));
        let [.., whole, _] = ours(&plan, None);
        for (times, time) in all.iter_mut().zip([bare(), bwrap(), ahead, started, exited, gone, whole]) {
            times.push(time);
        }
    }
    let names = [
        "bare",
        "bwrap",
        "ours: ahead of it",
        "ours: started",
        "ours: exited",
        "ours: gone",
        "no template: exited",
    ];
    for (name, times) in names.into_iter().zip(all) {
        show(name, times);
    }
    drop(memory);
}
