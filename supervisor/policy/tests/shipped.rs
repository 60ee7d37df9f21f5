//! The shipped profiles load, their examples hold, and they start on the poorest host there is.
#![expect(
    clippy::panic,
    reason = "a helper of tests fails by panicking, with the errors as people read them"
)]

use skep_policy::compose::compose;
use skep_policy::decision::Decision;
use skep_policy::diagnostics::Source;
use skep_policy::launch::{Ids, RootOp};
use skep_policy::layers::{self, Binding, Host};
use skep_policy::plan::{Context, Prepared, prepare};
use skep_policy::policy::{Bindings, FileOp, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::{PROFILES, Shipped, for_command, shipped};
use skep_policy::tree::{Found, Imagined, Sketch, Tree};

const USER: Ids = Ids { uid: 1000, gid: 1000 };
const ROOT: Ids = Ids { uid: 0, gid: 0 };

fn load(text: &str, tree: &dyn Tree) -> Policy {
    let profile = Profile::parse(&Source::new("test.toml", text)).unwrap_or_else(|errors| panic!("{errors}"));
    let effective = compose(&profile, &Shipped).unwrap_or_else(|errors| panic!("{errors}"));
    Policy::compile_checked(&effective, &Bindings::for_tests(), tree)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn text(name: &str) -> &'static str {
    PROFILES.iter().find(|(other, _)| *other == name).expect("a shipped profile").1
}

/// A host as the build machines are: no LSM, no controllers.
fn poor() -> Host {
    Host { landlock_abi: Some(4), seccomp: true, sk_lookup: true, ..Host::default() }
}

/// A merged-usr host with a checkout that has hooks but none of the agents' files.
fn host() -> Sketch {
    Sketch::default()
        .with("/usr/bin/bash", Found::File(ROOT))
        .with("/usr/lib/x", Found::File(ROOT))
        .with("/bin", Found::Symlink("usr/bin".into()))
        .with("/lib", Found::Symlink("usr/lib".into()))
        .with("/etc/passwd", Found::File(ROOT))
        .with("/etc/hosts", Found::File(ROOT))
        .with("/etc/resolv.conf", Found::Symlink("../run/systemd/resolve/stub-resolv.conf".into()))
        .with("/opt/agent/bin/claude", Found::File(ROOT))
        .with("/home/u/project/.git/hooks/pre-commit.sample", Found::File(USER))
        .with("/home/u/project/.git/config", Found::File(USER))
        .with("/home/u/project/.env", Found::File(USER))
        .with("/home/u/.local/share/skep/agent", Found::Directory(USER))
        .with("/home/u/.gitconfig", Found::File(USER))
}

fn plan(name: &str) -> (Policy, Binding, Prepared) {
    let (tree, policy) = (host(), load(text(name), &host()));
    let binding =
        layers::bind(&policy, &poor(), &tree, &[]).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    let context =
        Context { agent: USER, caller: USER, user: "u".into(), directory: "/home/u/project/src".into() };
    let prepared =
        prepare(&policy, &binding, &tree, &context).unwrap_or_else(|error| panic!("{name}: {error}"));
    (policy, binding, prepared)
}

#[test]
fn every_shipped_profile_loads_under_its_own_name_and_its_examples_hold() {
    for (name, text) in PROFILES {
        assert_eq!(load(text, &Imagined).name, name);
        assert_eq!(load(text, &host()).name, name);
    }
}

#[test]
fn a_process_names_its_threads_and_changes_nothing_else_of_its_entry_in_proc() {
    let policy = load(text("claude-code"), &host());
    let decided = |op, path: &str| policy.judge(op, path).decision;
    for path in ["/proc/self/comm", "/proc/self/task/7/comm", "/proc/7/task/8/comm"] {
        assert_eq!(decided(FileOp::Write, path), Decision::Allow, "{path}");
        assert_eq!(decided(FileOp::Remove, path), Decision::Deny, "{path}");
    }
    for path in [
        "/proc/self/mem",
        "/proc/comm",
        "/proc/sys/kernel/comm",
        "/proc/self/task/7/mem",
        "/home/proc/7/comm",
    ] {
        assert_eq!(decided(FileOp::Write, path), Decision::Deny, "{path}");
    }
}

/// Each is executed by git, an editor or an agent that is started outside, where the sandbox has left it.
const RUN_OUTSIDE: [&str; 24] = [
    ".envrc",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
    ".git/hooks/pre-commit",
    ".git/modules/a/b/config",
    ".git/modules/a/hooks/post-checkout",
    ".git/worktrees/x/config.worktree",
    ".git/worktrees/x/commondir",
    ".vscode/settings.json",
    ".vscode/launch.json",
    ".vscode/tasks.json",
    ".idea/watcherTasks.xml",
    ".devcontainer/devcontainer.json",
    ".husky/pre-commit",
    ".mcp.json",
    ".claude/settings.json",
    ".claude/settings.local.json",
    ".claude/agents/a.md",
    ".claude/commands/c.md",
    ".claude/hooks/h.sh",
    ".claude/skills/s/SKILL.md",
    ".codex/config.toml",
    ".cursor/mcp.json",
];

#[test]
fn nothing_that_runs_outside_later_is_written_whichever_agent_runs() {
    for name in ["claude-code", "codex", "workspace"] {
        let policy = load(text(name), &host());
        let decided = |op, path: &str| policy.judge(op, path).decision;
        for (directory, file) in
            ["", "sub/", "a/b/"].iter().flat_map(|at| RUN_OUTSIDE.iter().map(move |file| (at, file)))
        {
            let path = format!("/home/u/project/{directory}{file}");
            for op in [FileOp::Write, FileOp::Create, FileOp::Remove] {
                assert_ne!(decided(op, &path), Decision::Allow, "{name}: {op:?} {path}");
            }
            assert_eq!(decided(FileOp::Read, &path), Decision::Allow, "{name}: read {path}");
        }
        // A worktree's `.git` is a file that says whose configuration counts.
        assert_ne!(decided(FileOp::Write, "/home/u/project/.git"), Decision::Allow, "{name}");
        for work in [
            ".git/index",
            ".git/modules/a/HEAD",
            ".github/workflows/ci.yml",
            ".claude/CLAUDE.md",
            "sub/.claude/worktrees/x/src/main.rs",
            "node_modules/x/.vscode/settings.json",
            "AGENTS.md",
            "vscode/settings.json",
        ] {
            assert_eq!(decided(FileOp::Write, &format!("/home/u/project/{work}")), Decision::Allow, "{work}");
        }
    }
}

#[test]
fn every_shipped_profile_starts_on_a_host_without_lsm_and_controllers() {
    for (name, _) in PROFILES {
        plan(name);
    }
}

#[test]
fn the_floor_is_enforced_whole_on_the_poorest_host() {
    let (_, binding, _) = plan("host-floor");
    assert_eq!(binding.weaker().count(), 0);
}

#[test]
fn claude_code_says_on_a_poor_host_what_is_weaker_there() {
    let (_, binding, _) = plan("claude-code");
    let weaker: Vec<String> = binding.weaker().map(|(rule, _)| rule.name()).collect();
    for expected in
        ["limits.memory", "guards.protect \"**/.git/hooks/**\"", "guards.protect \"${workspace}/.mcp.json\""]
    {
        assert!(weaker.iter().any(|name| name == expected), "{expected} is not among {weaker:?}");
    }
    for enforced in
        ["guards.protect \"${workspace}/.git/hooks\"", "guards.hide \"${workspace}/.env\"", "limits.pids"]
    {
        assert!(!weaker.iter().any(|name| name == enforced), "{enforced}");
    }
}

#[test]
fn a_protected_object_is_pinned_with_everything_above_it() {
    let (_, _, prepared) = plan("claude-code");
    let at = |op: &RootOp| match op {
        RootOp::Bind { at, .. } => Some(("bind", at.display().to_string())),
        RootOp::Pin { at, write, .. } => {
            Some((if *write { "pin" } else { "read-only" }, at.display().to_string()))
        }
        RootOp::Mask { at, .. } => Some(("mask", at.display().to_string())),
        _ => None,
    };
    let ops: Vec<_> =
        prepared.private.iter().filter_map(at).filter(|(_, at)| at.contains("project")).collect();
    let expected = [
        ("bind", "/home/u/project"),
        ("mask", "/home/u/project/.env"),
        ("pin", "/home/u/project/.git"),
        ("read-only", "/home/u/project/.git/config"),
        ("read-only", "/home/u/project/.git/hooks"),
    ];
    assert_eq!(ops, expected.map(|(how, at)| (how, at.to_owned())));
}

#[test]
fn system_directories_are_in_the_template_and_the_workspace_is_not() {
    let (_, _, prepared) = plan("claude-code");
    let binds = |ops: &[RootOp]| -> Vec<(String, bool, bool)> {
        let bind = |op: &RootOp| match op {
            RootOp::Bind { at, write, exec, .. } => Some((at.display().to_string(), *write, *exec)),
            _ => None,
        };
        ops.iter().filter_map(bind).collect()
    };
    let template = binds(&prepared.template);
    let named = |at: &str, write, exec| (at.to_owned(), write, exec);
    assert!(
        template.contains(&named("/usr", false, true)) && template.contains(&named("/etc", false, false))
    );
    assert!(template.contains(&named("/home/u/.gitconfig", false, false)), "{template:?}");
    assert!(!template.iter().any(|(at, ..)| at == "/usr/bin"), "{template:?}");
    let private = binds(&prepared.private);
    assert!(private.contains(&named("/home/u/project", true, true)), "{private:?}");
    assert!(private.contains(&named("/home/u/.local/share/skep/agent", true, true)), "{private:?}");
}

#[test]
fn links_of_the_host_are_links_in_the_root_and_resolv_conf_is_ours_at_their_end() {
    let (_, _, prepared) = plan("claude-code");
    let link = RootOp::Symlink { at: "/bin".into(), target: "usr/bin".into() };
    assert!(prepared.template.contains(&link), "{:?}", prepared.template);
    let resolv = prepared.template.iter().find_map(|op| match op {
        RootOp::Content { at, bytes, .. } if at.ends_with("stub-resolv.conf") => Some(bytes),
        _ => None,
    });
    let resolv = resolv.expect("a resolv.conf where the host's link leads");
    assert!(resolv.starts_with(b"nameserver 10.113.0.1\n"));
    let hull = prepared.landlock.expect("a hull");
    assert!(hull.iter().any(|rule| rule.at.ends_with("stub-resolv.conf") && !rule.write));
}

#[test]
fn claude_gets_its_key_and_its_state_and_nothing_that_runs_code() {
    let mut bindings = Bindings::for_tests();
    for (name, value) in [
        ("ANTHROPIC_API_KEY", "k"),
        ("CLAUDE_CODE_MAX_RETRIES", "1"),
        ("LD_PRELOAD", "/x.so"),
        ("NODE_OPTIONS", "--require /x"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("PATH", "/usr/bin:.:bin::/home/u/.local/bin"),
        ("CLAUDE_CONFIG_DIR", "/home/u/.claude"),
    ] {
        bindings.environment.insert(name.into(), value.into());
    }
    let tree = host();
    let profile = Profile::parse(&Source::new("claude-code", text("claude-code"))).expect("good");
    let effective = compose(&profile, &Shipped).expect("good");
    let policy = Policy::compile(&effective, &bindings, &tree).expect("good");
    let binding = layers::bind(&policy, &poor(), &tree, &[]).expect("bound");
    let context = Context { agent: USER, caller: USER, user: "u".into(), directory: "/".into() };
    let prepared = prepare(&policy, &binding, &tree, &context).expect("planned");
    let shown: Vec<String> =
        prepared.environment.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
    let expected = [
        "ANTHROPIC_API_KEY=k",
        "CLAUDE_CODE_MAX_RETRIES=1",
        "CLAUDE_CONFIG_DIR=/home/u/.local/share/skep/agent",
        "DISABLE_AUTOUPDATER=1",
        "HOME=/home/u",
        "LANG=C.UTF-8",
        "LOGNAME=u",
        "PATH=/usr/bin:/home/u/.local/bin",
        "SHELL=/bin/bash",
        "TERM=dumb",
        "TMPDIR=/tmp",
        "USER=u",
    ];
    assert_eq!(shown, expected);
    assert_eq!(prepared.directory, std::path::Path::new("/home/u/project"));
}

#[test]
fn commands_choose_their_profile() {
    let profiles: Vec<Profile> =
        shipped().iter().map(|source| Profile::parse(source).expect("good")).collect();
    let chosen = |command| for_command(&profiles, command).map(|profile| profile.name.as_str());
    assert_eq!(
        (chosen("claude"), chosen("codex"), chosen("true")),
        (Some("claude-code"), Some("codex"), None)
    );
}

#[test]
fn locked_locks_whoever_uses_it() {
    let text = "schema = 1\nname = \"x\"\nuse = [\"locked\"]\n[[egress]]\nto = [\"example.com:443\"]\n";
    let policy = load(text, &Imagined);
    assert_eq!(policy.judge_connect("example.com", 443).decision, Decision::Deny);
    assert_eq!(policy.judge(FileOp::Write, "/home/u/project/x").decision, Decision::Deny);
}
