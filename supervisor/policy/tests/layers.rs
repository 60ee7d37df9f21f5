//! Which rules hold on which host, what refuses the start, and what the plan makes of it.

#![expect(
    clippy::panic,
    reason = "a helper of tests fails by panicking, with the errors as people read them"
)]

use std::os::unix::ffi::OsStrExt as _;

use skep_policy::compose::{Library, compose};
use skep_policy::decision::Decision;
use skep_policy::diagnostics::Source;
use skep_policy::launch::{Ids, RootOp};
use skep_policy::layers::{Binding, Consent, Host, Layer, Refusal, bind};
use skep_policy::plan::{Context, PlanError, Prepared, prepare};
use skep_policy::policy::{Bindings, FileOp, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::Shipped;
use skep_policy::tree::{Found, Sketch};

const USER: Ids = Ids { uid: 1000, gid: 1000 };
const ROOT: Ids = Ids { uid: 0, gid: 0 };
const DIRECTORY: Found = Found::Directory(USER);

fn host() -> Host {
    Host { landlock_abi: Some(4), seccomp: true, sk_lookup: true, idmapped_mounts: true, ..Host::default() }
}

/// A workspace that may be written, and `/srv/ro` inside nothing.
fn tree() -> Sketch {
    Sketch::default()
        .with("/home/u/project/.git/hooks", DIRECTORY)
        .with("/home/u/project/a/b/vendor", DIRECTORY)
        .with("/srv/ro/secret", Found::File(USER))
        .with("/usr/bin/env", Found::File(ROOT))
}

fn policy_in(body: &str, bindings: &Bindings, tree: &Sketch) -> Policy {
    let text = format!("schema = 1\nname = \"p\"\n{body}");
    let profile = Profile::parse(&Source::new("p", text)).unwrap_or_else(|errors| panic!("{errors}"));
    let effective = compose(&profile, &Shipped).unwrap_or_else(|errors| panic!("{errors}"));
    Policy::compile(&effective, bindings, tree).unwrap_or_else(|errors| panic!("{errors}"))
}

fn policy(body: &str) -> Policy {
    policy_in(body, &Bindings::for_tests(), &tree())
}

fn bound(body: &str, accepted: &[&str]) -> Result<Binding, Refusal> {
    let accepted: Vec<String> = accepted.iter().map(|name| (*name).to_owned()).collect();
    bind(&policy(body), &host(), &tree(), &accepted)
}

fn planned(body: &str) -> Prepared {
    let policy = policy(body);
    let binding = bind(&policy, &host(), &tree(), &[]).unwrap_or_else(|refusal| panic!("{refusal}"));
    prepare(&policy, &binding, &tree(), &context()).unwrap_or_else(|error| panic!("{error}"))
}

fn context() -> Context {
    Context { agent: USER, caller: USER, user: "u".into(), directory: "/home/u/project/a".into() }
}

/// What mounts do at each place, in order: `rw`, `ro`, `x` for exec, `pin`, `mask`.
fn mounts(ops: &[RootOp]) -> Vec<String> {
    let flags = |write: bool, exec: bool| {
        format!("{}{}", if write { "rw" } else { "ro" }, if exec { "x" } else { "" })
    };
    let one = |op: &RootOp| match op {
        RootOp::Bind { at, write, exec, .. } => Some(format!("{} {}", flags(*write, *exec), at.display())),
        RootOp::Pin { at, write, exec, .. } => Some(format!("pin {} {}", flags(*write, *exec), at.display())),
        RootOp::Mask { at, .. } => Some(format!("mask {}", at.display())),
        _ => None,
    };
    ops.iter().filter_map(one).collect()
}

#[test]
fn every_rule_that_nothing_enforces_is_named_with_what_to_do() {
    let refusal = bound(
        r#"mode = "observe"
nested_sandbox = true
[limits]
memory = "1GiB"
idle = "5m"
per_command = { time = "15m" }
[files]
write = ["${workspace}"]
connect = ["/run/x.sock"]
[guards]
hide = ["**/.env*"]
protect = ["${workspace}/.mcp.json"]
[commands]
default = "ask"
[[commands.rule]]
run = ["git", "**", "push", "**"]
decision = "ask"
[[egress]]
to = ["10.0.0.0/8:22"]
[[egress]]
to = ["example.com:443"]
protocol = "tls"
[[example]]
do = "run git push"
expect = "ask"
"#,
        &[],
    )
    .expect_err("nothing of this is in force");
    let names: Vec<String> = refusal.rules.iter().map(|unenforced| unenforced.rule.name()).collect();
    let expected = [
        "files.connect \"/run/x.sock\"",
        "guards.hide \"**/.env*\"",
        "guards.protect \"${workspace}/.mcp.json\"",
        "mode",
        "nested_sandbox",
        "limits.memory",
        "limits.idle",
        "limits.per_command.time",
        "commands.default",
        "commands.rule \"git ** push **\"",
        "egress \"10.0.0.0/8:22\"",
        "egress \"example.com:443\"",
        "example \"run git push\"",
    ];
    assert_eq!(names, expected);
    let shown = refusal.to_string();
    assert!(shown.contains(
        "p:13 guards.hide \"**/.env*\"\n    why: a pattern inside a granted tree needs the path judge"
    ));
    assert!(shown.contains("boot with `bpf` at the end of the kernel's lsm= list"));
    assert!(shown.contains("--accept-weaker 'guards.hide \"**/.env*\"'"));
}

#[test]
fn a_rule_may_be_given_up_by_the_profile_or_by_name_and_both_are_shown() {
    let body = "[limits]\nmemory = { max = \"1GiB\", best_effort = true }\ncpu = \"100%\"\n";
    assert!(bound(body, &[]).is_err());
    for name in ["limits.cpu", "p:5 limits.cpu"] {
        let binding = bound(body, &[name, "limits.typo"]).expect("accepted");
        let weaker: Vec<_> = binding.weaker().map(|(rule, weaker)| (rule.name(), weaker.consent)).collect();
        let expected = [("limits.memory", Consent::BestEffort), ("limits.cpu", Consent::Accepted)];
        assert_eq!(weaker, expected.map(|(name, consent)| (name.to_owned(), consent)));
        assert_eq!(binding.accepted_nothing, ["limits.typo"]);
    }
}

#[test]
fn the_lowest_of_several_limits_holds_and_pids_fall_back_to_rlimits() {
    let body = "use = [\"locked\"]\n[limits]\npids = 9000\nnofile = 1024\n";
    let binding = bound(body, &[]).expect("bound");
    assert_eq!(binding.rlimits, [(4, 1), (11, 4096), (12, 819_200), (6, 512), (7, 1024)]);
    let mut rich = host();
    rich.controllers = ["memory", "pids", "cpu"].map(str::to_owned).into();
    let binding = bind(&policy(body), &rich, &tree(), &[]).expect("bound");
    assert_eq!((binding.cgroup.pids, binding.cgroup.memory), (Some(512), Some(4 << 30)));
    assert_eq!(binding.weaker().filter(|(rule, _)| rule.key.starts_with("limits")).count(), 0);
}

#[test]
fn guards_outside_every_grant_are_enforced_by_absence() {
    let body = "[files]\nwrite = [\"${workspace}\"]\n[guards]\nhide = [\"~/.ssh/id_*\", \"~/.aws\"]\nprotect = [\"/usr/**\"]\n";
    let binding = bound(body, &[]).expect("nothing reaches them");
    assert_eq!((binding.weaker().count(), binding.holds.len()), (0, 0));
}

#[test]
fn a_wildcard_that_only_protects_needs_nothing_in_a_read_only_tree() {
    let body = "[files]\nread = [\"/srv/ro\"]\n[guards]\nprotect = [\"/srv/ro/*.key\"]\n";
    assert_eq!(bound(body, &[]).expect("read-only anyway").weaker().count(), 0);
    let hidden = body.replace("protect", "hide");
    assert!(bound(&hidden, &[]).is_err());
}

#[test]
fn a_hidden_object_in_a_read_only_tree_is_masked() {
    let plan = planned("[files]\nread = [\"/srv/ro\"]\n[guards]\nhide = [\"/srv/ro/secret\"]\n");
    assert_eq!(mounts(&plan.template), ["ro /srv/ro", "mask /srv/ro/secret"]);
}

#[test]
fn a_read_only_directory_in_a_writable_one_stays_in_its_place() {
    let plan = planned(
        "[files]\nwrite = [\"${workspace}\"]\nread = [\"${workspace}/a/b/vendor\"]\nexec = [\"${workspace}\"]\n",
    );
    let project = "/home/u/project";
    let expected = [
        format!("rwx {project}"),
        format!("pin rwx {project}/a"),
        format!("pin rwx {project}/a/b"),
        format!("rox {project}/a/b/vendor"),
    ];
    assert_eq!(mounts(&plan.private), expected);
    let missing = bound("[files]\nwrite = [\"${workspace}\"]\nread = [\"${workspace}/new\"]\n", &[]);
    assert!(missing.expect_err("can be made").to_string().contains("does not exist yet"));
}

#[test]
fn an_ask_takes_away_what_a_grant_around_it_gives() {
    let body = |ops: &str| {
        format!(
            "[files]\nwrite = [\"${{workspace}}\"]\nask = [{{ path = \"${{workspace}}/.git\", ops = [{ops}] }}]\n"
        )
    };
    let project = "/home/u/project";
    let write = planned(&body("\"write\""));
    assert_eq!(mounts(&write.private), [format!("rw {project}"), format!("pin ro {project}/.git")]);
    let read = planned(&body("\"read\""));
    assert_eq!(mounts(&read.private), [format!("rw {project}"), format!("mask {project}/.git")]);
    let verdict = policy(&body("\"read\"")).judge(FileOp::Read, "/home/u/project/.git/config");
    assert_eq!((verdict.decision, verdict.reason.as_str()), (Decision::Ask, "no approver"));
}

#[test]
fn an_ask_for_the_home_opens_nothing_and_keeps_nothing_from_working() {
    let plan = planned("[files]\nwrite = [\"${workspace}\"]\nask = [{ path = \"~\", ops = [\"read\"] }]\n");
    assert_eq!(mounts(&plan.private), ["rw /home/u/project"]);
    assert!(mounts(&plan.template).is_empty());
    assert!(plan.template.contains(&RootOp::Directory { at: "/home/u".into(), mode: 0o755 }));
}

#[test]
fn a_guard_around_a_grant_beats_it() {
    let body = "[files]\nwrite = [\"${workspace}/a/b\"]\n[guards]\nprotect = [\"${workspace}/a\"]\n";
    assert_eq!(mounts(&planned(body).private), ["ro /home/u/project/a/b"]);
    let hidden = body.replace("protect", "hide");
    assert!(mounts(&planned(&hidden).private).is_empty());
}

#[test]
fn an_object_behind_a_link_the_agent_may_replace_is_weaker() {
    let tree = tree().with("/home/u/project/l", Found::Symlink("a".into()));
    let policy = policy_in(
        "[files]\nwrite = [\"${workspace}\"]\n[guards]\nprotect = [{ path = \"${workspace}/l\", best_effort = true }]\n",
        &Bindings::for_tests(),
        &tree,
    );
    let binding = bind(&policy, &host(), &tree, &[]).expect("best effort");
    let (_, weaker) = binding.weaker().next().expect("weaker");
    assert!(
        weaker.why.contains("/home/u/project/l is a symbolic link that the agent may replace"),
        "{weaker:?}"
    );
    assert_eq!(binding.holds[0].at, std::path::Path::new("/home/u/project/a"));
}

fn owners(plan: &Prepared) -> Vec<(String, Option<Ids>)> {
    let owner = |op: &RootOp| match op {
        RootOp::Bind { at, owner_as_agent, .. } => Some((at.display().to_string(), *owner_as_agent)),
        _ => None,
    };
    plan.template.iter().chain(&plan.private).filter_map(owner).collect()
}

#[test]
fn with_an_own_uid_what_is_written_is_mapped_and_system_directories_are_not() {
    let body = "identity = \"own\"\n[files]\nwrite = [\"${workspace}\"]\nexec = [\"/usr\"]\n";
    let (policy, tree) = (policy(body), tree());
    let binding = bind(&policy, &host(), &tree, &[]).expect("bound");
    let agent = Ids { uid: 70_000, gid: 70_000 };
    let plan = prepare(&policy, &binding, &tree, &Context { agent, ..context() }).expect("planned");
    assert_eq!(owners(&plan), [("/usr".to_owned(), None), ("/home/u/project".to_owned(), Some(USER))]);
    // Of another user's checkout the agent gets what everybody gets, but root may give it away.
    for (caller, expected) in [(Ids { uid: 1001, gid: 1001 }, None), (ROOT, Some(USER))] {
        let plan =
            prepare(&policy, &binding, &tree, &Context { agent, caller, ..context() }).expect("planned");
        assert_eq!(owners(&plan)[1].1, expected);
    }
    let poor = Host { idmapped_mounts: false, ..host() };
    assert!(bind(&policy, &poor, &tree, &[]).is_err());
}

#[test]
fn the_group_of_what_the_caller_owns_is_not_shown_as_the_agents() {
    let body = "identity = \"own\"\n[files]\nwrite = [\"${workspace}\"]\n";
    let tree = Sketch::default().with("/home/u/project", Found::Directory(Ids { gid: 42, ..USER }));
    let policy = policy_in(body, &Bindings::for_tests(), &tree);
    let binding = bind(&policy, &host(), &tree, &[]).expect("bound");
    let agent = Ids { uid: 70_000, gid: 70_000 };
    let plan = prepare(&policy, &binding, &tree, &Context { agent, ..context() }).expect("planned");
    assert_eq!(owners(&plan), [("/home/u/project".to_owned(), Some(USER))]);
}

#[test]
fn a_workspace_below_tmp_is_bound_into_the_private_tmp() {
    let tree = tree().with("/tmp/x/ws", DIRECTORY);
    let bindings = Bindings { workspace: "/tmp/x/ws".into(), ..Bindings::for_tests() };
    let policy = policy_in("[files]\nwrite = [\"${workspace}\"]\n", &bindings, &tree);
    let binding = bind(&policy, &host(), &tree, &[]).expect("bound");
    let plan = prepare(&policy, &binding, &tree, &context()).expect("planned");
    assert!(plan.template.iter().any(|op| matches!(op, RootOp::Tmpfs { exec: false, .. })));
    let directory = RootOp::Directory { at: "/tmp/x".into(), mode: 0o755 };
    assert_eq!(plan.private.first(), Some(&directory));
    assert_eq!(mounts(&plan.private), ["rw /tmp/x/ws"]);
    assert_eq!(plan.directory, std::path::Path::new("/tmp/x/ws"));
}

#[test]
fn a_workspace_below_tmp_that_no_rule_opens_is_no_place_to_start_in() {
    let tree = tree().with("/tmp/x/ws", DIRECTORY);
    let bindings = Bindings { workspace: "/tmp/x/ws".into(), ..Bindings::for_tests() };
    let policy = policy_in("[files]\nread = [\"/usr\"]\n", &bindings, &tree);
    let binding = bind(&policy, &host(), &tree, &[]).expect("bound");
    let plan = prepare(&policy, &binding, &tree, &context()).expect("planned");
    assert_eq!(plan.directory, std::path::Path::new("/"));
}

#[test]
fn without_etc_the_files_of_etc_are_made_and_with_it_only_laid_over() {
    let contents = |plan: &Prepared| -> Vec<String> {
        let ops = plan.template.iter().chain(&plan.private);
        let content = |op: &RootOp| match op {
            RootOp::Content { at, .. } => Some(at.display().to_string()),
            _ => None,
        };
        ops.filter_map(content).collect()
    };
    let all = ["/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts", "/etc/passwd", "/etc/group"];
    assert_eq!(contents(&planned("[files]\nwrite = [\"${workspace}\"]\n")), all);
    let tree = tree().with("/etc/passwd", Found::File(ROOT));
    let policy = policy_in("[files]\nread = [\"/etc\"]\n", &Bindings::for_tests(), &tree);
    let binding = bind(&policy, &host(), &tree, &[]).expect("bound");
    let plan = prepare(&policy, &binding, &tree, &context()).expect("planned");
    assert_eq!(contents(&plan), ["/etc/passwd"]);
}

#[test]
fn a_workspace_that_is_not_there_is_an_error() {
    let tree = Sketch::default().with("/home/u/project", Found::File(USER));
    let policy = policy_in("", &Bindings::for_tests(), &tree);
    let binding = bind(&policy, &host(), &tree, &[]).expect("no rules");
    let error = prepare(&policy, &binding, &tree, &context()).expect_err("a file");
    assert_eq!(error.to_string(), "the workspace /home/u/project is not a directory");
    let policy = policy_in("[files]\nwrite = [\"${agent_state}\"]\n", &Bindings::for_tests(), &self::tree());
    let binding = bind(&policy, &host(), &self::tree(), &[]).expect("bound");
    let error = prepare(&policy, &binding, &self::tree(), &context()).expect_err("no state");
    assert!(matches!(error, PlanError::AgentState(_)));
}

#[test]
fn the_landlock_hull_is_what_the_binds_open() {
    let plan = planned("[files]\nwrite = [\"${workspace}\"]\nexec = [\"/usr\"]\n");
    let hull: Vec<String> = plan
        .landlock
        .expect("the host has Landlock")
        .iter()
        .map(|rule| format!("{} {} {}", rule.at.display(), rule.write, rule.exec))
        .collect();
    for rule in [
        "/tmp true false",
        "/proc false false",
        "/dev true false",
        "/home/u/project true false",
        "/usr false true",
    ] {
        assert!(hull.iter().any(|other| other == rule), "{rule} in {hull:?}");
    }
    assert!(!hull.iter().any(|rule| rule.starts_with("/ ")));
}

/// The line without where it goes.
fn line(suggestion: Option<String>) -> (String, String) {
    let suggestion = suggestion.expect("a line");
    let (line, place) = suggestion.split_once("  # ").expect("a place");
    (line.to_owned(), place.to_owned())
}

#[test]
fn each_denial_has_the_line_that_would_allow_it() {
    let path = std::path::Path::new("/srv/other/\"x\"");
    for op in [FileOp::Read, FileOp::Write, FileOp::Exec, FileOp::Create, FileOp::Remove] {
        let (line, place) = line(policy("").allowing(op, path, None));
        assert_eq!(policy(&line).judge(op, path).decision, Decision::Allow, "{line}");
        assert_eq!(place, "in p, above the first [table]");
    }
    let (connect, _) = line(policy("").allowing_connect("example.com", 443));
    assert_eq!(policy(&connect).judge_connect("example.com", 443).decision, Decision::Allow);
}

#[test]
fn a_line_fits_where_it_is_said_to_go() {
    let path = std::path::Path::new("/srv/x");
    let tables = "[files]\nread = [\"/srv/ro\"]\n[[egress]]\nto = [\"a.example:443\"]\n";
    let (read, place) = line(policy(tables).allowing(FileOp::Read, path, None));
    assert_eq!((read.as_str(), place.as_str()), ("read = [\"/srv/x\"]", "in p, into the list of line 4"));
    let (write, place) = line(policy(tables).allowing(FileOp::Write, path, None));
    assert_eq!(place, "in p, below [files]");
    let added = tables.replace("[files]\n", &format!("[files]\n{write}\n"));
    assert_eq!(policy(&added).judge(FileOp::Write, path).decision, Decision::Allow);
    let (to, place) = line(policy(tables).allowing_connect("b.example", 443));
    assert_eq!(place, "in p, below another [[egress]]");
    let added = format!("{tables}[[egress]]\n{to}\n");
    assert_eq!(policy(&added).judge_connect("b.example", 443).decision, Decision::Allow);
    let dotted = "files.read = [\"/srv/ro\"]\n";
    let (read, place) = line(policy(dotted).allowing(FileOp::Read, path, None));
    assert_eq!(
        (read.as_str(), place.as_str()),
        ("files.read = [\"/srv/x\"]", "in p, into the list of line 3")
    );
}

#[test]
fn the_item_of_a_guard_gets_one_more_exception_and_keeps_the_rest() {
    let guards = |item: &str| format!("[files]\nread = [\"/srv/ro\"]\n[guards]\nhide = [{item}]\n");
    let item = "{ path = \"/srv/ro/**\", except = [\"/srv/ro/a\"], reason = \"keys\", best_effort = true }";
    let secret = std::path::Path::new("/srv/ro/secret");
    let judged = |body: &str, path| policy(body).judge(FileOp::Read, path);
    let denied = judged(&guards(item), secret);
    let (opened, place) = line(policy(&guards(item)).allowing(FileOp::Read, secret, denied.rule.as_ref()));
    assert_eq!(place, "in p, instead of the item in line 6");
    assert_eq!(
        opened,
        "{ path = \"/srv/ro/**\", except = [\"/srv/ro/a\", \"/srv/ro/secret\"], reason = \"keys\", best_effort = true },"
    );
    assert_eq!(judged(&guards(&opened), secret).decision, Decision::Allow);
    assert_eq!(judged(&guards(&opened), "/srv/ro/other".as_ref()).decision, Decision::Deny);
}

#[test]
fn what_is_shipped_is_changed_in_a_profile_or_copy_of_ones_own() {
    let profile = Profile::parse(&Shipped.find("workspace").expect("shipped")).expect("good");
    let effective = compose(&profile, &Shipped).expect("good");
    let policy = Policy::compile(&effective, &Bindings::for_tests(), &tree()).expect("good");
    let (_, place) = line(policy.allowing(FileOp::Read, "/srv/x".as_ref(), None));
    assert_eq!(place, "in a profile of your own, below use = [\"workspace\"]");
    let hook = std::path::Path::new("/home/u/project/sub/.git/hooks/pre-commit");
    let denied = policy.judge(FileOp::Write, hook);
    let (item, place) = line(policy.allowing(FileOp::Write, hook, denied.rule.as_ref()));
    assert!(item.starts_with("{ path = \"**/.git/hooks/**\", except = ["), "{item}");
    let copy = "of your own copy: skep profile show --toml git > git.toml, and when changed: \
                sudo install -D -m 644 git.toml /etc/skep/profiles.d/git.toml";
    assert!(place.starts_with("instead of the item in line ") && place.ends_with(copy), "{place}");
}

#[test]
fn the_item_of_a_guard_is_pasted_as_it_is_printed() {
    let guards = |item: &str| {
        format!(
            "[files]\nwrite = [\"${{workspace}}\"]\n[guards]\nprotect = [\n    {item}\n    \"/srv/ro\",\n]\n"
        )
    };
    let written = guards("{ path = \"**/.git/hooks/**\", best_effort = true },");
    let hook = std::path::Path::new("/home/u/project/.git/hooks/pre-commit");
    let denied = policy(&written).judge(FileOp::Write, hook);
    let printed = policy(&written).allowing(FileOp::Write, hook, denied.rule.as_ref()).expect("a line");
    let pasted = policy(&guards(&printed));
    assert_eq!(pasted.judge(FileOp::Write, hook).decision, Decision::Allow);
    let other = std::path::Path::new("/home/u/project/.git/hooks/post-commit");
    assert_eq!(pasted.judge(FileOp::Write, other).decision, Decision::Deny);
    // Where one name stands for many there is no exception for it alone.
    let every = std::path::Path::new("/home/u/project/.git/hooks/*");
    assert_eq!(policy(&written).allowing(FileOp::Write, every, denied.rule.as_ref()), None);
}

#[test]
fn nothing_is_excepted_from_what_mounts_hold_for_they_would_hold_nothing_then() {
    for path in ["${workspace}/.git/hooks", "${workspace}/.git/hooks/**"] {
        let policy = |item: &str| {
            let body = format!("[files]\nwrite = [\"${{workspace}}\"]\n[guards]\nprotect = [{item}]\n");
            policy(&body)
        };
        let holds = |policy: &Policy| bind(policy, &host(), &tree(), &[]).expect("bound").holds.len();
        let written = policy(&format!("\"{path}\""));
        let hook = std::path::Path::new("/home/u/project/.git/hooks/pre-commit");
        let rule = written.judge(FileOp::Write, hook).rule;
        assert_eq!(written.allowing(FileOp::Write, hook, rule.as_ref()), None, "{path}");
        let excepting = policy(&format!(
            "{{ path = \"{path}\", except = [\"{}\"], best_effort = true }}",
            hook.display()
        ));
        assert_eq!((holds(&written), holds(&excepting)), (1, 0), "{path}");
    }
}

#[test]
fn where_no_line_would_help_there_is_none() {
    let allowing = |op, path: &str| {
        let policy = policy("");
        let rule = policy.judge(op, path).rule;
        policy.allowing(op, path.as_ref(), rule.as_ref())
    };
    assert_eq!(
        allowing(FileOp::Write, "/proc/sys/kernel/core_pattern"),
        None,
        "a place of the sandbox's own"
    );
    assert_eq!(allowing(FileOp::Create, "/home/u/new"), None, "the whole home directory");
    assert_eq!(allowing(FileOp::Read, "/home"), None, "more than that");
    assert!(allowing(FileOp::Read, "/home/u/notes").is_some());
    let denying = "[[egress]]\nto = [\"*:*\"]\ndecision = \"deny\"\n";
    assert_eq!(policy(denying).allowing_connect("example.com", 443), None);
}

#[test]
fn no_line_opens_what_others_obey_for_writing() {
    let line = |op, path: &str| policy("").allowing(op, path.as_ref(), None);
    for directory in [
        "/",
        "/etc",
        "/etc/cron.d",
        "/usr",
        "/usr/local/bin",
        "/lib64",
        "/boot",
        "/opt",
        "/srv",
        "/var",
        "/var/lib",
        "/home",
        "/home/u",
        "/home/other",
        "/root",
        "/home/u/.cargo",
        "/home/u/.cargo/bin",
        "/home/u/.ssh",
        "/home/other/.config/x",
        "/root/.npm",
        "/root/.local/share/x",
        "/run/user/1000",
    ] {
        let made = std::path::Path::new(directory).join("made");
        let made = made.to_str().expect("Unicode");
        for op in [FileOp::Create, FileOp::Remove] {
            assert_eq!(line(op, made), None, "{made}");
        }
    }
    for directory in ["/etc", "/usr", "/opt", "/var/lib", "/home/u", "/root", "/home/u/.cargo", "/root/.ssh"]
    {
        assert_eq!(line(FileOp::Write, directory), None, "nor by its own name: {directory}");
    }
    let nameless = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/etc/\xff"));
    for op in [FileOp::Read, FileOp::Write] {
        assert_eq!(policy("").allowing(op, nameless, None), None, "it would be by its directory");
    }
    // A file that is there can be granted as itself, and a directory that is somebody's own work.
    for (op, path, granted) in [
        (FileOp::Write, "/etc/motd", "/etc/motd"),
        (FileOp::Write, "/home/u/.cargo/config.toml", "/home/u/.cargo/config.toml"),
        (FileOp::Create, "/home/u/notes/new", "/home/u/notes"),
        (FileOp::Create, "/var/lib/mine/new", "/var/lib/mine"),
        (FileOp::Remove, "/srv/other/old", "/srv/other"),
    ] {
        let printed = line(op, path).expect("a line");
        assert!(printed.starts_with(&format!("files.write = [\"{granted}\"]")), "{printed}");
        assert_eq!(
            policy(&printed).judge(op, std::path::Path::new(path)).decision,
            Decision::Allow,
            "{printed}"
        );
    }
}

#[test]
fn a_file_is_held_by_mounts_also_where_what_would_lie_below_is_excepted() {
    let body = "[files]\nwrite = [\"${workspace}\"]\n[guards]\n\
                protect = [{ path = \"${workspace}/.git\", except = [\"${workspace}/.git/**\"], best_effort = true }]\n";
    let held = |tree: &Sketch| {
        let binding = bind(&policy(body), &host(), tree, &[]).expect("bound");
        (binding.weaker().count(), binding.holds.iter().map(|hold| hold.at.clone()).collect::<Vec<_>>())
    };
    let at = std::path::PathBuf::from("/home/u/project/.git");
    let worktree = Sketch::default().with("/home/u/project/.git", Found::File(USER));
    assert_eq!(held(&worktree), (0, vec![at]));
    let checkout = Sketch::default().with("/home/u/project/.git/config", Found::File(USER));
    assert_eq!(held(&checkout), (1, vec![]));
}

#[test]
fn with_the_judge_every_guard_is_enforced() {
    let judging = Host { judge: true, bpf_lsm: true, ..host() };
    let policy = policy("[files]\nwrite = [\"${workspace}\"]\n[guards]\nhide = [\"**/.env*\"]\n");
    let binding = bind(&policy, &judging, &tree(), &[]).expect("bound");
    assert!(binding.rules.iter().any(|bound| bound.layers == [Layer::Judge]));
}
