//! What the kernel saw, judged once more by the policy and put into words.
//!
//! The kernel's layers enforce; this explains. A refused operation is a denial when the policy denies it, and
//! then the record names the rule. An operation that **passed although the policy denies it** met a rule that
//! is weaker on this host: the start said so, and the record says it again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use skep_ebpf_abi::net;
use skep_kernel::bpf::{Call, Connect, Event, Exec, Named, Opened, Status, Task};
use skep_policy::decision::Decision;
use skep_policy::policy::{FileOp, Verdict};

use crate::absence::Absence;
use crate::audit::{self, Body, Record, Text};
use crate::record::{count_denial, losses};
use crate::registry::{Live, MOST_DISTINCT, Registry};

/// Appends the records an event deserves: none for repeats and for sandboxes that are gone.
pub fn record(registry: &Registry, absence: &mut Absence, event: Event, records: &mut Vec<Record>) {
    let task = match &event {
        Event::Exec(exec) => &exec.task,
        Event::Exit(exit) => &exit.task,
        Event::Opened(opened) => &opened.task,
        Event::Refused(call) | Event::Changed(call) => &call.task,
        Event::Connect(connect) => &connect.task,
        Event::Overflowed { cgroup, lost } => return overflowed(registry, *cgroup, *lost, records),
        Event::Lost { cpu, count } => return records.push(gap(Some(*cpu), *count)),
        Event::Malformed { .. } => return records.push(gap(None, 1)),
    };
    let Some(live) = registry.of_cgroup(task.cgroup) else { return };
    let at = task.time_ns;
    if is_of_the_launch(&live, &event) {
        return;
    }
    let body = match event {
        Event::Exec(exec) => Some(executed(&live, exec)),
        Event::Exit(exit) => Some(ended(&exit.task, exit.status)),
        Event::Opened(opened) => passed_open(&live, &opened),
        Event::Changed(call) => passed_change(&live, &call),
        Event::Refused(call) => refused(&live, absence, &call),
        Event::Connect(connect) => refused_address(&live, &connect),
        Event::Overflowed { .. } | Event::Lost { .. } | Event::Malformed { .. } => None,
    };
    records.extend(body.map(|body| Record::of(&live.origin, body).at(at)));
}

/// Is this work of the keeper on the sandbox? It makes mount points and writes id maps in the sandbox's cgroup,
/// and no rule of the agent's is about that. The agent's first instruction follows the first successful exec;
/// before that, a refused one is all that concerns anybody. The ring keeps that order.
fn is_of_the_launch(live: &Live, event: &Event) -> bool {
    let is_ours = match event {
        Event::Opened(_) | Event::Changed(_) => true,
        Event::Refused(call) => operation(call.name(), call.argument) != FileOp::Exec,
        _ => false,
    };
    is_ours && live.progress().counters.executed == 0
}

/// A sandbox had more to tell than it has room for: its loss, and nobody else's.
fn overflowed(registry: &Registry, cgroup: u64, lost: u64, records: &mut Vec<Record>) {
    let Some(live) = registry.of_cgroup(cgroup) else { return };
    records.extend(losses(&live, lost).map(|body| Record::of(&live.origin, body)));
}

/// A gap in the numbers of a CPU is nobody's in particular.
fn gap(cpu: Option<u32>, count: u64) -> Record {
    let body = audit::Lost { source: "ring".to_owned(), cpu, count, ..audit::Lost::default() };
    Record::general(Body::Lost(body))
}

fn who(task: &Task) -> audit::Task {
    audit::Task {
        pid: task.process,
        parent: Some(task.parent),
        comm: Some(Text::from(task.comm.as_slice())),
        program: None,
    }
}

fn executed(live: &Live, exec: Exec) -> Body {
    live.progress().counters.executed += 1;
    let area = exec.arguments.bytes;
    let whole = area.strip_suffix(b"\0").unwrap_or(&area);
    let argv = whole.split(|byte| *byte == 0).map(Text::from).collect();
    let total = u64::from(exec.arguments.total);
    let cut = (total > area.len() as u64).then(|| audit::Cut { bytes: Some(total), ..audit::Cut::default() });
    Body::Exec(audit::Exec {
        task: who(&exec.task),
        path: Text::from(exec.program.path.path),
        argv,
        cut,
        directory: None,
    })
}

fn ended(task: &Task, status: Status) -> Body {
    let (code, signal) = match status {
        Status::Code(code) => (Some(code), None),
        Status::Signal(signal) => (None, Some(signal)),
    };
    Body::Exit(audit::Exit { task: who(task), code, signal })
}

/// A successful open. Those for reading are only counted by the kernel; this one may change the file.
fn passed_open(live: &Live, opened: &Opened) -> Option<Body> {
    let path = path_of(&opened.file.path.path);
    let op = if opened.created { FileOp::Create } else { FileOp::Write };
    let verdict = live.policy.judge(op, path);
    if verdict.decision != Decision::Allow && !opened.file.path.accuracy.detached {
        return unenforced(live, "open", path, &verdict);
    }
    if is_private(&verdict) || opened.file.path.accuracy.detached || !is_first(live, path) {
        return None;
    }
    Some(Body::Open(audit::Open {
        task: who(&opened.task),
        path: Text::from(opened.file.path.path.as_slice()),
        created: opened.created,
        truncated: opened.passed_flags & u64::from(libc::O_TRUNC.unsigned_abs()) != 0,
    }))
}

fn passed_change(live: &Live, call: &Call) -> Option<Body> {
    let path = place(&call.first)?;
    let verdict = live.policy.judge(operation(call.name(), 0), &path);
    if verdict.decision != Decision::Allow {
        return unenforced(live, call.name(), &path, &verdict);
    }
    let to = call.second.as_ref().and_then(place);
    if is_private(&verdict) || !is_first(live, &path) {
        return None;
    }
    Some(Body::Change(audit::Change {
        task: who(&call.task),
        op: call.name().to_owned(),
        path: Text::from(path.as_path()),
        to: to.map(|path| Text::from(path.as_path())),
    }))
}

/// Something passed that the policy denies. Said once for each object.
fn unenforced(live: &Live, op: &str, path: &Path, verdict: &Verdict) -> Option<Body> {
    let rule = verdict.rule.as_ref().map_or_else(|| "no rule allows it".to_owned(), ToString::to_string);
    let what = format!("{op} {} passed", shown(path));
    {
        let mut progress = live.progress();
        if progress.changed.len() >= MOST_DISTINCT || !progress.changed.insert(what.clone().into_bytes()) {
            return None;
        }
    }
    Some(Body::Error(audit::Failure {
        what: "weaker rule".to_owned(),
        message: Text::from(format!("{what}, although {rule}: no layer of this host enforces it")),
    }))
}

fn refused(live: &Live, absence: &mut Absence, call: &Call) -> Option<Body> {
    let path = place(&call.first)?;
    let op = operation(call.name(), call.argument);
    let verdict = live.policy.judge(op, &path);
    // Of two paths the one that is denied is the one to talk about.
    let (path, op, verdict) = match call.second.as_ref().and_then(place) {
        Some(second) if verdict.decision == Decision::Allow => {
            let verdict = live.policy.judge(FileOp::Create, &second);
            (second, FileOp::Create, verdict)
        }
        _ => (path, op, verdict),
    };
    if verdict.decision == Decision::Allow {
        // The policy has nothing against it: a missing file, or the file's own permissions.
        return None;
    }
    if verdict.rule.is_none() && call.errno == libc::ENOENT {
        // What would be made is not there in any case: then the directory counts.
        let wanted = if op == FileOp::Create { path.parent().unwrap_or(&path) } else { &path };
        if absence.is_certain(live.lookup, wanted) {
            live.progress().counters.missing += 1;
            return None;
        }
    }
    let allow_with = live.policy.allowing(op, &path, verdict.rule.as_ref());
    let what = format!("{} {}", format!("{op:?}").to_lowercase(), shown(&path));
    let rule = verdict.rule.map(|rule| rule.to_string());
    if !count_denial(live, what, rule.clone(), allow_with.clone()) {
        return None;
    }
    Some(Body::Denied(audit::Denied {
        task: Some(who(&call.task)),
        op: call.name().to_owned(),
        object: Text::from(path.as_path()),
        errno: Some(format!("{:?}", nix::errno::Errno::from_raw(call.errno))),
        rule: rule.map(Text::from),
        reason: Text::from(reason(verdict.decision, verdict.reason)),
        allow_with: allow_with.map(Text::from),
        count: 1,
    }))
}

fn refused_address(live: &Live, connect: &Connect) -> Option<Body> {
    if connect.verdict != net::Verdict::Denied {
        return None;
    }
    let protocol = match i32::try_from(connect.protocol) {
        Ok(libc::IPPROTO_TCP) => "tcp",
        Ok(libc::IPPROTO_UDP) => "udp",
        _ => "ip",
    };
    let (address, port) = (connect.destination.ip().to_canonical(), connect.destination.port());
    let name = live.progress().names.get(&address).cloned();
    let object = match &name {
        Some(name) => format!("{protocol} {name}:{port}"),
        None => format!("{protocol} {}", connect.destination),
    };
    let verdict = match &name {
        Some(name) if protocol == "tcp" => Some(live.policy.judge_connect(name, port)),
        _ => None,
    };
    let named = verdict.as_ref().and(name.as_ref());
    let allow_with = named.and_then(|name| live.policy.allowing_connect(name, port));
    let (rule, reason) = match verdict {
        Some(verdict) => (verdict.rule.map(|rule| rule.to_string()), verdict.reason),
        None if protocol == "udp" => (None, "of UDP only DNS leaves a sandbox".to_owned()),
        None => (None, "destinations are granted by name and port, never by address".to_owned()),
    };
    if !count_denial(live, format!("connect {object}"), rule.clone(), allow_with.clone()) {
        return None;
    }
    Some(Body::Denied(audit::Denied {
        task: Some(who(&connect.task)),
        op: "connect".to_owned(),
        object: Text::from(object),
        errno: Some("EPERM".to_owned()),
        rule: rule.map(Text::from),
        reason: Text::from(reason),
        allow_with: allow_with.map(Text::from),
        count: 1,
    }))
}

/// What a system call does to its first path, in the words of the policy.
fn operation(call: &str, flags: u64) -> FileOp {
    let flag = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
    match call {
        "open" | "openat" | "openat2" if flag(libc::O_CREAT) => FileOp::Create,
        "open" | "openat" | "openat2" if flag(libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC) => FileOp::Write,
        "open" | "openat" | "openat2" => FileOp::Read,
        "execve" | "execveat" => FileOp::Exec,
        "connect" => FileOp::Connect,
        "creat" | "mkdir" | "mkdirat" | "mknod" | "mknodat" | "symlink" | "symlinkat" | "bind" => {
            FileOp::Create
        }
        "unlink" | "unlinkat" | "rmdir" | "rename" | "renameat" | "renameat2" => FileOp::Remove,
        _ => FileOp::Write,
    }
}

/// The absolute path a call names: base and claim joined, `.` and `..` removed as text. It explains, it never
/// decides, so a link on the way may make it name another object than the kernel met.
fn place(named: &Named) -> Option<PathBuf> {
    let joined = named.joined();
    // The address of a unix socket may have anything behind the NUL that ends its path.
    let text = joined.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = path_of(text);
    if !path.is_absolute() {
        return None;
    }
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(plain)
}

fn reason(decision: Decision, reason: String) -> String {
    match decision {
        Decision::Ask => format!("no approver; {reason}"),
        Decision::Allow | Decision::Deny => reason,
    }
}

/// Was it allowed by a place every sandbox has for itself (`/tmp`, `/dev/null`)? What happens there concerns
/// nobody.
fn is_private(verdict: &Verdict) -> bool {
    verdict.rule.as_ref().is_some_and(|rule| rule.line == 0)
}

/// Is this path changed for the first time? Counts it; beyond the bound nothing is new.
fn is_first(live: &Live, path: &Path) -> bool {
    let mut progress = live.progress();
    let path = path.as_os_str().as_bytes();
    if progress.changed.len() >= MOST_DISTINCT || progress.changed.contains(path) {
        return false;
    }
    progress.changed.insert(path.to_vec());
    progress.counters.changed += 1;
    true
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn shown(path: &Path) -> String {
    skep_policy::escape::escape(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_sandbox_has_lost_is_said_of_it_alone_and_once() {
        let registry = Registry::default();
        let (flooder, other) = (Arc::new(Live::for_tests("a", 1)), Arc::new(Live::for_tests("b", 2)));
        assert!(registry.insert(Arc::clone(&flooder)) && registry.insert(Arc::clone(&other)));
        let mut records = Vec::new();
        let mut happens = |event| record(&registry, &mut Absence::default(), event, &mut records);
        for lost in [5, 5, 8] {
            happens(Event::Overflowed { cgroup: 1, lost });
        }
        happens(Event::Overflowed { cgroup: 3, lost: 9 });
        happens(Event::Lost { cpu: 0, count: 4 });
        let told = |record: &Record| {
            let Body::Lost(lost) = &record.body else { panic!("{record:?}") };
            (record.origin.as_ref().map(|origin| origin.sandbox.id.clone()), lost.count)
        };
        let told: Vec<_> = records.iter().map(told).collect();
        assert_eq!(told, [(Some("1".to_owned()), 5), (Some("1".to_owned()), 3), (None, 4)]);
        assert_eq!((flooder.progress().counters.lost, other.progress().counters.lost), (8, 0));
    }
}
