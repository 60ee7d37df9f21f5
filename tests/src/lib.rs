//! Black-box tests: the harness. The tests themselves are in `tests/tests`.
//!
//! * [`model`]: a scripted model server, so that real agents run without a model and without the internet.
//! * [`agents`]: the real agents, pinned, and how to call them.
//! * [`session`], [`play`]: scripted sessions as data, and the playing of them.
//! * [`skep`], [`audit`], [`snapshot`]: the real binaries, what they record, and what they may leave behind.
//! * [`attack`], [`sink`], [`compliance`]: attacks, their oracles, and the results they leave.
//! * [`ground`], [`process`]: what a test stands on, and running things to a deadline.

#![forbid(unsafe_code)]

pub mod agents;
pub mod attack;
pub mod audit;
pub mod compliance;
mod each;
mod foreign;
pub mod ground;
mod jail;
pub mod model;
pub mod play;
pub mod process;
pub mod session;
pub mod sink;
pub mod skep;
pub mod snapshot;

/// How a test ends: most of what can fail is not what it tests, and `?` says where it happened.
pub type Outcome = anyhow::Result<()>;
