//! Calls of other programs, with errors that name the call.

use std::io;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Tells the user what happens.
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// Runs a program whose output the user reads; its standard output goes to our standard error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().context("duplicating standard error")?;
    let status = command.stdin(Stdio::null()).stdout(stderr).status();
    let status = status.with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a program and returns what it wrote to standard output.
pub(crate) fn read(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}\n{}", line(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no UTF-8", line(command)))
}

/// Takes out what cargo and rustup set for this program, so that another toolchain or an agent does not
/// get it: `LD_LIBRARY_PATH` would give a nightly compiler the libraries of the stable one.
pub(crate) fn without_cargo(command: &mut Command) -> &mut Command {
    let ours = |name: &str| {
        let exact = ["CARGO", "LD_LIBRARY_PATH", "OUT_DIR", "RUSTC", "RUSTFLAGS", "RUST_RECURSION_COUNT"];
        exact.contains(&name)
            || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
    };
    for (name, _value) in std::env::vars_os() {
        if name.to_str().is_some_and(ours) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUSTUP_TOOLCHAIN")
}

/// The call as it could be typed.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_names_the_program_its_arguments_and_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "sh -c exit 3 failed: exit status: 3");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = read(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert_eq!(error, "cannot start no-such-program");
    }
}
