//! Types shared by the BPF programs (`ebpf/programs`) and the code that loads them (`kernel::bpf`).
//!
//! Everything here is plain old data with asserted sizes, or a pure function that both sides call, so that the
//! verdict the kernel gives is the verdict the tests see.
#![no_std]

pub mod net;
pub mod offsets;
pub mod quota;
pub mod record;
pub mod settings;
pub mod syscalls;
