//! `cargo xtask bench launch|agent`: ours beside bare and bwrap, interleaved, in one process.
//!
//! Every round runs each contender once, in an order that rotates, so that what the machine does meanwhile hits
//! all of them alike; a second bare contender (A/A) shows how far equal things differ here. Nothing is thrown
//! away.
#![forbid(unsafe_code)]

mod agent;
mod launch;
mod report;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let rounds = arguments.next().map(|text| text.parse()).transpose()?;
    match what.as_str() {
        "launch" => launch::run(rounds.unwrap_or(300)),
        "agent" => agent::run(rounds.unwrap_or(12)),
        _ => bail!("usage: bench launch|agent [ROUNDS]"),
    }
}
