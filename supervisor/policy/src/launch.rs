//! The launch plan and the messages between `skepd` and `skep-keeper`.
//!
//! A launch is data before it is done: `skepd` computes a [`Plan`], which can be printed (`skep run --plan`),
//! compared and tested without root; the keeper executes it and decides nothing.
//!
//! Both sides encode with postcard. A keeper ends with the `skepd` that started it, so the two are of one build and
//! these types may change freely; [`VERSION`] grows then, and tells where half of another build was installed.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of the plan and of the keeper protocol. A keeper refuses a plan of another one. It begins to grow with the
/// first release.
pub const VERSION: u16 = 1;

/// What [`is_sandbox_name`] wants, for people.
pub const SANDBOX_NAME: &str = "1 to 32 of a-z, 0-9 and -, and no - at the beginning";

/// Is this a name or an id for a sandbox: `[a-z0-9][a-z0-9-]{0,31}`? It becomes a host name, a directory of the
/// cgroup hierarchy and text on terminals, and it comes from requests, so whoever takes one asks this.
#[must_use]
pub fn is_sandbox_name(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=32).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

/// Everything the keeper needs to build one sandbox, in the order of its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`VERSION`] of the writer.
    pub version: u16,
    /// Id of the sandbox, [`is_sandbox_name`]; also its host name and the name of its cgroup.
    pub sandbox: String,
    /// The agent's uid and gid, the same inside its user namespace and outside.
    pub agent: Ids,
    /// The ids of PID 1, which nobody else on the host has.
    pub init: Ids,
    /// Ids as which paths on the host are resolved, so that root's authority never follows a user's link.
    pub lookup: Ids,
    /// Operations that build the part of the root which other launches of the same profile and user share.
    pub template: Vec<RootOp>,
    /// Operations that build what belongs to this sandbox alone, run after the template.
    pub private: Vec<RootOp>,
    /// The Landlock hull of the agent, or `None` where a layer above makes it pointless or the host has none.
    pub landlock: Option<Vec<LandlockRule>>,
    /// Resource limits by `RLIMIT_*` number, soft and hard alike.
    pub rlimits: Vec<(u32, u64)>,
    /// Seccomp program of the agent, as the kernel takes it (`struct sock_filter`, 8 bytes each).
    pub agent_filter: Vec<u8>,
    /// Seccomp program of PID 1.
    pub init_filter: Vec<u8>,
    /// What to start.
    pub command: Command,
    /// How the agent talks to its user.
    pub terminal: Terminal,
}

/// A user and group id in the initial user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One step that builds the root file system. `at` is an absolute path inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOp {
    /// Make a directory on the root's own tmpfs, owned by root.
    Directory {
        /// Where.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Make a symbolic link on the root's own tmpfs.
    Symlink {
        /// Where.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Its text.
        #[serde(with = "crate::path")]
        target: PathBuf,
    },
    /// Show a file of ours, read-only, at `at`: made where `at` is on the root's own tmpfs, laid over where
    /// `at` already exists.
    Content {
        /// Where.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// The bytes of the file.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// Bind an object of the host (with what is mounted below it), always `nosuid,nodev`.
    Bind {
        /// The object on the host: canonical, opened without following any link.
        #[serde(with = "crate::path")]
        from: PathBuf,
        /// Where it shows.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Whether it is a directory or anything else.
        kind: ObjectKind,
        /// May it be written.
        write: bool,
        /// May programs on it be started or mapped executable.
        exec: bool,
        /// On-disk owner that is shown as the agent, by an idmapped mount; `None` leaves owners alone.
        owner_as_agent: Option<Ids>,
    },
    /// Bind a path of the sandbox on itself, which keeps it from being renamed or removed, and may take
    /// writing away.
    Pin {
        /// What.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Whether it is a directory or anything else.
        kind: ObjectKind,
        /// Whether the pinned object stays writable.
        write: bool,
        /// Whether programs on it may run.
        exec: bool,
    },
    /// Cover an object with an empty, unreadable one.
    Mask {
        /// What.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Whether it is a directory or anything else.
        kind: ObjectKind,
    },
    /// A private tmpfs, `nosuid,nodev`, owned by the agent.
    Tmpfs {
        /// Where.
        #[serde(with = "crate::path")]
        at: PathBuf,
        /// Size limit in bytes.
        bytes: u64,
        /// Permission bits.
        mode: u32,
        /// May programs on it run.
        exec: bool,
    },
    /// A fresh `/proc` of the sandbox's PID namespace (`hidepid=invisible`, `subset` off), with its dangerous
    /// entries masked or read-only.
    Proc,
    /// A minimal `/dev`: null zero full random urandom tty, links fd stdin stdout stderr ptmx, devpts, shm.
    Devices {
        /// Size limit of `/dev/shm` in bytes.
        shm_bytes: u64,
    },
}

/// What a template leaves to the launch that enters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOff<'a> {
    /// Everything but the directory it is mounted on.
    Mount {
        /// That directory.
        at: &'a Path,
    },
    /// What changes in `/dev`; its nodes are shared.
    Devices {
        /// Size limit of `/dev/shm` in bytes.
        shm_bytes: u64,
    },
}

impl RootOp {
    /// What of this operation two sandboxes must not share: it is put off to the launch that has entered a template,
    /// even where the operation stands among the template's.
    #[must_use]
    pub fn put_off(&self) -> Option<PutOff<'_>> {
        match self {
            Self::Proc => Some(PutOff::Mount { at: Path::new("/proc") }),
            Self::Tmpfs { at, .. } => Some(PutOff::Mount { at }),
            Self::Devices { shm_bytes } => Some(PutOff::Devices { shm_bytes: *shm_bytes }),
            Self::Directory { .. } | Self::Symlink { .. } | Self::Content { .. } => None,
            Self::Bind { .. } | Self::Pin { .. } | Self::Mask { .. } => None,
        }
    }
}

/// What an object is, as far as mounting cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A directory.
    Directory,
    /// A regular file, socket or anything else that is no directory.
    File,
}

/// The network namespace: `lo` and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The preferred source address besides 127.0.0.1.
    pub v4: Ipv4Addr,
    /// The preferred source address besides `::1`.
    pub v6: Ipv6Addr,
    /// TCP port, on 127.0.0.1 and `::1`, on which the gateway's listeners are opened.
    pub gateway_port: u16,
}

impl Network {
    /// The addresses of every sandbox: no sandbox sees another's, so they need not differ. 10.113.0.0/24 and
    /// fd00:5ce9::/64 are private ranges that hosts seldom use; the nameserver of resolv.conf is `.1` there.
    pub const OF_A_SANDBOX: Self = Self {
        v4: Ipv4Addr::new(10, 113, 0, 2),
        v6: Ipv6Addr::new(0xfd00, 0x5ce9, 0, 0, 0, 0, 0, 2),
        gateway_port: 1,
    };
}

/// One hierarchy the Landlock hull leaves open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockRule {
    /// Path inside the sandbox; a missing one is skipped, for it then needs no permission.
    #[serde(with = "crate::path")]
    pub at: PathBuf,
    /// May be written below (everything that changes files and names).
    pub write: bool,
    /// May be executed below.
    pub exec: bool,
}

/// The agent's command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The path of the program: it has been looked up, outside.
    pub program: Vec<u8>,
    /// `argv`, `argv[0]` included; no NUL inside.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` strings; no NUL inside.
    pub environment: Vec<Vec<u8>>,
    /// Working directory inside the sandbox.
    #[serde(with = "crate::path")]
    pub directory: PathBuf,
}

/// How the agent talks to its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// A pty from the sandbox's own devpts; its master travels with [`KeeperEvent::Started`].
    Pty {
        /// Rows of the window.
        rows: u16,
        /// Columns of the window.
        columns: u16,
    },
    /// Three descriptors passed with [`KeeperRequest::Launch`].
    Pipes,
}

/// What `skepd` asks of a keeper: a template; or an empty sandbox, later a launch into it, then signals. Descriptors
/// ride along as SCM_RIGHTS in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperRequest {
    /// Make an empty sandbox: its namespaces, and a PID 1 that waits in them. That is half of a launch and needs
    /// no plan, so it is asked for ahead.
    ///
    /// Descriptors: the sandbox's cgroup directory, and the parent of that directory, to remove it should `skepd`
    /// be gone.
    Isolate {
        /// Its id.
        sandbox: String,
        /// Its network.
        network: Network,
        /// What the ids of its agent will be if it gets ids of its own: the map that shows root's files as these
        /// is made ahead.
        own: Ids,
    },
    /// Build its root and start the agent.
    ///
    /// Descriptors: a sealed memfd with the [`Plan`], then the template's mount namespace if `template` says so,
    /// then, with [`Terminal::Pipes`], standard input, output and error of the agent.
    Launch {
        /// A template mount namespace is passed; of [`Plan::template`] only what is put off has to be there.
        template: bool,
    },
    /// Send a signal: one that keys send (SIGINT, SIGQUIT, SIGTSTP) to the foreground process group of the agent's
    /// terminal, where it has one, any other to the agent. Not before [`KeeperEvent::Started`].
    Signal(i32),
    /// Build a template mount namespace from [`Plan::template`] (memfd passed) and answer with it.
    BuildTemplate,
}

/// What a keeper tells `skepd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperEvent {
    /// The answer to [`KeeperRequest::Isolate`]: the empty sandbox waits. Descriptors: its network namespace, then
    /// TCP v4, TCP v6, UDP v4 and UDP v6 listeners in it.
    Isolated,
    /// The agent's program has been executed (its `execve` succeeded). Descriptor, with [`Terminal::Pty`]: the
    /// pty's master.
    Started {
        /// Its pid in the initial PID namespace.
        pid: u32,
    },
    /// The launch failed and everything made for it has been undone.
    Failed {
        /// Which step.
        stage: Stage,
        /// The object of the step: a path, a limit's name.
        object: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// The agent ended.
    Exited(Ending),
    /// The sandbox's processes are gone; what is left of its namespaces ends with the keeper, which exits.
    Gone,
    /// The answer to [`KeeperRequest::BuildTemplate`]. Descriptor: the mount namespace.
    Template,
}

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It exited with this status.
    Code(u8),
    /// It died of this signal.
    Signal(u8),
}

/// The steps of a launch, named in its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Receiving and decoding the plan.
    Plan,
    /// The namespaces, and PID 1 cloned into them and the cgroup.
    Namespaces,
    /// Addresses, routes and listeners.
    Network,
    /// Building the root file system.
    Root,
    /// The pty.
    Terminal,
    /// Dropping PID 1's privileges.
    Init,
    /// The agent's user namespace and its maps.
    UserNamespace,
    /// Resource limits.
    Limits,
    /// The Landlock hull.
    Landlock,
    /// Capabilities, no_new_privs, keyring, session.
    Credentials,
    /// The seccomp filter.
    Filter,
    /// The working directory.
    Directory,
    /// `execve` of the agent: ENOENT is "command not found", EACCES "not executable".
    Exec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_be_a_path_or_an_option_is_none() {
        for name in ["", "-", "-a", ".", "..", "../x", "a/b", "A", "a b", "a.b", "a\0", "ä", &"a".repeat(33)]
        {
            assert!(!is_sandbox_name(name), "{name:?}");
        }
        for name in ["a", "0", "quiet-bee-12", "a-", &"a".repeat(32)] {
            assert!(is_sandbox_name(name), "{name:?}");
        }
    }
}
