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
use crate::distinct::{Distinct, Met};
use crate::protocol::Denial;
use crate::record::{count_denial, losses};
use crate::registry::{Live, Registry};

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
    if is_private(&verdict) || opened.file.path.accuracy.detached {
        return None;
    }
    changed(live, path, || {
        Body::Open(audit::Open {
            task: who(&opened.task),
            path: Text::from(path),
            created: opened.created,
            truncated: opened.passed_flags & u64::from(libc::O_TRUNC.unsigned_abs()) != 0,
        })
    })
}

fn passed_change(live: &Live, call: &Call) -> Option<Body> {
    let path = place(&call.first)?;
    let verdict = live.policy.judge(operation(call.name(), 0), &path);
    if verdict.decision != Decision::Allow {
        return unenforced(live, call.name(), &path, &verdict);
    }
    if is_private(&verdict) {
        return None;
    }
    changed(live, &path, || {
        Body::Change(audit::Change {
            task: who(&call.task),
            op: call.name().to_owned(),
            path: Text::from(path.as_path()),
            to: call.second.as_ref().and_then(place).map(|path| Text::from(path.as_path())),
        })
    })
}

/// Counts a change. Its record, if the path was not changed before; if that is not known, it is only counted.
fn changed(live: &Live, path: &Path, body: impl FnOnce() -> Body) -> Option<Body> {
    let mut progress = live.progress();
    let name = path.as_os_str().as_bytes();
    let (met, _) = progress.changed.meet(name.to_vec(), (), name.len());
    progress.counters.changed += u64::from(met != Met::Again);
    match met {
        Met::First => Some(body()),
        Met::Again => None,
        Met::Perhaps => only_counted(&mut progress.changed, "changes of other paths"),
    }
}

/// The one record that stands for all those that are not written.
fn only_counted<K: Ord, V>(distinct: &mut Distinct<K, V>, what: &str) -> Option<Body> {
    distinct.says_it_is_full().then(|| {
        let remembered = distinct.iter().count();
        Body::Error(audit::Failure {
            what: "only counted from here on".to_owned(),
            message: Text::from(format!("{what}, after {remembered} different ones")),
        })
    })
}

/// Something passed that the policy denies. Said once for each object, as long as they can be told apart.
fn unenforced(live: &Live, op: &str, path: &Path, verdict: &Verdict) -> Option<Body> {
    let rule = verdict.rule.as_ref().map_or_else(|| "no rule allows it".to_owned(), ToString::to_string);
    let what = format!("{op} {} passed", shown(path));
    if live.progress().unenforced.meet(what.clone(), (), what.len()).0 == Met::Again {
        return None;
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
    denied(live, Denial { what, rule: rule.clone(), allow_with: allow_with.clone() }, || audit::Denied {
        task: Some(who(&call.task)),
        op: call.name().to_owned(),
        object: Text::from(path.as_path()),
        errno: Some(format!("{:?}", nix::errno::Errno::from_raw(call.errno))),
        rule: rule.map(Text::from),
        reason: Text::from(reason(verdict.decision, verdict.reason)),
        allow_with: allow_with.map(Text::from),
        count: 1,
    })
}

/// Counts a denial. Its record, if it is a new one; where that is not known, what a rule denies counts as new, and
/// what is only not granted, of which an agent can have any number, is only counted.
fn denied(live: &Live, denial: Denial, body: impl FnOnce() -> audit::Denied) -> Option<Body> {
    let has_rule = denial.rule.is_some();
    match count_denial(live, denial) {
        Met::Again => None,
        Met::Perhaps if !has_rule => {
            only_counted(&mut live.progress().denials, "what is refused because no rule grants it")
        }
        Met::First | Met::Perhaps => Some(Body::Denied(body())),
    }
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
    let what = format!("connect {object}");
    denied(live, Denial { what, rule: rule.clone(), allow_with: allow_with.clone() }, || audit::Denied {
        task: Some(who(&connect.task)),
        op: "connect".to_owned(),
        object: Text::from(object),
        errno: Some("EPERM".to_owned()),
        rule: rule.map(Text::from),
        reason: Text::from(reason),
        allow_with: allow_with.map(Text::from),
        count: 1,
    })
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
    use crate::registry::Repeated;

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

    /// A sandbox of which nothing new can be remembered.
    fn full() -> Live {
        let live = Live::for_tests("a", 1);
        {
            let mut progress = live.progress();
            let name = "x".repeat(1 << 20);
            let repeated = Repeated { count: 0, rule: None, allow_with: None };
            for number in 0..4 {
                progress.changed.meet(format!("{number}").into_bytes(), (), name.len());
                progress.unenforced.meet(format!("{number}"), (), name.len());
                progress.denials.meet(format!("{number}"), repeated.clone(), name.len());
            }
        }
        live
    }

    fn denial(what: &str, rule: Option<&str>) -> Denial {
        Denial { what: what.to_owned(), rule: rule.map(str::to_owned), allow_with: None }
    }

    #[test]
    fn what_a_rule_denies_is_recorded_also_when_nobody_knows_whether_it_is_new() {
        let live = full();
        let rule = Some("git:15");
        let told = |what| denied(&live, denial(what, rule), audit::Denied::default);
        assert!([told("a"), told("b"), told("a")].iter().all(|it| matches!(it, Some(Body::Denied(_)))));
        assert!(told("1").is_none(), "a repeat is a repeat");
        assert_eq!(live.progress().counters.denied, 4);
    }

    #[test]
    fn what_is_only_not_granted_is_then_counted_and_that_is_said_once() {
        let live = full();
        assert!(denied(&live, denial("a", Some("git:15")), audit::Denied::default).is_some());
        let told = ["a", "b", "c"].map(|what| denied(&live, denial(what, None), audit::Denied::default));
        let [Some(Body::Error(said)), None, None] = told else { panic!("{told:?}") };
        assert_eq!(said.what, "only counted from here on");
        assert_eq!(live.progress().counters.ungranted, 3);
    }

    #[test]
    fn changes_are_then_counted_and_that_is_said_once() {
        let live = full();
        let told = ["/a", "/b", "/a"].map(|path| changed(&live, Path::new(path), || panic!("a record")));
        assert!(matches!(told, [Some(Body::Error(_)), None, None]), "{told:?}");
        assert_eq!(live.progress().counters.changed, 3);
    }

    #[test]
    fn what_passed_against_the_policy_is_said_whatever_else_changed() {
        let live = Live::for_tests("a", 1);
        let path = Path::new("/a");
        let verdict = live.policy.judge(FileOp::Write, path);
        assert!(changed(&live, path, || Body::Open(audit::Open::default())).is_some());
        let told = [(); 2].map(|()| unenforced(&live, "open", path, &verdict));
        assert!(matches!(told, [Some(Body::Error(_)), None]), "{told:?}");
        let live = full();
        let told = [(); 2].map(|()| unenforced(&live, "open", path, &verdict));
        assert!(matches!(told, [Some(_), Some(_)]), "{told:?}");
    }
}
