//! The files of `/etc` that a sandbox has of its own: who it is and how it finds names.

use std::path::{Path, PathBuf};

use super::Context;
use super::mounts::Root;
use super::points::Points;
use crate::launch::RootOp;
use crate::policy::Policy;
use crate::tree::{Found, Tree, walk};

/// Addresses at which the gateway answers DNS. They are no addresses of the sandbox itself, so its own servers
/// stay its own.
const RESOLV_CONF: &str = "nameserver 10.113.0.1\nnameserver fd00:5ce9::1\n";

/// Only files and DNS: host plugins (mDNS, systemd-resolved, LDAP) would ask sockets the sandbox has not.
const NSSWITCH_CONF: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
                             protocols: files\nservices: files\nethers: files\nrpc: files\n";

const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// Adds the files; returns where they are.
pub(super) fn add(
    root: &mut Root,
    points: &Points,
    tree: &dyn Tree,
    policy: &Policy,
    context: &Context,
) -> Vec<PathBuf> {
    let shell = super::environment::shell(policy, tree);
    // passwd and group hold the agent's ids, which differ between sandboxes with ids of their own.
    let files = [
        ("/etc/resolv.conf", RESOLV_CONF.to_owned(), false),
        ("/etc/nsswitch.conf", NSSWITCH_CONF.to_owned(), false),
        ("/etc/hosts", HOSTS.to_owned(), false),
        ("/etc/passwd", passwd(policy, context, &shell), true),
        ("/etc/group", group(context), true),
    ];
    let mut added = Vec::new();
    for (path, text, private) in files {
        let Some(at) = place(points, tree, Path::new(path)) else { continue };
        let private = private || points.covering(&at).is_some_and(|(_, point)| point.private);
        root.parents(private, points, &at);
        root.push(private, RootOp::Content { at: at.clone(), bytes: text.into_bytes(), mode: 0o644 });
        added.push(at);
    }
    added
}

/// Where the file must be so that its usual path shows it: at the end of the host's links where `/etc` is
/// granted, for the links show too. `None` where it cannot be: inside a granted tree that lacks it.
fn place(points: &Points, tree: &dyn Tree, path: &Path) -> Option<PathBuf> {
    if points.covering(path).is_none() {
        return Some(path.to_owned());
    }
    let walked = walk(tree, path);
    let shown = points.covering(&walked.real).is_some();
    let taken = ["/proc", "/dev", "/tmp"].iter().any(|place| walked.real.starts_with(place));
    match walked.found {
        Found::File(_) | Found::Other(_) if shown => Some(walked.real),
        _ if shown || taken => None,
        _ => Some(walked.real),
    }
}

fn passwd(policy: &Policy, context: &Context, shell: &Path) -> String {
    let Context { agent, user, .. } = context;
    let home = field(&policy.bindings.home.display().to_string());
    let root = match agent.uid {
        0 => String::new(),
        _ => "root:x:0:0:root:/root:/usr/sbin/nologin\n".to_owned(),
    };
    let agent = format!(
        "{}:x:{}:{}::{home}:{}\n",
        field(user),
        agent.uid,
        agent.gid,
        field(&shell.display().to_string())
    );
    format!("{root}{agent}nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
}

fn group(context: &Context) -> String {
    let root = if context.agent.gid == 0 { "" } else { "root:x:0:\n" };
    format!("{root}{}:x:{}:\nnogroup:x:65534:\n", field(&context.user), context.agent.gid)
}

/// A value that cannot break out of its field.
fn field(text: &str) -> String {
    text.chars()
        .map(|character| if character == ':' || character.is_control() { '_' } else { character })
        .collect()
}
