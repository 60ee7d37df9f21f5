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
use crate::record::{count_denial, left_unjudged, losses};
use crate::registry::{Live, Registry, Trace};

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
    let mut tell = |body| records.push(Record::of(&live.origin, body).at(at));
    match event {
        Event::Exec(exec) => tell(executed(&live, exec)),
        Event::Exit(exit) => tell(ended(&exit.task, exit.status)),
        Event::Opened(opened) => passed_open(&live, &opened).into_iter().for_each(tell),
        Event::Changed(call) => passed_change(&live, &call).into_iter().for_each(tell),
        Event::Refused(call) => refused(&live, absence, &call).into_iter().for_each(tell),
        Event::Connect(connect) => refused_address(&live, &connect).into_iter().for_each(tell),
        Event::Overflowed { .. } | Event::Lost { .. } | Event::Malformed { .. } => {}
    }
}

/// A sandbox had more to tell than it has room for: its loss, and nobody else's.
fn overflowed(registry: &Registry, cgroup: u64, lost: u64, records: &mut Vec<Record>) {
    let Some(live) = registry.of_cgroup(cgroup) else { return };
    records.extend(losses(&live, lost).map(|body| Record::of(&live.origin, body)));
}

/// A sandbox has lost records that were read and not judged, because that took longer than others can wait for.
pub fn unjudged(registry: &Registry, cgroup: u64, count: u64, records: &mut Vec<Record>) {
    let Some(live) = registry.of_cgroup(cgroup) else { return };
    records.extend(left_unjudged(&live, count).map(|body| Record::of(&live.origin, body)));
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
    changed(live, [(op, path)], || {
        Body::Open(audit::Open {
            task: who(&opened.task),
            path: Text::from(path),
            created: opened.created,
            truncated: opened.passed_flags & u64::from(libc::O_TRUNC.unsigned_abs()) != 0,
        })
    })
}

/// A call that changed names or attributes. What the policy denies of it is told apart from what it allows.
fn passed_change(live: &Live, call: &Call) -> Vec<Body> {
    let mut bodies = Vec::new();
    let mut allowed = Vec::new();
    for (op, path) in effects(call) {
        let verdict = live.policy.judge(op, &path);
        if verdict.decision != Decision::Allow {
            bodies.extend(unenforced(live, call.name(), &path, &verdict));
        } else if !is_private(&verdict) {
            allowed.push((op, path));
        }
    }
    bodies.extend(changed(live, allowed.iter().map(|(op, path)| (*op, path.as_path())), || {
        Body::Change(audit::Change {
            task: who(&call.task),
            op: call.name().to_owned(),
            path: told(&call.first),
            to: call.second.as_ref().map(told),
        })
    }));
    bodies
}

/// Counts a change of some paths. Its record, if one of them was not changed in this way before; if that is not known,
/// it is only counted.
fn changed<'p>(
    live: &Live,
    effects: impl IntoIterator<Item = (FileOp, &'p Path)>,
    body: impl FnOnce() -> Body,
) -> Option<Body> {
    let mut progress = live.progress();
    let meet = |(op, path): (FileOp, &Path)| {
        let trace = if op == FileOp::Remove { Trace::Removed } else { Trace::Written };
        let name = path.as_os_str().as_bytes();
        progress.changed.meet((trace, name.to_vec()), (), name.len()).0
    };
    let newest = effects.into_iter().map(meet).max()?;
    progress.counters.changed += u64::from(newest != Met::Again);
    match newest {
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
    let judged = effects(call).into_iter().map(|(op, path)| (op, live.policy.judge(op, &path), path));
    // Of two paths the one that is denied is the one to talk about. If neither is, the policy has nothing against it: a
    // missing file, or the file's own permissions.
    let (op, verdict, path) =
        judged.into_iter().find(|(_, verdict, _)| verdict.decision != Decision::Allow)?;
    let what = format!("{} {}", format!("{op:?}").to_lowercase(), shown(&path));
    // What was denied before is denied again, whatever has become of it, and needs no look.
    let may_be_missing = verdict.rule.is_none() && call.errno == libc::ENOENT;
    if may_be_missing && live.progress().denials.get(&what).is_none() {
        // What would be made is not there in any case: then the directory counts.
        let wanted = if op == FileOp::Create { path.parent().unwrap_or(&path) } else { &path };
        if absence.is_certain(live.lookup, wanted) {
            live.progress().counters.missing += 1;
            return None;
        }
    }
    let allow_with = live.policy.allowing(op, &path, verdict.rule.as_ref());
    let rule = verdict.rule.map(|rule| rule.to_string());
    denied(live, Denial { what, rule: rule.clone(), allow_with: allow_with.clone() }, || audit::Denied {
        task: Some(who(&call.task)),
        op: call.name().to_owned(),
        object: Text::from(path.as_path()),
        errno: Some(format!("{:?}", nix::errno::Errno::from_raw(call.errno))),
        rule: rule.map(Text::from),
        reason: Text::from(verdict.reason),
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

/// What a system call does to the paths it names, in the words of the policy. A path that is not known is left out.
fn effects(call: &Call) -> Vec<(FileOp, PathBuf)> {
    let second = match call.name() {
        // The target of a symbolic link is only text.
        "symlink" | "symlinkat" => None,
        // Each of the two loses what it named.
        "renameat2" if call.argument & u64::from(libc::RENAME_EXCHANGE) != 0 => Some(FileOp::Remove),
        _ => Some(FileOp::Create),
    };
    let first = (operation(call.name(), call.argument), &call.first);
    let named = [Some(first), second.zip(call.second.as_ref())].into_iter().flatten();
    named.filter_map(|(op, named)| Some((op, place(named)?))).collect()
}

/// What a system call does to its first path.
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
        // Among others a hard link: under its second name the file can be written where no rule on the first one reaches.
        _ => FileOp::Write,
    }
}

/// A path as a record has it: what the call named where its absolute path is not known.
fn told(named: &Named) -> Text {
    place(named).map_or_else(|| Text::from(named.joined()), |path| Text::from(path.as_path()))
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

    use skep_ebpf_abi::syscalls::WATCHED;
    use skep_kernel::bpf::{Accuracy, Claimed};

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
        let all: Vec<_> = records.iter().map(told).collect();
        assert_eq!(all, [(Some("1".to_owned()), 5), (Some("1".to_owned()), 3), (None, 4)]);
        assert_eq!((flooder.progress().counters.lost, other.progress().counters.lost), (8, 0));
        let mut records = Vec::new();
        unjudged(&registry, 1, 7, &mut records);
        unjudged(&registry, 1, 0, &mut records);
        record(&registry, &mut Absence::default(), Event::Overflowed { cgroup: 1, lost: 10 }, &mut records);
        let counts: Vec<_> = records.iter().map(|record| told(record).1).collect();
        assert_eq!((counts, flooder.progress().counters.lost), (vec![7, 2], 17));
    }

    /// A sandbox of which nothing new can be remembered.
    fn full() -> Live {
        let live = Live::for_tests("a", 1);
        {
            let mut progress = live.progress();
            let name = "x".repeat(1 << 20);
            let repeated = Repeated { count: 0, rule: None, allow_with: None };
            for number in 0..4 {
                progress.changed.meet((Trace::Written, format!("{number}").into_bytes()), (), name.len());
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
        let told = ["/a", "/b", "/a"]
            .map(|path| changed(&live, [(FileOp::Write, Path::new(path))], || panic!("a record")));
        assert!(matches!(told, [Some(Body::Error(_)), None, None]), "{told:?}");
        assert_eq!(live.progress().counters.changed, 3);
    }

    #[test]
    fn what_passed_against_the_policy_is_said_whatever_else_changed() {
        let live = Live::for_tests("a", 1);
        let path = Path::new("/a");
        let verdict = live.policy.judge(FileOp::Write, path);
        assert!(changed(&live, [(FileOp::Write, path)], || Body::Open(audit::Open::default())).is_some());
        let told = [(); 2].map(|()| unenforced(&live, "open", path, &verdict));
        assert!(matches!(told, [Some(Body::Error(_)), None]), "{told:?}");
        let live = full();
        let told = [(); 2].map(|()| unenforced(&live, "open", path, &verdict));
        assert!(matches!(told, [Some(_), Some(_)]), "{told:?}");
    }

    /// A sandbox whose workspace is `/home/u/project`.
    fn working() -> Live {
        let profile = "schema = 1\nname = \"p\"\n[files]\nwrite = [\"${workspace}\"]\n\
                       [guards]\nprotect = [\"**/.mcp.json\"]\n";
        Live::with_profile("a", 1, profile)
    }

    fn call(name: &str, argument: u64, first: &str, second: &str) -> Call {
        let named = |path: &str| {
            let (bytes, accuracy) = (path.as_bytes().to_vec(), Accuracy::default());
            Named { claimed: Some(Claimed { bytes, total: 0, accuracy }), ..Named::default() }
        };
        let (syscall, ..) = WATCHED.iter().find(|(_, known, _)| *known == name).unwrap();
        let task = Task {
            cgroup: 1,
            process: 2,
            thread: 2,
            parent: 1,
            start_ns: 0,
            time_ns: 0,
            comm: b"mv".to_vec(),
        };
        let (first, second) = (named(first), Some(named(second)));
        Call { task, syscall: *syscall, errno: 0, argument, first, second }
    }

    /// What is told of a call in the workspace that passed: `path > to` of its record, the message where it should not
    /// have passed.
    fn told_of(live: &Live, (name, argument, first, second): (&str, u64, &str, &str)) -> Vec<String> {
        let at = |path: &str| Path::new("/home/u/project").join(path).display().to_string();
        let passed = passed_change(live, &call(name, argument, &at(first), &at(second)));
        let shown = |text: &Text| text.shown().replace("/home/u/project/", "");
        let told = |body| match body {
            Body::Change(audit::Change { path, to: Some(to), .. }) => {
                format!("{} > {}", shown(&path), shown(&to))
            }
            Body::Error(error) => shown(&error.message),
            other => panic!("{other:?}"),
        };
        passed.into_iter().map(told).collect()
    }

    #[test]
    fn a_change_is_recorded_unless_both_names_were_changed_so_before() {
        let live = working();
        let write =
            |path| changed(&live, [(FileOp::Write, Path::new(path))], || Body::Open(audit::Open::default()));
        assert!(write("/home/u/project/a").is_some() && write("/home/u/project/b").is_some());
        let told = |call| told_of(&live, call);
        assert_eq!(told(("rename", 0, "a", "b")), ["a > b"], "a is there no more");
        assert!(told(("rename", 0, "a", "b")).is_empty());
        assert_eq!(told(("rename", 0, "a", "c")), ["a > c"], "c was not there before");
        assert_eq!(
            told(("rename", 0, "/tmp/x", "d")),
            ["/tmp/x > d"],
            "what happens in /tmp concerns nobody, d does"
        );
        assert!(told(("rename", 0, "/tmp/x", "/tmp/y")).is_empty());
        assert_eq!(told(("link", 0, "a", "e")), ["a > e"]);
        assert_eq!(
            told(("symlinkat", 0, "f", "/etc/passwd")),
            ["f > /etc/passwd"],
            "the target is only text"
        );
        assert_eq!(live.progress().counters.changed, 7);
    }

    #[test]
    fn an_exchange_takes_both_names_from_what_had_them() {
        let live = working();
        let told = |call| told_of(&live, call);
        assert_eq!(told(("rename", 0, "a", "b")), ["a > b"]);
        assert_eq!(told(("rename", 0, "b", "a")), ["b > a"]);
        let exchange = u64::from(libc::RENAME_EXCHANGE);
        assert!(told(("renameat2", exchange, "a", "b")).is_empty());
        assert_eq!(told(("renameat2", exchange, "a", "c")), ["a > c"]);
        assert!(told(("rename", 0, "c", "a")).is_empty(), "c was taken away before");
    }

    #[test]
    fn what_passed_against_the_policy_is_named_whichever_of_two_paths_it_is() {
        let live = working();
        let told = |call| told_of(&live, call);
        let weaker = |what: &str| {
            format!(
                "{what} passed, although p:6 guards.protect \"**/.mcp.json\": no layer of this host enforces it"
            )
        };
        assert_eq!(
            told(("rename", 0, "a", ".mcp.json")),
            [weaker("rename .mcp.json"), "a > .mcp.json".to_owned()]
        );
        assert!(told(("rename", 0, "a", ".mcp.json")).is_empty());
        assert_eq!(
            told(("rename", 0, "x/.mcp.json", "y/.mcp.json")),
            [weaker("rename x/.mcp.json"), weaker("rename y/.mcp.json")]
        );
        assert_eq!(
            told(("link", 0, ".mcp.json", "b")),
            [weaker("link .mcp.json"), ".mcp.json > b".to_owned()]
        );
        assert_eq!(told(("symlink", 0, "c", "/home/u/project/.mcp.json")), ["c > .mcp.json"]);
    }

    #[test]
    fn of_two_paths_of_a_refused_call_the_denied_one_is_told() {
        let live = working();
        let denied = |name, argument, first: &str, second: &str| {
            let call = Call { errno: libc::EBUSY, ..call(name, argument, first, second) };
            match refused(&live, &mut Absence::default(), &call) {
                Some(Body::Denied(denied)) => Some(denied.object.shown()),
                None => None,
                other => panic!("{other:?}"),
            }
        };
        let (own, guarded) = ("/home/u/project/a", "/home/u/project/.mcp.json");
        for (first, second) in [(own, guarded), (guarded, own)] {
            for (name, argument) in [("rename", 0), ("renameat2", u64::from(libc::RENAME_EXCHANGE))] {
                assert_eq!(denied(name, argument, first, second).as_deref(), Some(guarded));
                live.progress().denials = Distinct::default();
            }
        }
        assert_eq!(denied("symlink", 0, own, guarded), None, "the target is only text");
        assert_eq!(denied("symlink", 0, guarded, own).as_deref(), Some(guarded));
    }

    #[test]
    fn what_nobody_can_be_asked_about_is_denied_with_that_and_the_rules_reason_once() {
        let profile = "schema = 1\nname = \"p\"\n[files]\nwrite = [\"${workspace}\"]\n[guards]\n\
                       ask_write = [{ path = \"**/.git/config\", reason = \"it names programs\" }]\n";
        let live = Live::with_profile("a", 1, profile);
        let call = Call { errno: libc::EROFS, ..call("open", 1, "/home/u/project/.git/config", "") };
        let Some(Body::Denied(denied)) = refused(&live, &mut Absence::default(), &call) else { panic!() };
        assert_eq!(denied.reason.shown(), "no approver: it names programs");
    }

    #[test]
    fn root_only_what_was_denied_once_is_denied_again_when_it_is_gone() {
        std::thread::spawn(|| {
            let directory = tempfile::tempdir_in("/var/tmp").unwrap();
            let path = |name: &str| directory.path().join(name).display().to_string();
            std::fs::write(path("here"), "").unwrap();
            let live = working();
            let mut absence = Absence::default();
            let mut refused = |name: &str| {
                let call = Call { errno: libc::ENOENT, ..call("open", 0, &path(name), "") };
                refused(&live, &mut absence, &call).is_some()
            };
            assert!(refused("here") && !refused("nowhere"));
            std::fs::remove_file(path("here")).unwrap();
            assert!(!refused("here") && !refused("nowhere"));
            let counters = live.progress().counters;
            assert_eq!((counters.ungranted, counters.missing), (2, 2));
        })
        .join()
        .unwrap();
    }
}
