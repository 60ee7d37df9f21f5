//! The gateway of the sandboxes: DNS with virtual addresses and a TCP relay, judged by name and port.
//!
//! It parses what hostile agents send, so it runs under ids of nobody's, sees no file, and confines itself
//! before it hears the first byte of theirs. It opens nothing that `skepd` has not written down first.
#![forbid(unsafe_code)]

pub mod confine;
mod connection;
pub mod dial;
pub mod dns;
mod filter;
pub mod gateway;
pub mod judge;
pub mod name;
pub mod public;
pub mod recorder;
pub mod relay;
pub mod sandbox;
pub mod table;
