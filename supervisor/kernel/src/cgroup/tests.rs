//! Root is needed, and a cgroup2 mount; without either a test fails, for a host that is declared fit has
//! both.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A tree of this test's own, killed and removed when the test ends, also by a panic.
struct Scratch(Option<Tree>);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skep-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(Some(Tree::open(&name).unwrap()))
    }

    fn tree(&self) -> &Tree {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(tree) = self.0.take() else { return };
        for left in tree.leftovers(|_| false).unwrap_or_default() {
            let _ = left.kill();
            let _ = left.remove(SOON);
        }
        let _ = tree.remove_if_empty();
    }
}

/// A process that runs for longer than any test.
fn sleeper() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_mount_is_found_on_unified_and_hybrid_hosts_and_in_odd_places() {
    let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
    assert_eq!(find_mount(mountinfo::parse(hybrid)).unwrap(), Path::new("/sys/fs/cgroup/unified"));
    let unified =
        b"29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(find_mount(mountinfo::parse(unified)).unwrap(), Path::new("/sys/fs/cgroup"));
    let part_first = b"1 2 0:26 /a /part rw - cgroup2 none rw\n3 2 0:26 / /my\\040cg rw - cgroup2 none rw\n";
    assert_eq!(find_mount(mountinfo::parse(part_first)).unwrap(), Path::new("/my cg"));
    let other = b"1 2 0:26 / /cgroup2 rw - tmpfs cgroup2 rw\n";
    assert_eq!(find_mount(mountinfo::parse(other)), None);
}

#[test]
fn a_name_that_could_be_a_path_is_refused() {
    assert!(matches!(check_name("../x"), Err(CgroupError::Name(_))));
    assert!(check_name("quiet-bee-12").is_ok());
}

#[test]
fn a_limit_without_its_controller_is_named() {
    let limits = Limits { pids: Some(10), memory: Some(1 << 20), ..Limits::default() };
    let error = limits.needs(&Controllers::parse("cpu pids rdma")).unwrap_err();
    assert!(matches!(
        error,
        CgroupError::NoController { limit: "memory.max", controller: Controller::Memory }
    ));
    let needed = limits.needs(&Controllers::parse("cpuset cpu io memory pids")).unwrap();
    assert_eq!(needed, Controllers::parse("memory pids"));
    assert_eq!(needed.missing_in(&Controllers::parse("memory")), [Controller::Pids]);
    assert!(Limits::default().needs(&Controllers::default()).is_ok());
}

#[test]
fn as_root_a_sandbox_is_killed_and_removed_and_leaves_no_tree() {
    let mut scratch = Scratch::new();
    let sandbox = scratch.tree().create("victim").unwrap();
    assert!(!sandbox.populated().unwrap());
    let mut child = sleeper();
    sandbox.add(child.id()).unwrap();
    assert!(sandbox.populated().unwrap());
    let late = sandbox.remove(Duration::ZERO).unwrap_err();
    assert!(matches!(late, CgroupError::Late { .. }), "{late}");
    sandbox.kill().unwrap();
    sandbox.remove(SOON).unwrap();
    sandbox.remove(SOON).unwrap();
    assert!(!child.wait().unwrap().success());
    let path = scratch.tree().path().to_owned();
    assert!(scratch.0.take().unwrap().remove_if_empty().unwrap());
    assert!(!path.exists());
}

/// An orphaned keeper and the next skepd clear the same leftover away at the same time.
#[test]
fn as_root_a_sandbox_that_somebody_else_removes_too_is_gone_for_both_and_soon() {
    let scratch = Scratch::new();
    let begun = Instant::now();
    for round in 0..50 {
        let id = format!("leftover-{round}");
        let sandboxes = [scratch.tree().create(&id).unwrap(), scratch.tree().sandbox(&id).unwrap()];
        let mut child = sleeper();
        sandboxes[0].add(child.id()).unwrap();
        std::thread::scope(|threads| {
            for sandbox in &sandboxes {
                threads.spawn(move || sandbox.kill().and_then(|()| sandbox.remove(SOON)).unwrap());
            }
        });
        child.wait().unwrap();
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn as_root_a_frozen_sandbox_says_so_and_can_be_killed() {
    let scratch = Scratch::new();
    let sandbox = scratch.tree().create("frozen").unwrap();
    let mut child = Command::new("yes").stdout(Stdio::null()).spawn().unwrap();
    sandbox.add(child.id()).unwrap();
    sandbox.freeze(SOON).unwrap();
    assert!(sandbox.events().unwrap().read().unwrap().frozen);
    sandbox.thaw(SOON).unwrap();
    assert!(!sandbox.events().unwrap().read().unwrap().frozen);
    sandbox.freeze(SOON).unwrap();
    sandbox.kill().unwrap();
    sandbox.wait_empty(SOON).unwrap();
    child.wait().unwrap();
    sandbox.remove(SOON).unwrap();
}

#[test]
fn as_root_control_groups_below_go_with_their_sandbox() {
    let scratch = Scratch::new();
    let sandbox = scratch.tree().create("nested").unwrap();
    let child = make_directory(sandbox.directory(), "command").unwrap();
    make_directory(child.as_fd(), "deeper").unwrap();
    sandbox.remove(SOON).unwrap();
    assert!(children(scratch.tree().sandboxes()).unwrap().is_empty());
}

#[test]
fn as_root_what_a_crash_left_is_found_and_what_is_owned_is_not() {
    let mut scratch = Scratch::new();
    for id in ["ours", "left-1", "left-2"] {
        drop(scratch.tree().create(id).unwrap());
    }
    let again = scratch.tree().create("ours").unwrap_err();
    assert!(matches!(&again, CgroupError::Syscall(error) if error.errno == libc::EEXIST), "{again}");
    let mut ids: Vec<String> = scratch
        .tree()
        .leftovers(|id| id == "ours")
        .unwrap()
        .iter()
        .map(|left| left.id().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids, ["left-1", "left-2"]);
    let name = scratch.tree().path().file_name().unwrap().to_string_lossy().into_owned();
    let other = Tree::open(&name).unwrap();
    assert!(!scratch.0.take().unwrap().remove_if_empty().unwrap(), "a tree in use stays");
    scratch.0 = Some(other);
}

#[test]
fn as_root_the_number_is_the_one_the_kernel_hands_to_bpf() {
    let scratch = Scratch::new();
    let sandbox = scratch.tree().create("numbered").unwrap();
    let path = scratch.tree().path().join("sandboxes/numbered");
    // The handle of a cgroup directory is its 64-bit kernfs id, which bpf_get_current_cgroup_id returns.
    assert_eq!(sandbox.number(), handle_of(&path));
}

/// The eight bytes of `name_to_handle_at`, asked of Python, which keeps this file free of unsafe code.
fn handle_of(path: &Path) -> u64 {
    let script = "import ctypes, os, struct, sys\n\
        handle = ctypes.create_string_buffer(struct.pack('Ii', 8, 0) + bytes(8), 16)\n\
        mount = ctypes.c_int()\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        r = libc.name_to_handle_at(-100, os.fsencode(sys.argv[1]), handle, ctypes.byref(mount), 0)\n\
        print(struct.unpack('Q', handle.raw[8:16])[0] if r == 0 else 0)";
    let output = Command::new("python3").args(["-c", script]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Where version 2 has the controllers, the kernel shows the limits; where it has not, the start is refused
/// by name.
#[test]
fn as_root_limits_are_in_force_or_refused_by_name() {
    let scratch = Scratch::new();
    let sandbox = scratch.tree().create("limited").unwrap();
    let limits = Limits {
        memory: Some(64 << 20),
        pids: Some(8),
        cpu: Some(CpuTime { quota: 50_000, period: 100_000 }),
        ..Limits::default()
    };
    let available = scratch.tree().available().unwrap();
    match scratch.tree().apply_limits(&sandbox, &limits) {
        Ok(()) => {
            let read = |name| read_at(sandbox.directory(), name).unwrap().trim().to_owned();
            assert_eq!(read("memory.max"), (64 << 20).to_string());
            assert_eq!(read("memory.oom.group"), "1");
            assert_eq!(read("pids.max"), "8");
            assert_eq!(read("cpu.max"), "50000 100000");
        }
        Err(CgroupError::NoController { controller, .. }) => assert!(!available.has(controller)),
        Err(error) => panic!("{error}"),
    }
}
