//! Section B of the attacks: what may be executed, and as whom. Rules on commands come with the command judge;
//! here is what mounts and the kernel's own switches stop.

use skep_tests::attack::Oracle::{Effect, Says};
use skep_tests::attack::{Attack, Control};
use skep_tests::skep::Skep;
use skep_tests::{Outcome, compliance};

const NO_EXEC: &str = include_str!("../profiles/no-exec-workspace.toml");
const MOUNTS: &[&str] = &["noexec mounts", "Landlock"];
const PRIVILEGES: &[&str] = &["no_new_privs", "nosuid mounts", "user namespace"];

#[test]
fn a_program_has_one_verdict_under_all_its_names() -> Outcome {
    let attempt = "for p in ./own $WS/own /proc/self/cwd/own /proc/self/root$WS/own //$WS/./own .//own; do $p; done; \
                   ln -s $WS/own link; ./link; ln own hard; ./hard; mv own moved; ./moved; exec -a /bin/true ./moved";
    Attack::new(41, "run a file the profile does not, by other names", attempt, Says("RAN"))
        .prepare("printf '#!/bin/sh\\necho RAN\\n' > own; chmod +x own")
        .profile(NO_EXEC)
        .layers(MOUNTS)
        .run()
}

#[test]
fn a_copied_program_does_not_run() -> Outcome {
    let attempt = "cp /bin/echo own; ./own RAN; cp /bin/echo /tmp/$MARK-own; /tmp/$MARK-own RAN; rm /tmp/$MARK-own; \
                   cp /bin/echo /dev/shm/$MARK-own; /dev/shm/$MARK-own RAN; rm /dev/shm/$MARK-own";
    Attack::new(42, "copy a program and run the copy", attempt, Says("RAN"))
        .profile(NO_EXEC)
        .layers(MOUNTS)
        .run()
}

#[test]
fn the_loader_runs_no_copied_program() -> Outcome {
    let attempt = "cp /bin/echo own; /lib64/ld-linux-x86-64.so.2 $WS/own RAN";
    Attack::new(42, "run a copy through the loader", attempt, Says("RAN"))
        .profile(NO_EXEC)
        .layers(MOUNTS)
        .run()
}

#[test]
fn the_launcher_is_not_overwritten() -> Outcome {
    // Opened for writing only: where that works nothing is changed by it.
    let attempt = "for p in /proc/1/exe /proc/self/exe /proc/$PPID/exe; do true 2>/dev/null >> $p && echo OPENED $p; \
                   done; for p in $(readlink /proc/1/exe) /bin/bash; do true 2>/dev/null >> $p && echo OPENED; done";
    Attack::new(45, "write to the running launcher", attempt, Says("OPENED"))
        .control(Control::Like("cp /bin/sleep own; true >> own && echo OPENED"))
        .layers(&["read-only mounts", "PID 1 not dumpable"])
        .run()
}

#[test]
fn a_setuid_program_gives_nothing() -> Outcome {
    Attack::new(54, "run a program that is setuid root", "./suid identity", Says("DONE"))
        .prepare("cp attack suid; chown root suid; chmod 4755 suid; chmod 755 . ..")
        .control(Control::Like("setpriv --reuid 65534 --clear-groups ./suid identity"))
        .layers(PRIVILEGES)
        .run()
}

#[test]
fn a_program_with_file_capabilities_gives_nothing() -> Outcome {
    Attack::new(54, "run a program with file capabilities", "./capable capabilities", Says("DONE CapEff"))
        .prepare("cp attack capable; setcap cap_dac_override,cap_net_raw+ep capable; chmod 755 . ..")
        .control(Control::Like("setpriv --reuid 65534 --clear-groups ./capable capabilities"))
        .layers(PRIVILEGES)
        .run()
}

#[test]
fn no_setuid_program_is_made_for_the_host() -> Outcome {
    // The agent's files are root's on the disk where root called: whoever starts such a file outside is root.
    let attempt = "umask 0; mkdir made; $ATTACK set-id made; cp attack made/install; chmod u+s made/install; \
                   chmod g+s made/install; install -m 4755 attack made/installed; setcap cap_setuid+ep made/install";
    let effect = Effect("find made -perm /6000 | grep . || getcap -r made | grep .");
    Attack::new(54, "make a program that is setuid or capable outside", attempt, effect)
        .layers(&["seccomp"])
        .run()
}

/// The control of the one above is content with one way; here outside every way works.
#[test]
fn no_way_to_a_setuid_file_is_one_for_show() -> Outcome {
    let attempt = "umask 0; mkdir made; $ATTACK set-id made; \
                   test $(find made -perm -6000 | wc -l) = 10 && echo ALL TEN";
    Attack::new(54, "each call that gives a file a mode", attempt, Says("ALL TEN")).layers(&["seccomp"]).run()
}

#[test]
fn the_systems_own_setuid_programs_give_nothing() -> Outcome {
    let attempt = "for c in 'su -s /bin/sh -c id' 'sudo -n id' 'newgrp' 'pkexec id'; do \
                   timeout 5 $c < /dev/null 2>/dev/null; done; id -u | sed 's/^0$/uid=0/'";
    Attack::new(54, "su, sudo and their like", attempt, Says("uid=0")).layers(PRIVILEGES).run()
}

#[test]
fn no_capability_is_left() -> Outcome {
    Attack::new(
        55,
        "capabilities of any set, new privileges, no filter",
        "$ATTACK capabilities",
        Says("DONE"),
    )
    .layers(&["empty capability sets", "no_new_privs", "seccomp"])
    .run()
}

#[test]
fn the_personality_is_not_changed() -> Outcome {
    Attack::new(56, "readable memory becomes executable", "$ATTACK personality", Says("DONE"))
        .layers(&["seccomp"])
        .run()
}

#[test]
fn no_binary_format_is_registered() -> Outcome {
    let attempt = "ls /proc/sys/fs/binfmt_misc/register && echo THERE; \
                   echo ':x:M::xx::/bin/sh:' > /proc/sys/fs/binfmt_misc/register && echo REGISTERED";
    Attack::new(57, "register a binary format", attempt, Says("REGISTERED"))
        .control(Control::None("a registration would change the host; the file must not be there"))
        .layers(&["own /proc"])
        .run()
}

/// The attempt is to break the launch or the audit, so the effect is looked for in both.
#[test]
fn a_huge_argument_runs_or_is_too_big() -> Outcome {
    let script = "long=$(head -c 131000 /dev/zero | tr '\\0' x); /bin/echo $long | wc -c; \
                  over=$(head -c 140000 /dev/zero | tr '\\0' x); /bin/echo $over 2>/dev/null || echo too big; \
                  many=$(seq 100000 | tr '\\n' ' '); /bin/echo $many | wc -c; \
                  for n in $(seq 10000); do export v$n=$n; done; env | grep -c ^v; echo COMPLETE";
    let skep = Skep::new()?;
    let ran = skep.shell(script).finish()?;
    let lines: Vec<&str> = ran.finished.stdout.lines().collect();
    assert_eq!(lines, ["131001", "too big", "588895", "10000", "COMPLETE"], "{}", ran.finished.stderr);
    let execs = ran.audit.iter().filter(|record| record.kind() == "exec");
    let lengths: Vec<u64> = execs.filter_map(|record| record.body()["cut"]["bytes"].as_u64()).collect();
    // `/bin/echo` and each argument with its NUL.
    for length in [10 + 131_001, 10 + 588_895] {
        assert!(lengths.contains(&length), "no record says that it is cut from {length}: {lengths:?}");
    }
    compliance::record(&compliance::Line {
        case: 58,
        title: "huge arguments and environments",
        status: compliance::Status::Stopped,
        control: "they run, and the records say how long they were",
        layers: &["bounded reads of arguments"],
    })
}

#[test]
fn nothing_starts_what_may_not_be_started() -> Outcome {
    let attempt = "python3 -c 'import os; os.execv(\"./own\", [\"own\"])'; perl -e 'system(\"./own\")'; \
                   awk 'BEGIN { system(\"./own\") }'; find own -exec ./own \\;; echo x | xargs ./own; \
                   tar -cf t own; tar -xf t --to-command='./own'; git -c alias.x='!./own' x; \
                   vim -es -c '!./own' -c q; env ./own; nice ./own; timeout 5 ./own; setsid -w ./own; \
                   bash -c 'exec ./own'; printf 'x:\\n\\t@./own\\n' | make -f - x; ssh -o ProxyCommand='./own >&2' x";
    Attack::new(46, "have another program start a file that may not be started", attempt, Says("RAN"))
        .prepare("printf '#!/bin/sh\\necho R\"\"AN\\n' > own; chmod +x own")
        .profile(NO_EXEC)
        .denial(&["own"])
        .layers(MOUNTS)
        .run()
}

#[test]
fn a_dropped_library_is_not_loaded() -> Outcome {
    let attempt = "python3 -c \"import ctypes; ctypes.CDLL('$WS/own.so')\"; LD_PRELOAD=$WS/own.so /bin/true";
    Attack::new(60, "load a library the agent wrote", attempt, Says("LOADED"))
        .prepare(
            "printf '#include <unistd.h>\\n__attribute__((constructor)) static void f(void) \
             { if (write(1, \"LOADED\", 6)) {} }\\n' > own.c; cc -shared -fPIC -o own.so own.c",
        )
        .profile(NO_EXEC)
        .layers(MOUNTS)
        .run()
}
