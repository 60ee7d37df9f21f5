//! The hostile side of the attack tests: one program, one subcommand per attempt.
//!
//! Each attempt prints `DONE what` for what worked and `DENIED what: errno` for what did not. It never decides
//! whether that is good: outside the sandbox everything is expected to work, inside nothing is.

#![expect(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    reason = "arguments of raw system calls are words: whether signed is for the kernel to say"
)]

mod devices;
mod files;
mod filter;
mod kernel;
mod memory;
mod mode;
mod namespaces;
mod process;
mod sockets;
mod sys;
mod terminal;

use std::fmt::Display;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["race-final", target, seconds] => files::race_final(target, seconds),
        ["race-middle", target, seconds] => files::race_middle(target, seconds),
        ["handle-of", path] => files::handle_of(path),
        ["open-handle", mount, handle] => files::open_handle(mount, handle),
        ["descriptors", path] => files::descriptors(path),
        ["exists", path, missing] => files::exists(path, missing),
        ["mounts", directory] => namespaces::mounts(directory),
        ["fuse", directory] => namespaces::fuse(directory),
        ["namespaces"] => namespaces::create(),
        ["clone3"] => namespaces::clone3(),
        ["enter"] => namespaces::enter(),
        ["set-id", directory] => mode::set_id(directory),
        ["devices", directory] => devices::devices(directory),
        ["whiteout", path] => devices::whiteout(path),
        ["memfd"] => kernel::memfd(),
        ["sweep"] => kernel::sweep(),
        ["io-uring"] => kernel::io_uring(),
        ["personality"] => kernel::personality(),
        ["priority"] => kernel::priority(),
        ["capabilities"] => kernel::capabilities(),
        ["identity"] => kernel::identity(),
        ["int80", directory] => kernel::int80(directory),
        ["x32"] => kernel::x32(),
        ["filter"] => filter::weaken(),
        ["hold", text] => memory::hold(text),
        ["peek", process] => memory::peek(process),
        ["keep-shared", key, text] => memory::keep_shared(key, text),
        ["read-shared", key] => memory::read_shared(key),
        ["keys", name] => memory::keys(name),
        ["kill", processes @ ..] => process::kill(processes),
        ["daemon"] => process::daemon(),
        ["watchers", user] => process::hold_watchers(user),
        ["watcher", users @ ..] => process::make_watcher(users),
        ["families"] => sockets::families(),
        ["vsock"] => sockets::vsock(),
        ["raw"] => sockets::raw(),
        ["netlink"] => sockets::netlink(),
        ["tcp", addresses @ ..] => sockets::tcp(addresses),
        ["udp", addresses @ ..] => sockets::udp(addresses),
        ["abstract", name] => sockets::unix_abstract(name),
        ["unix", path] => sockets::unix(path),
        ["terminal"] => terminal::attack(),
        other => {
            eprintln!("no such attempt: {other:?}");
            std::process::exit(2);
        }
    }
}

/// Prints the outcome of one attempt.
fn report<T, E: Display>(what: &str, outcome: Result<T, E>) {
    match outcome {
        Ok(_) => println!("DONE {what}"),
        Err(error) => println!("DENIED {what}: {error}"),
    }
}
