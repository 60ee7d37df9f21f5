//! What the build and the tests need of the distribution, each with its reason and the way to look for it.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Purpose;
use super::debian::Apt;
use crate::call::say;

/// One thing that has to be there.
#[derive(Debug)]
struct Need {
    package: &'static str,
    why: &'static str,
    probe: Probe,
    purpose: Purpose,
}

/// How to see that it is there: a program on the path or a file, so that what came from elsewhere than
/// from Debian's package counts as well.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Program(&'static str),
    File(&'static str),
}

const NEEDS: &[Need] = &[
    need("gcc", "links every binary", Probe::Program("cc"), Purpose::Build),
    need("libc6-dev", "what programs are linked against", Probe::File("usr/include/stdio.h"), Purpose::Build),
    need("pkg-config", "finds libseccomp", Probe::Program("pkg-config"), Purpose::Build),
    need("libseccomp-dev", "compiles the filters", Probe::File("usr/include/seccomp.h"), Purpose::Build),
    need(
        "ca-certificates",
        "for downloads",
        Probe::File("etc/ssl/certs/ca-certificates.crt"),
        Purpose::Build,
    ),
    need("bubblewrap", "what launches are measured against", Probe::Program("bwrap"), Purpose::Test),
    need("curl", "an agent calls it, and is refused", Probe::Program("curl"), Purpose::Test),
    need("git", "agents commit with it", Probe::Program("git"), Purpose::Test),
    need("libcap2-bin", "an attack gives a program capabilities", Probe::Program("setcap"), Purpose::Test),
    need("make", "an agent builds with it", Probe::Program("make"), Purpose::Test),
    need("python3", "an agent runs programs in it", Probe::Program("python3"), Purpose::Test),
    need("procps", "agents look at processes with it", Probe::Program("ps"), Purpose::Test),
    need("npm", "fetches the agents", Probe::Program("npm"), Purpose::Test),
];

const fn need(package: &'static str, why: &'static str, probe: Probe, purpose: Purpose) -> Need {
    Need { package, why, probe, purpose }
}

/// Installs what is missing for the purpose.
pub(super) fn install(apt: &mut Apt, purpose: Purpose) -> anyhow::Result<()> {
    let missing = Host::this().missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    say("not on this machine:");
    for need in &missing {
        say(&format!("  {:<16} {}", need.package, need.why));
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    apt.install(&packages, &packages.join(", "))
}

/// Where to look.
#[derive(Debug)]
struct Host {
    root: PathBuf,
    path: OsString,
}

impl Host {
    fn this() -> Self {
        Self { root: PathBuf::from("/"), path: std::env::var_os("PATH").unwrap_or_default() }
    }

    fn missing(&self, purpose: Purpose) -> Vec<&'static Need> {
        let wanted = |need: &&Need| need.purpose == Purpose::Build || purpose == Purpose::Test;
        NEEDS.iter().filter(wanted).filter(|need| !self.has(need.probe)).collect()
    }

    fn has(&self, probe: Probe) -> bool {
        match probe {
            Probe::Program(name) => program(name, &self.path).is_some(),
            Probe::File(path) => self.root.join(path).exists(),
        }
    }
}

/// The program of that name in a search path.
pub(super) fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let executable = |file: &Path| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|file| executable(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(host: &Host, purpose: Purpose) -> Vec<&'static str> {
        host.missing(purpose).iter().map(|need| need.package).collect()
    }

    #[test]
    fn on_an_empty_machine_everything_is_missing() {
        let empty = tempfile::tempdir().unwrap();
        let host = Host { root: empty.path().to_owned(), path: empty.path().into() };
        assert_eq!(names(&host, Purpose::Test).len(), NEEDS.len());
        let build = names(&host, Purpose::Build);
        assert!(build.contains(&"libseccomp-dev") && !build.contains(&"npm"), "{build:?}");
    }

    #[test]
    fn what_is_found_is_not_asked_for_and_a_file_that_cannot_run_is_no_program() {
        let root = tempfile::tempdir().unwrap();
        for (name, mode) in [("cc", 0o755), ("pkg-config", 0o644)] {
            let file = root.path().join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("usr/include")).unwrap();
        std::fs::write(root.path().join("usr/include/seccomp.h"), "").unwrap();
        let host = Host { root: root.path().to_owned(), path: root.path().into() };
        let missing = names(&host, Purpose::Build);
        assert!(!missing.contains(&"gcc") && !missing.contains(&"libseccomp-dev"), "{missing:?}");
        assert!(missing.contains(&"pkg-config"), "{missing:?}");
    }
}
