//! What the binaries `skep` and `skepd` share: the command line and what it shows.
#![forbid(unsafe_code)]

pub mod access;
pub mod arguments;
pub mod ask;
pub mod client;
pub mod local;
pub mod manual;
pub mod origin;
pub mod report;
pub mod run;
pub mod show;
pub mod streams;
