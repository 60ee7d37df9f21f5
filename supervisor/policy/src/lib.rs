//! Profiles, compiled policies, verdicts and launch plans.
//!
//! Everything here is a function of its arguments: no file is read, no clock is asked, no syscall is made.
//! What the decisions depend on (does a path exist, what is mounted where, which layers does the host have) is
//! passed in as facts, so that each decision can be printed, compared and tested without root.
#![forbid(unsafe_code)]

pub mod compose;
pub mod decision;
pub mod diagnostics;
pub mod egress;
pub mod escape;
pub mod gateway;
pub mod launch;
pub mod layers;
pub mod path;
pub mod pattern;
pub mod plan;
pub mod policy;
pub mod profile;
pub mod rule;
pub mod shipped;
pub mod tree;
pub mod units;
