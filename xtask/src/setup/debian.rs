//! Debian's packages, and what to say where they cannot be installed.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::call::{self, say};

/// Installs packages, or says which are missing.
#[derive(Debug)]
pub(crate) struct Apt {
    ability: Ability,
    updated: bool,
}

/// Whether this machine lets us install packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ability {
    Installs,
    NotRoot,
    OtherDistribution,
}

impl Apt {
    pub(crate) fn here() -> Self {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        // The owner of the own /proc entry is the effective user.
        let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        Self { ability: ability(&release, root), updated: false }
    }

    /// Installs the packages; `named` is how a person would name what they bring.
    ///
    /// # Errors
    /// It is not Debian or its like, or not root, or apt-get fails.
    pub(crate) fn install(&mut self, packages: &[&str], named: &str) -> anyhow::Result<()> {
        let command = format!("apt-get install {}", packages.join(" "));
        match self.ability {
            Ability::Installs => {}
            Ability::NotRoot => bail!("missing: {named}\nInstall it as root: {command}"),
            Ability::OtherDistribution => bail!(
                "missing: {named}\nskep installs packages on Debian and Ubuntu only; there it would be: {command}\n\
                 Install what your distribution calls these, then call this again."
            ),
        }
        self.update()?;
        say(&format!("installing {named}: {command}"));
        call::run(apt_get(&["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages))
    }

    /// Whether the package can be had, after an update where we may.
    pub(crate) fn offers(&mut self, package: &str) -> anyhow::Result<bool> {
        if self.ability == Ability::OtherDistribution {
            return Ok(false);
        }
        self.update()?;
        let answer = call::read(Command::new("apt-cache").args(["policy", package]))?;
        Ok(answer.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)")))
    }

    fn update(&mut self) -> anyhow::Result<()> {
        if self.updated || self.ability != Ability::Installs {
            return Ok(());
        }
        say("asking for the lists of packages: apt-get update");
        call::run(&mut apt_get(&["update", "--quiet"])).context("the lists of packages are needed")?;
        self.updated = true;
        Ok(())
    }
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn ability(os_release: &str, root: bool) -> Ability {
    let debian = os_release.lines().any(|line| {
        let (key, value) = line.split_once('=').unwrap_or_default();
        let mut words = value.trim_matches('"').split(' ');
        matches!(key, "ID" | "ID_LIKE") && words.any(|word| word == "debian")
    });
    match (debian && Path::new("/usr/bin/apt-get").exists(), root) {
        (false, _) => Ability::OtherDistribution,
        (true, false) => Ability::NotRoot,
        (true, true) => Ability::Installs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ability: Ability) -> String {
        let mut apt = Apt { ability, updated: false };
        apt.install(&["llvm-22-dev"], "LLVM").unwrap_err().to_string()
    }

    #[test]
    fn another_distribution_is_told_what_is_missing_and_installs_nothing() {
        assert_eq!(ability("ID=fedora\nVERSION_ID=43\n", true), Ability::OtherDistribution);
        let message = refusal(Ability::OtherDistribution);
        assert!(message.contains("missing: LLVM") && message.contains("llvm-22-dev"), "{message}");
    }

    #[test]
    fn who_is_not_root_is_told_the_command() {
        let message = refusal(Ability::NotRoot);
        assert!(message.contains("as root: apt-get install llvm-22-dev"), "{message}");
    }

    #[test]
    fn a_name_that_only_begins_like_debian_is_another_distribution() {
        assert_eq!(ability("ID=debianish\nID_LIKE=\"suse\"\n", true), Ability::OtherDistribution);
    }
}
