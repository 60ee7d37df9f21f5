//! Roots: binds, pins, masks, laid-over files, owners, templates. As root.
#![expect(clippy::unwrap_used, reason = "test helpers")]

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use skep_policy::launch::{Ending, Ids, KeeperEvent, ObjectKind, RootOp};
use support::{AGENT, bind, build_template, launch, output_of, shell};

/// A directory of the agent's with a file and a directory in it.
struct Workspace(tempfile::TempDir);

impl Workspace {
    fn of(owner: Ids) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "old\n").unwrap();
        for path in ["", "sub", "sub/file"] {
            chown(dir.path().join(path), Some(owner.uid), Some(owner.gid)).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn pin(at: &Path, kind: ObjectKind, write: bool) -> RootOp {
    RootOp::Pin { at: at.into(), kind, write, exec: true }
}

fn in_workspace(workspace: &Workspace, write: bool, more: Vec<RootOp>, script: &str) -> String {
    let mut plan = shell(&format!("cd {}; exec 2>&1; {script}", workspace.path()));
    plan.private.push(bind(workspace.path(), write));
    plan.private.extend(more);
    output_of(plan)
}

#[test]
fn as_root_a_writable_bind_is_the_hosts_directory() {
    let workspace = Workspace::of(AGENT);
    in_workspace(&workspace, true, vec![], "echo new > sub/new");
    let made = fs::metadata(workspace.at("sub/new")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (AGENT.uid, AGENT.gid, 0o644));
}

#[test]
fn as_root_a_read_only_bind_refuses_even_its_owner() {
    let workspace = Workspace::of(AGENT);
    let output = in_workspace(&workspace, false, vec![], "touch x; rm sub/file; chmod 777 sub; cat sub/file");
    assert_eq!(output.matches("Read-only file system").count(), 3, "{output}");
    assert!(output.ends_with("old\n"));
}

#[test]
fn as_root_a_pinned_file_is_neither_written_nor_replaced() {
    let workspace = Workspace::of(AGENT);
    let pinned = pin(&workspace.at("sub/file"), ObjectKind::File, false);
    let script =
        "echo x > sub/file; mv sub/file away; rm -f sub/file; mv sub s2; cat sub/file; echo y > other";
    // Its directory is pinned too, or it could be renamed away with the file in it.
    let parent = pin(&workspace.at("sub"), ObjectKind::Directory, true);
    let output = in_workspace(&workspace, true, vec![parent, pinned], script);
    assert!(output.contains("Read-only file system"), "{output}");
    assert_eq!(output.matches("Device or resource busy").count(), 3, "{output}");
    assert!(output.ends_with("old\n"), "{output}");
    assert_eq!(fs::read_to_string(workspace.at("sub/file")).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(workspace.at("other")).unwrap(), "y\n");
}

#[test]
fn as_root_a_masked_object_is_empty_and_unreadable() {
    let workspace = Workspace::of(AGENT);
    let file = RootOp::Mask { at: workspace.at("sub/file"), kind: ObjectKind::File };
    let output = in_workspace(
        &workspace,
        true,
        vec![file],
        "cat sub/file; chmod 600 sub/file; rm -f sub/file; ls sub",
    );
    assert!(output.contains("Permission denied"), "{output}");
    assert!(output.contains("Device or resource busy"), "{output}");
    assert!(output.ends_with("file\n"), "{output}");
    let directory = RootOp::Mask { at: workspace.at("sub"), kind: ObjectKind::Directory };
    let output = in_workspace(&workspace, true, vec![directory], "ls sub; cat sub/file; ls");
    assert_eq!(output.matches("Permission denied").count(), 2, "{output}");
    assert!(output.ends_with("sub\n"), "{output}");
    assert_eq!(fs::read_to_string(workspace.at("sub/file")).unwrap(), "old\n");
}

#[test]
fn as_root_contents_are_laid_over_what_is_there_and_read_only() {
    let workspace = Workspace::of(AGENT);
    let over = RootOp::Content { at: workspace.at("sub/file"), bytes: b"ours\n".to_vec(), mode: 0o666 };
    let output = in_workspace(&workspace, true, vec![over], "cat sub/file; touch sub/file; true");
    assert!(output.starts_with("ours\n") && output.contains("Read-only file system"), "{output}");
    assert_eq!(fs::read_to_string(workspace.at("sub/file")).unwrap(), "old\n");
}

#[test]
fn as_root_noexec_binds_start_nothing() {
    let workspace = Workspace::of(AGENT);
    fs::copy("/usr/bin/true", workspace.at("sub/true")).unwrap();
    let mut plan = shell(&format!("{0}/sub/true 2>/dev/null || echo refused", workspace.path()));
    plan.private.push(bind(workspace.path(), true));
    assert_eq!(output_of(plan.clone()), "");
    if let Some(RootOp::Bind { exec, .. }) = plan.private.last_mut() {
        *exec = false;
    }
    assert_eq!(output_of(plan), "refused\n");
}

#[test]
fn as_root_an_idmapped_workspace_shows_and_keeps_the_owner_on_disk() {
    let owner = Ids { uid: 0, gid: 0 };
    let workspace = Workspace::of(owner);
    let mut plan =
        shell(&format!("cd {}; stat -c %u:%g sub/file; echo x > sub/file; echo y > new", workspace.path()));
    plan.lookup = owner;
    plan.private.push(RootOp::Bind {
        from: workspace.path().into(),
        at: workspace.path().into(),
        kind: ObjectKind::Directory,
        write: true,
        exec: true,
        owner_as_agent: Some(owner),
    });
    assert_eq!(output_of(plan), "4242:4243\n");
    for name in ["sub/file", "new"] {
        let file = fs::metadata(workspace.at(name)).unwrap();
        assert_eq!((file.uid(), file.gid()), (0, 0), "{name}");
    }
    assert_eq!(fs::read_to_string(workspace.at("sub/file")).unwrap(), "x\n");
}

#[test]
fn as_root_a_single_file_can_be_bound() {
    let workspace = Workspace::of(AGENT);
    let mut plan = shell("cat /etc/one; echo x 2>/dev/null > /etc/one || echo refused");
    plan.private.push(RootOp::Bind {
        from: workspace.at("sub/file"),
        at: "/etc/one".into(),
        kind: ObjectKind::File,
        write: false,
        exec: false,
        owner_as_agent: None,
    });
    assert_eq!(output_of(plan), "old\nrefused\n");
}

#[test]
fn as_root_a_launch_from_a_template_has_the_same_root() {
    let workspace = Workspace::of(AGENT);
    let script = "cd /; ls -l bin lib dev usr/bin/env; ls; cat etc/passwd /etc/own; cut -d' ' -f5,6 /proc/self/mountinfo; touch /x";
    let mut plan = shell(&format!("{script} 2>&1; touch {}/x", workspace.path()));
    plan.private.push(bind(workspace.path(), true));
    plan.private.push(RootOp::Content { at: "/etc/own".into(), bytes: b"own\n".to_vec(), mode: 0o644 });
    let whole = output_of(plan.clone());
    let template = build_template(&plan);
    for _ in 0..2 {
        let outcome = launch(plan.clone(), Some(template.as_fd())).finish();
        assert_eq!(outcome.ending, Ending::Code(0));
        let mut expected: Vec<_> = whole.lines().collect();
        let mut got: Vec<_> = outcome.output.lines().collect();
        // The order of mounts and the dates of `/dev` differ; a template's own file is a bind of its own.
        for lines in [&mut expected, &mut got] {
            lines.retain(|line| !line.starts_with(['c', 'd', 'l', '/']));
            lines.sort_unstable();
        }
        assert_eq!(got, expected);
        assert!(outcome.output.contains("touch: cannot touch '/x': Read-only file system"));
    }
}

#[test]
fn as_root_launches_from_one_template_share_no_storage() {
    let template = build_template(&shell("true"));
    let leave = shell("echo secret | tee /tmp/f /dev/shm/f; ls /dev/pts");
    assert_eq!(launch(leave, Some(template.as_fd())).finish().output, "secret\nptmx\n");
    let look = shell("ls -A /tmp /dev/shm");
    assert_eq!(launch(look, Some(template.as_fd())).finish().output, "/dev/shm:\n\n/tmp:\n");
}

#[test]
fn as_root_own_contents_of_a_launch_do_not_enter_the_template() {
    let template = build_template(&shell("true"));
    let mut first = shell("cat /etc/own");
    first.private.push(RootOp::Content { at: "/etc/own".into(), bytes: b"secret\n".to_vec(), mode: 0o644 });
    assert_eq!(launch(first, Some(template.as_fd())).finish().output, "secret\n");
    let outcome = launch(shell("cat /etc/own 2>/dev/null; echo done"), Some(template.as_fd())).finish();
    assert_eq!(outcome.output, "done\n");
}

#[test]
fn as_root_names_on_memory_file_systems_are_bounded() {
    // Those of files without contents are not bounded by a size.
    let script = "cd /dev/shm; perl -e 'my $n = 0; $n++ while $n < 100_000 && mkdir $n; print $n < 100_000'";
    assert_eq!(output_of(shell(script)), "1");
    // What leads to a workspace is made on the root, which the launches of a template share.
    let deep = |index: u32| format!("/w/{index}{}", "/d".repeat(1000));
    let mut plan = shell("true");
    let template = build_template(&plan);
    plan.private.truncate(2);
    let failure = (0..100).find_map(|index| {
        let mut plan = plan.clone();
        plan.private.push(RootOp::Directory { at: deep(index).into(), mode: 0o755 });
        let run = launch(plan, Some(template.as_fd()));
        match run.event().unwrap().0 {
            KeeperEvent::Started { .. } => None,
            KeeperEvent::Failed { errno, .. } => Some(errno),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(failure, Some(nix::libc::ENOSPC));
}
