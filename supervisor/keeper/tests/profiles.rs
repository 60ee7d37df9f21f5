//! Launches as root of what the policy plans for shipped profiles, on this host's own files: what the judge says
//! and what the root does must agree.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use skep_policy::compose::{Library, compose};
use skep_policy::launch::{Ids, Plan};
use skep_policy::layers::{self, Host};
use skep_policy::plan::{Context, prepare};
use skep_policy::policy::{Bindings, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::Shipped;
use skep_policy::tree::{Found, Tree};
use support::{AGENT, output_of, plan};
use tempfile::TempDir;

const ROOT: Ids = Ids { uid: 0, gid: 0 };

/// This host's files, seen by root.
struct Files;

impl Tree for Files {
    fn look(&self, path: &Path) -> Found {
        let Ok(seen) = fs::symlink_metadata(path) else { return Found::Missing };
        let owner = Ids { uid: seen.uid(), gid: seen.gid() };
        match seen.file_type() {
            kind if kind.is_symlink() => Found::Symlink(fs::read_link(path).unwrap()),
            kind if kind.is_dir() => Found::Directory(owner),
            kind if kind.is_file() => Found::File(owner),
            _ => Found::Other(owner),
        }
    }
}

/// A home with a key and a checkout.
struct Ground {
    _directory: TempDir,
    bindings: Bindings,
}

impl Ground {
    fn below(parent: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("skep-profiles-").tempdir_in(parent).unwrap();
        let home = directory.path().join("home");
        let workspace = home.join("project");
        for made in [".git/hooks", ".git/objects", "src"] {
            fs::create_dir_all(workspace.join(made)).unwrap();
        }
        fs::create_dir_all(home.join(".ssh")).unwrap();
        fs::write(home.join(".ssh/id_ed25519"), "secret").unwrap();
        fs::write(workspace.join(".env"), "secret").unwrap();
        fs::write(workspace.join(".git/config"), "[core]\n").unwrap();
        let agent_state = directory.path().join("state");
        fs::create_dir(&agent_state).unwrap();
        let bindings = Bindings {
            workspace,
            agent_state,
            home,
            program: None,
            environment: [].into(),
            reserved: vec![],
        };
        Self { _directory: directory, bindings }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.bindings.workspace.join(path)
    }

    /// Runs a script in the workspace under a shipped profile.
    fn run(&self, profile: &str, script: &str) -> String {
        let profile = Profile::parse(&Shipped.find(profile).unwrap()).unwrap();
        let effective = compose(&profile, &Shipped).unwrap();
        let policy = Policy::compile(&effective, &self.bindings, &Files).unwrap();
        let host = Host { landlock_abi: Some(4), sk_lookup: true, ..Host::default() };
        let binding = layers::bind(&policy, &host, &Files, &[]).unwrap();
        let directory = self.bindings.workspace.clone();
        let context = Context { agent: AGENT, caller: ROOT, user: "u".into(), directory };
        let prepared = prepare(&policy, &binding, &Files, &context).unwrap();
        let mut plan = Plan {
            lookup: ROOT,
            template: prepared.template,
            private: prepared.private,
            landlock: prepared.landlock,
            rlimits: prepared.rlimits,
            ..plan(&["sh", "-c", script])
        };
        plan.command.environment = prepared.environment;
        plan.command.directory = prepared.directory;
        output_of(plan)
    }
}

/// `yes` or `no` for each command.
fn tries(commands: &[&str]) -> String {
    commands
        .iter()
        .map(|command| format!("if ( {command} ) >/dev/null 2>&1; then echo yes; else echo no; fi\n"))
        .collect()
}

fn check(profile: &str, parent: &str, expected: &[(&str, bool)]) {
    let ground = Ground::below(parent);
    let commands: Vec<&str> = expected.iter().map(|(command, _)| *command).collect();
    let output = ground.run(profile, &tries(&commands));
    let answers: Vec<bool> = output.lines().map(|line| line == "yes").collect();
    assert_eq!(answers.len(), expected.len(), "{output}");
    for ((command, wanted), got) in expected.iter().zip(answers) {
        assert_eq!(*wanted, got, "{profile}: {command}");
    }
}

#[test]
fn as_root_claude_code_holds_what_it_says() {
    for parent in ["/var/tmp", "/tmp"] {
        check(
            "claude-code",
            parent,
            &[
                ("test $PWD = $HOME/project", true),
                ("echo x > src/new && test $(stat -c %u src/new) = 4242", true),
                ("cp /bin/true src/t && src/t", true),
                ("cp /bin/true /tmp/t && /tmp/t", true),
                ("test -d $HOME && ! ls $HOME/.ssh", true),
                ("cat $HOME/.ssh/id_ed25519", false),
                ("cat .env", false),
                ("rm -f .env", false),
                ("echo x > .git/objects/x", true),
                ("echo x > .git/config", false),
                ("cat .git/config", true),
                ("echo x > .git/c; mv .git/c .git/config", false),
                ("echo x > .git/hooks/pre-commit", false),
                ("mv .git g2", false),
                ("mv .git/hooks .git/h2", false),
                ("rm -rf .git/hooks; test -e .git/hooks", true),
                ("echo x > /etc/x", false),
                ("echo x > /usr/x", false),
                ("echo x > $HOME/.bashrc", false),
                ("grep -q 10.113.0.1 /etc/resolv.conf", true),
                ("test $(id -un) = u", true),
                ("echo x > $CLAUDE_CONFIG_DIR/x", true),
                ("mkdir /x", false),
                ("echo x > /dev/null && echo x > /dev/shm/x", true),
                ("cat /root/.bashrc", false),
            ],
        );
    }
}

/// Of every agent's, an editor's and git's files, whichever agent runs: what is there when it starts.
#[test]
fn as_root_what_runs_outside_later_is_not_changed() {
    for profile in ["claude-code", "codex", "workspace"] {
        let ground = Ground::below("/var/tmp");
        for directory in
            [".claude/skills", ".claude/hooks", ".codex", ".cursor", ".vscode", ".husky", ".idea"]
        {
            fs::create_dir_all(ground.at(directory)).unwrap();
        }
        let files = [".mcp.json", ".envrc", ".claude/settings.json", ".git/config.worktree"];
        files.iter().for_each(|file| fs::write(ground.at(file), "own").unwrap());
        let plant = "exec 2> /dev/null; for f in .mcp.json .envrc .claude/settings.json .git/config.worktree .claude/skills/s \
                     .claude/hooks/h .codex/config.toml .cursor/mcp.json .vscode/settings.json .vscode/launch.json \
                     .husky/pre-commit .idea/x; do echo planted > $f; echo planted > n; mv n $f; rm -f n; done; \
                     for d in .claude .codex .cursor .vscode .husky .idea; do mv $d old; mkdir -p $d; done; \
                     echo planted > .claude/CLAUDE.md; grep -rl planted .; true";
        assert_eq!(ground.run(profile, plant).trim(), "./.claude/CLAUDE.md", "{profile}");
    }
}

/// A worktree's `.git` is a file that names the directory whose configuration counts.
#[test]
fn as_root_a_worktree_is_not_led_to_another_configuration() {
    let ground = Ground::below("/var/tmp");
    fs::remove_dir_all(ground.at(".git")).unwrap();
    fs::write(ground.at(".git"), "gitdir: /own\n").unwrap();
    let plant = "exec 2> /dev/null; echo planted > .git; echo planted > n; mv n .git; rm -f .git n; cat .git";
    assert_eq!(ground.run("workspace", plant).trim(), "gitdir: /own");
}

#[test]
fn as_root_locked_reads_the_workspace_and_changes_nothing() {
    check(
        "locked",
        "/var/tmp",
        &[
            ("cat .git/config", true),
            ("echo x > src/new", false),
            ("echo x > /tmp/x", true),
            ("cp /bin/true /tmp/t && /tmp/t", false),
        ],
    );
}

#[test]
fn as_root_what_is_written_belongs_to_the_owner_of_the_checkout() {
    let ground = Ground::below("/var/tmp");
    ground.run("workspace", "echo x > src/new");
    assert_eq!(fs::metadata(ground.at("src/new")).unwrap().uid(), 0);
}

#[test]
fn as_root_the_floor_starts() {
    check("host-floor", "/var/tmp", &[("echo x > src/new", true), ("ls $HOME/.ssh", false)]);
}
