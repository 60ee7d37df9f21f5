//! What shells and `man` know of the command line: made from its definition, so that it is never another one.

use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::arguments::Arguments;

/// The script with which a shell completes it.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "skep", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for `skep` and one for each of its commands.
///
/// # Errors
/// When the directory is not there or cannot be written to.
pub fn pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Arguments::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell);
            for command in Arguments::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_its_page() {
        let directory = tempfile::tempdir().unwrap();
        pages(directory.path()).unwrap();
        for command in Arguments::command().get_subcommands() {
            let page = directory.path().join(format!("skep-{}.1", command.get_name()));
            assert!(
                std::fs::read_to_string(page).unwrap().contains(".SH SYNOPSIS"),
                "{}",
                command.get_name()
            );
        }
        let main = std::fs::read_to_string(directory.path().join("skep.1")).unwrap();
        assert!(main.contains("Exit codes:"), "{main}");
        assert!(pages(&directory.path().join("nowhere")).is_err());
    }
}
