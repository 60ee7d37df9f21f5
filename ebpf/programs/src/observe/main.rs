//! Observation of sandbox tasks, and the judgement of where they connect.
//!
//! Every program looks the task's cgroup up first; a task that is in no sandbox leaves after that one look-up.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the BPF target has no AtomicU64::fetch_add, only the intrinsic")]

mod connect;
mod emit;
mod exec;
mod exit;
mod files;
mod kernel;
mod looks;
mod maps;
#[path = "../program.rs"]
mod program;
mod text;
mod walk;
