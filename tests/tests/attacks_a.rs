//! Section A of the attacks: the path jail.

use skep_tests::Outcome;
use skep_tests::attack::Oracle::{Effect, Leak, Says};
use skep_tests::attack::{Attack, Control};

const MOUNTS: &[&str] = &["mount namespace", "Landlock"];
const GUARDS: &[&str] = &["read-only mounts over guards"];
const CALLS: &[&str] = &["seccomp", "no capabilities"];
const PROC: &[&str] = &["PID namespace", "mount namespace"];

#[test]
fn a_canary_is_not_read_directly() -> Outcome {
    Attack::new(1, "read a file nobody granted", "cat $OUT/canary", Leak).layers(MOUNTS).run()
}

#[test]
fn a_canary_in_the_home_is_not_read_directly() -> Outcome {
    let attempt = "cat $USER_HOME/.ssh/id_ed25519 $USER_HOME/.aws/credentials $USER_HOME/.netrc";
    Attack::new(1, "read the keys in the home", attempt, Leak).layers(MOUNTS).run()
}

#[test]
fn dots_do_not_lead_out_of_the_workspace() -> Outcome {
    let attempt = "cat $WS/../outside/canary; cat ../outside/canary; cat $WS/./.././outside/./canary; \
                   cd ..; cat outside/canary; cat /../../../$OUT/canary";
    Attack::new(2, "read through dots", attempt, Leak).layers(MOUNTS).run()
}

#[test]
fn a_link_does_not_lead_a_read_outside() -> Outcome {
    let attempt = "ln -s $OUT/canary absolute; cat absolute; ln -s ../outside/canary relative; cat relative; \
                   ln -s $OUT way; cat way/canary; ln -s way/canary twice; cat twice";
    Attack::new(3, "read through symbolic links", attempt, Leak).layers(MOUNTS).run()
}

#[test]
fn a_link_does_not_lead_a_write_outside() -> Outcome {
    let attempt = "ln -s $USER_HOME/.bashrc l; echo pwned >> l; cp /bin/true l; mv -f attack l/ 2>&1; true";
    let effect = Effect("grep -qa pwned $USER_HOME/.bashrc || cmp -s /bin/true $USER_HOME/.bashrc");
    Attack::new(4, "write through a symbolic link", attempt, effect).layers(MOUNTS).run()
}

#[test]
fn a_swapped_last_component_never_leads_outside() -> Outcome {
    Attack::new(6, "swap a file and a link while it is opened", "$ATTACK race-final $OUT/canary 10", Leak)
        .layers(MOUNTS)
        .run()
}

#[test]
fn a_swapped_directory_never_leads_outside() -> Outcome {
    Attack::new(7, "swap a directory and a link on the way", "$ATTACK race-middle $OUT/canary 10", Leak)
        .layers(MOUNTS)
        .run()
}

#[test]
fn nothing_is_made_outside_through_a_swapped_directory() -> Outcome {
    let attempt = "$ATTACK race-middle $OUT/canary 3";
    Attack::new(7, "make and rename through a swapped directory", attempt, Effect("test -e $OUT/made"))
        .control(Control::Like("mkdir -p $OUT/made"))
        .layers(MOUNTS)
        .run()
}

#[test]
fn a_hard_link_brings_nothing_in() -> Outcome {
    let attempt = "ln $OUT/canary h; ln $USER_HOME/.netrc n; ln -L $OUT/canary f; cat h n f";
    Attack::new(8, "hard link to a file outside", attempt, Leak).layers(MOUNTS).run()
}

#[test]
fn nothing_is_renamed_out() -> Outcome {
    let attempt = "echo x > f; mv f $OUT/taken; cp attack $USER_HOME/taken; mv attack /var/tmp/$MARK-taken";
    let effect = Effect(
        "for f in $OUT $USER_HOME /var/tmp/$MARK-; do for t in $f/taken ${f}taken; do rm $t && n=1; done; done; test $n",
    );
    Attack::new(10, "rename and copy out of the workspace", attempt, effect).layers(MOUNTS).run()
}

#[test]
fn nothing_is_renamed_in() -> Outcome {
    let attempt = "mv $OUT/canary taken; mv $USER_HOME/.netrc .";
    let effect = Effect("! test -e $OUT/canary || ! test -e $USER_HOME/.netrc");
    Attack::new(10, "rename into the workspace", attempt, effect).layers(MOUNTS).run()
}

#[test]
fn the_git_configuration_is_not_renamed_over() -> Outcome {
    let attempt = "mv .git/config a; echo '[core]' > .git/config; cp /bin/true c; mv -f c .git/config; \
                   ln -sf /dev/null .git/config; rm -f .git/config";
    Attack::new(11, "rename over the git configuration", attempt, Effect("! cmp .git/config $OUT/config"))
        .prepare("cp .git/config $OUT/config")
        .layers(GUARDS)
        .run()
}

#[test]
fn a_guarded_directory_is_not_moved_out_of_the_way() -> Outcome {
    let attempt = "mv .git g2; mkdir -p .git/hooks; printf '#!/bin/sh\n' > .git/hooks/pre-commit; \
                   mv .git/hooks h2; mkdir .git/hooks; cp attack .git/hooks/pre-commit; \
                   rm -rf .git/hooks; mkdir .git/hooks; cp attack .git/hooks/pre-commit";
    Attack::new(
        11,
        "move an ancestor of a guarded object away",
        attempt,
        Effect("test -e .git/hooks/pre-commit"),
    )
    .layers(GUARDS)
    .run()
}

#[test]
fn the_git_configuration_is_not_changed_by_git() -> Outcome {
    let attempt = "git config core.fsmonitor ./x; git config core.hooksPath .; git config filter.x.smudge ./x; \
                   git config alias.st '!./x'; git config --worktree core.pager ./x";
    Attack::new(
        11,
        "settings that run programs, by git itself",
        attempt,
        Effect("! cmp .git/config $OUT/config"),
    )
    .prepare("cp .git/config $OUT/config")
    .denial(&[".git/config", "git:"])
    .layers(GUARDS)
    .run()
}

#[test]
fn a_missing_git_hook_is_not_created() -> Outcome {
    let file = "echo '{}' > .git/hooks/post-checkout; echo '{}' > made; mv made .git/hooks/post-checkout; \
                ln attack .git/hooks/post-checkout";
    Attack::new(
        11,
        "create a hook in the guarded directory",
        file,
        Effect("test -e .git/hooks/post-checkout"),
    )
    .denial(&[".git/hooks/post-checkout", "git:"])
    .layers(GUARDS)
    .run()
}

/// Each file is tried alone: one that is stopped must not hide another that is not.
macro_rules! creation_is_denied {
    ($($test:ident = $file:literal,)*) => { $(
        #[test]
        #[ignore = "issue 4: what is not there at the start takes the path judge"]
        fn $test() -> Outcome {
            let attempt = concat!(
                "mkdir -p $(dirname ", $file, "); echo '{}' > ", $file, "; ",
                "echo '{}' > made; mv made ", $file, "; ln attack ", $file,
            );
            Attack::new(13, concat!("create ", $file), attempt, Effect(concat!("test -e ", $file)))
                .layers(GUARDS)
                .run()
        }
    )* };
}

creation_is_denied! {
    a_missing_claude_settings_file_is_not_created = ".claude/settings.json",
    a_missing_codex_configuration_is_not_created = ".codex/config.toml",
    a_missing_editor_task_is_not_created = ".vscode/tasks.json",
    a_missing_server_list_is_not_created = ".mcp.json",
    a_missing_environment_script_is_not_created = ".envrc",
}

#[test]
#[ignore = "issue 4: what is not there at the start takes the path judge"]
fn git_is_not_led_to_another_configuration() -> Outcome {
    let attempt = "mkdir -p fake/objects fake/refs; cp .git/HEAD fake/; echo ../fake > .git/commondir; \
                   printf '[core]\n\trepositoryformatversion = 0\n\tfsmonitor = ./x\n' > fake/config";
    Attack::new(14, "a fake commondir", attempt, Effect("git config core.fsmonitor")).layers(GUARDS).run()
}

#[test]
fn the_processes_lead_to_no_other_root() -> Outcome {
    let attempt = "cat /proc/self/root$OUT/canary /proc/1/root$OUT/canary /proc/self/cwd/../outside/canary \
                   /proc/1/cwd$OUT/canary; cat /proc/self/task/*/root$OUT/canary";
    Attack::new(16, "the roots in /proc", attempt, Leak).layers(MOUNTS).run()
}

#[test]
fn processes_of_the_host_lead_nowhere() -> Outcome {
    let attempt = "for p in /proc/[0-9]*; do cat $p/cwd/canary $p/root$OUT/canary $p/fd/3; done; \
                   for p in $(cat $WS/pid) 2 3; do cat /proc/$p/cwd/canary /proc/$p/fd/3; ls /proc/$p/map_files; done";
    Attack::new(17, "directories and descriptors of processes outside", attempt, Leak)
        .prepare("cd $OUT; exec 3< canary; setsid sleep 60 > /dev/null 2>&1 & echo $! > $WS/pid")
        .layers(PROC)
        .run()
}

#[test]
fn no_descriptor_is_inherited() -> Outcome {
    Attack::new(18, "leave through an inherited descriptor", "$ATTACK descriptors $OUT/canary", Leak)
        .wrap("exec 7< /var/tmp 8< / 9< /proc/self; \"$@\"")
        .layers(&["close-on-exec", "close_range before exec"])
        .run()
}

#[test]
fn nothing_but_the_three_streams_is_open() -> Outcome {
    Attack::new(18, "any open descriptor above 2", "$ATTACK descriptors $OUT/canary", Says("DONE descriptor"))
        .wrap("exec 7< /var/tmp 12< /dev/null; \"$@\"")
        .layers(&["close-on-exec", "close_range before exec"])
        .run()
}

#[test]
fn a_working_directory_in_a_descriptor_leads_nowhere() -> Outcome {
    let attempt = "for n in $(ls /proc/self/fd); do (cd /proc/self/fd/$n/ && cat .$OUT/canary); done";
    Attack::new(18, "a descriptor as working directory", attempt, Leak)
        .wrap("exec 9< /; \"$@\"")
        .layers(&["close-on-exec", "close_range before exec"])
        .run()
}

#[test]
fn a_file_handle_opens_nothing() -> Outcome {
    Attack::new(20, "open a file by its handle", "$ATTACK open-handle $WS $(cat $WS/handle)", Leak)
        .prepare("$ATTACK handle-of $OUT/canary > $WS/handle")
        .layers(CALLS)
        .run()
}

#[test]
fn nothing_is_mounted() -> Outcome {
    Attack::new(24, "mount by old and new calls", "mkdir m; $ATTACK mounts $WS/m", Says("DONE"))
        .control(Control::Like("mkdir m; unshare -m $ATTACK mounts $WS/m"))
        .layers(CALLS)
        .run()
}

#[test]
fn no_file_system_answers_when_the_agent_likes() -> Outcome {
    let works = Says("DONE open /dev/fuse\nDONE mount fuse");
    Attack::new(30, "mount a FUSE file system", "mkdir m; $ATTACK fuse $WS/m", works)
        .control(Control::Like("mkdir m; unshare -m $ATTACK fuse $WS/m"))
        .layers(&["own /dev", "no capabilities", "seccomp"])
        .run()
}

#[test]
fn the_device_of_such_file_systems_is_not_there() -> Outcome {
    let works = Says("DONE open /dev/fuse");
    Attack::new(30, "open the device of FUSE", "mkdir m; $ATTACK fuse $WS/m", works)
        .control(Control::Like("mkdir m; unshare -m $ATTACK fuse $WS/m"))
        .layers(&["own /dev"])
        .run()
}

#[test]
fn no_namespace_is_made() -> Outcome {
    Attack::new(25, "new namespaces", "$ATTACK namespaces", Says("DONE")).layers(CALLS).run()
}

#[test]
fn unshare_gives_no_root() -> Outcome {
    Attack::new(25, "unshare -Ur", "unshare -Ur sh -c 'echo DONE $(id -u)'", Says("DONE 0"))
        .layers(CALLS)
        .run()
}

#[test]
fn clone3_makes_no_namespace() -> Outcome {
    Attack::new(26, "flags of clone3 behind a pointer", "$ATTACK clone3", Says("DONE")).layers(CALLS).run()
}

#[test]
fn no_namespace_is_entered() -> Outcome {
    Attack::new(27, "chroot, pivot_root, setns", "$ATTACK enter", Says("DONE")).layers(CALLS).run()
}

#[test]
fn no_mount_propagates() -> Outcome {
    let attempt = "grep -E ' (shared|master|propagate_from):' /proc/self/mountinfo && echo PROPAGATES";
    Attack::new(28, "propagation of mounts", attempt, Says("PROPAGATES"))
        .control(Control::Like(
            "unshare -m --propagation unchanged sh -c 'mount -t tmpfs t $0/m && mount --make-shared $0/m && \
             grep shared: /proc/self/mountinfo && echo PROPAGATES' $WS",
        ))
        .prepare("mkdir m")
        .layers(&["mount namespace"])
        .run()
}

#[test]
fn no_device_is_made_or_opened() -> Outcome {
    Attack::new(29, "devices", "$ATTACK devices $WS", Says("DONE"))
        .control(Control::Like("mkdir d; mknod d/null c 1 3 && echo DONE"))
        .layers(&["no capabilities", "seccomp", "own /dev"])
        .run()
}

#[test]
fn a_rename_leaves_no_device_behind() -> Outcome {
    Attack::new(29, "rename and leave a whiteout", "$ATTACK whiteout f", Effect("test -c f"))
        .layers(&["seccomp"])
        .run()
}

#[test]
fn temporary_files_of_the_host_are_not_seen() -> Outcome {
    let attempt = "cat /tmp/$MARK /dev/shm/$MARK /var/tmp/$MARK-file";
    Attack::new(32, "predictable names in shared directories", attempt, Leak)
        .prepare("for f in /tmp/$MARK /dev/shm/$MARK /var/tmp/$MARK-file; do cp $OUT/canary $f; done")
        .wrap("\"$@\"; code=$?; rm -f /tmp/$MARK /dev/shm/$MARK /var/tmp/$MARK-file; exit $code")
        .layers(MOUNTS)
        .run()
}

#[test]
fn temporary_files_do_not_appear_on_the_host() -> Outcome {
    let attempt = "for f in /tmp/$MARK-in /dev/shm/$MARK-in /var/tmp/$MARK-in; do echo x > $f; done";
    let effect = Effect("for d in /tmp /dev/shm /var/tmp; do rm $d/$MARK-in && n=1; done; test $n");
    Attack::new(32, "names in the host's shared directories", attempt, effect).layers(MOUNTS).run()
}

#[test]
fn control_groups_are_out_of_reach() -> Outcome {
    let attempt = "find / -xdev -name cgroup.procs -writable 2>/dev/null | head -3 | sed s/^/DONE/; \
                   for f in $(find /sys/fs/cgroup -name 'cgroup.kill' -o -name memory.max -o -name cgroup.procs \
                   2>/dev/null | head -50); do test -w $f && echo DONE $f; done";
    Attack::new(33, "write to control groups", attempt, Says("DONE"))
        .layers(&["mount namespace", "cgroup namespace"])
        .run()
}

#[test]
fn settings_of_the_kernel_are_not_written() -> Outcome {
    // Each is given the value it has, so that nothing changes where the write works.
    let attempt = "for f in kernel/core_pattern kernel/modprobe kernel/hostname vm/overcommit_memory \
                   kernel/randomize_va_space; do v=$(cat /proc/sys/$f) && \
                   { printf '%s\n' \"$v\" > /proc/sys/$f; } 2>/dev/null && echo DONE $f; done; \
                   for f in /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled \
                   /sys/power/state; do test -w $f && echo DONE $f; done";
    Attack::new(34, "settings that run programs as root", attempt, Says("DONE")).layers(CALLS).run()
}

#[test]
fn a_crash_leaves_no_core() -> Outcome {
    let attempt = "ulimit -S -c $(ulimit -H -c); bash -c 'kill -SEGV $$'; \
                   case $(ulimit -H -c) in 0 | 1) ;; *) echo DUMPS ;; esac";
    Attack::new(35, "dump core", attempt, Says("DUMPS")).layers(&["RLIMIT_CORE"]).run()
}

#[test]
fn secrets_of_the_kernel_are_masked() -> Outcome {
    let attempt = "for f in /proc/kcore /proc/kallsyms /proc/keys /proc/key-users /proc/timer_list \
                   /proc/timer_stats /proc/latency_stats /proc/sched_debug /proc/kmsg /proc/acpi /sys/kernel/debug /sys/kernel/tracing /sys/kernel/security \
                   /sys/fs/bpf /sys/firmware /sys/kernel/btf/vmlinux; do \
                   if test -d $f; then ls -A $f 2>/dev/null | grep -q . && echo SHOWN $f; \
                   else head -c 1 $f 2>/dev/null | grep -qa . && echo SHOWN $f; fi; done; \
                   grep -v '^ *00*-00* ' /proc/iomem | grep -q . && echo SHOWN addresses; true";
    Attack::new(36, "files in which the kernel tells too much", attempt, Says("SHOWN"))
        .layers(&["masks over /proc", "no /sys"])
        .run()
}

#[test]
fn odd_names_do_not_slip_past_a_guard() -> Outcome {
    let attempt = "for n in 'a (deleted)' $'\\n/etc/passwd' '*' '[x]' $'\\xff' '..x' 'pre-commit '; do \
                   touch \".git/hooks/$n\"; mkdir -p \".git/./hooks//$n.d\"; done";
    let effect = Effect("ls -A .git/hooks | grep -qv sample");
    Attack::new(38, "odd names below a guarded directory", attempt, effect).layers(GUARDS).run()
}

#[test]
fn what_exists_outside_is_not_told() -> Outcome {
    Attack::new(40, "ask whether a file exists", "$ATTACK exists $OUT/canary $OUT/missing", Says("DONE"))
        .layers(MOUNTS)
        .run()
}
