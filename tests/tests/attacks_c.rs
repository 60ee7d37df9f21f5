//! Section C of the attacks: system calls and other processes. Limits of memory and disk (80 and 81) need controllers
//! this host may not have and are shown on real kernels.

use skep_tests::Outcome;
use skep_tests::attack::Oracle::{Effect, Leak, Says};
use skep_tests::attack::{Attack, Control, Oracle};

const FILTER: &[&str] = &["seccomp"];
const FEW_PROCESSES: &str = "schema = 1\nname = \"few\"\nuse = [\"workspace\"]\n[limits]\npids = 100\n";
const PROCESSES: &[&str] = &["PID namespace", "seccomp"];

#[test]
fn the_32_bit_entry_is_dead() -> Outcome {
    Attack::new(61, "system calls by int 0x80", "$ATTACK int80 $WS/made", Effect("test -d made"))
        .layers(FILTER)
        .run()
}

#[test]
fn the_32_bit_entry_answers_nothing() -> Outcome {
    Attack::new(61, "any answer to int 0x80", "$ATTACK int80 $WS/made", Says("DONE")).layers(FILTER).run()
}

#[test]
fn the_x32_numbers_are_dead() -> Outcome {
    Attack::new(61, "system calls with x32 numbers", "$ATTACK x32", Says("DONE"))
        .control(Control::None("most kernels are built without x32; the filter must not depend on that"))
        .layers(FILTER)
        .run()
}

#[test]
fn io_uring_is_refused() -> Outcome {
    Attack::new(64, "io_uring", "$ATTACK io-uring", Says("DONE")).layers(FILTER).run()
}

#[test]
fn a_filter_of_its_own_weakens_nothing() -> Outcome {
    Attack::new(65, "more filters", "$ATTACK filter", Says("DONE"))
        .layers(FILTER)
        .control(Control::Like(
            // Outside nothing is denied: what passes there is the probe itself.
            "$ATTACK filter",
        ))
        .run()
}

#[test]
fn the_memory_of_a_process_outside_is_not_read() -> Outcome {
    Attack::new(67, "read memory by process id", "$ATTACK peek $(cat $WS/held)", Leak)
        .prepare(HOLD)
        .layers(PROCESSES)
        .run()
}

/// Starts a process outside that has the canary in its memory, and says where.
const HOLD: &str = "setsid $ATTACK hold $(cat $OUT/canary) > $OUT/held 2>&1 < /dev/null & p=$!; \
                    until grep -q ready $OUT/held; do sleep 0.05; done; \
                    sed \"s/ready \\(.*\\) \\(.*\\)/$p:\\1:\\2/\" $OUT/held > $WS/held";

#[test]
fn the_first_process_of_the_sandbox_is_closed() -> Outcome {
    // Its links and lists must not even be readable: a descriptor of PID 1 is a way out.
    Attack::new(68, "memory, descriptors and roots of PID 1", "$ATTACK peek 1", Says("DONE"))
        .layers(&["another uid", "not dumpable", "hidepid", "seccomp"])
        .run()
}

#[test]
fn no_environment_of_another_process_is_read() -> Outcome {
    Attack::new(
        68,
        "secrets in environments of others",
        "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep SECRET",
        Leak,
    )
    .wrap("export SECRET=canary-7f3d91-do-not-read; sleep 60 & \"$@\"; code=$?; kill $!; exit $code")
    .layers(PROCESSES)
    .run()
}

/// Looked at by its command line, which a dead process has lost even where nobody reaps it.
const KILLED: Oracle = Effect("! grep -aq sleep /proc/$(cat $WS/pid)/cmdline");

#[test]
fn no_process_outside_is_killed() -> Outcome {
    Attack::new(69, "signals to processes outside", "$ATTACK kill $(cat $WS/pid) $PPID", KILLED)
        .prepare("setsid sleep 60 > /dev/null 2>&1 < /dev/null & echo $! > $WS/pid")
        .control(Control::Like("$ATTACK kill $(cat $WS/pid)"))
        .layers(PROCESSES)
        .run()
}

#[test]
fn a_signal_to_everybody_stays_inside() -> Outcome {
    Attack::new(69, "signals to everybody", "kill -9 -1", KILLED)
        .prepare("setsid sleep 60 > /dev/null 2>&1 < /dev/null & echo $! > $WS/pid")
        .control(Control::Like("kill -9 $(cat $WS/pid)"))
        .layers(PROCESSES)
        .run()
}

#[test]
fn nothing_is_typed_into_the_terminal() -> Outcome {
    Attack::new(71, "push input into the terminal", "$ATTACK terminal", Says("DONE TIOCSTI"))
        .wrap(TERMINAL)
        .layers(&["own pty", "seccomp"])
        .run()
}

#[test]
fn the_terminal_is_not_taken_over() -> Outcome {
    Attack::new(
        72,
        "paste, line discipline, console, session",
        "$ATTACK terminal > out; grep -v TIOCSTI out",
        Says("DONE"),
    )
    .wrap(TERMINAL)
    .layers(&["own pty", "seccomp"])
    .run()
}

/// Gives the command a terminal of which it is the session leader. `script` takes one string.
const TERMINAL: &str = "printf -v line '%q ' \"$@\"; SHELL=/bin/bash script -qec \"$line\" /dev/null";

#[test]
fn privileged_calls_are_refused() -> Outcome {
    Attack::new(74, "calls nobody in a sandbox needs", "$ATTACK sweep", Says("DONE")).layers(FILTER).run()
}

#[test]
fn shared_memory_of_the_host_is_not_seen() -> Outcome {
    Attack::new(75, "System V segments of the host", "$ATTACK read-shared 77431", Leak)
        .prepare(
            "$ATTACK keep-shared $((RANDOM * 32768 + RANDOM)) none > /dev/null; \
                  $ATTACK keep-shared 77431 $(cat $OUT/canary) > $OUT/segment",
        )
        .wrap("\"$@\"; code=$?; ipcrm -M 77431 2>/dev/null; exit $code")
        .layers(&["IPC namespace"])
        .run()
}

#[test]
fn kernel_keys_of_the_host_are_not_seen() -> Outcome {
    Attack::new(75, "keys of the caller's session", "$ATTACK keys $MARK", Says("DONE"))
        .layers(&["own session keyring", "seccomp"])
        .control(Control::Like("cat /proc/keys | head -1 | sed 's/^/DONE /'"))
        .run()
}

#[test]
fn a_daemon_does_not_outlive_the_sandbox() -> Outcome {
    let alive = Effect("sleep 0.2; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q \"$WS/attack\"");
    Attack::new(76, "leave the session and ignore signals", "$ATTACK daemon; sleep 0.2", alive)
        .layers(&["PID namespace", "cgroup.kill"])
        .run()
}

#[test]
fn priority_is_not_raised() -> Outcome {
    Attack::new(78, "real-time scheduling, nice, limits", "$ATTACK priority", Says("DONE"))
        .layers(&["no capabilities", "resource limits"])
        .run()
}

#[test]
fn a_memfd_is_not_executed() -> Outcome {
    Attack::new(44, "execute a memfd", "$ATTACK memfd", Says("DONE")).layers(FILTER).run()
}

#[test]
fn processes_are_counted() -> Outcome {
    // Few enough for any host; the shell gives up when it cannot fork.
    let attempt = "timeout 20 sh -c 'n=0; while [ $n -lt 300 ]; do sleep 60 & n=$((n+1)); p=\"$p $!\"; done; \
                   echo DONE $n; kill $p'";
    Attack::new(79, "start processes without end", attempt, Says("DONE 300"))
        .profile(FEW_PROCESSES)
        .layers(&["RLIMIT_NPROC in an own user namespace"])
        .run()
}

#[test]
fn processes_that_are_counted_may_be_many() -> Outcome {
    let few = "sh -c 'n=0; while [ $n -lt 50 ]; do sleep 60 & n=$((n+1)); p=\"$p $!\"; done; echo DONE $n; kill $p'";
    let many = "timeout 20 sh -c 'n=0; while [ $n -lt 150 ]; do sleep 60 & n=$((n+1)); p=\"$p $!\"; done; \
                echo DONE 50 and more; kill $p'";
    Attack::new(79, "start more processes than the profile lets it", many, Says("DONE 50"))
        .control(Control::Inside(few))
        .profile(FEW_PROCESSES)
        .layers(&["RLIMIT_NPROC in an own user namespace"])
        .run()
}

#[test]
fn what_is_counted_per_user_is_counted_per_sandbox() -> Outcome {
    // Outside it is a user without anything else: what root has too few of, other tests would miss.
    let starving = "rm -f held tried; \"$@\" & p=$!; n=0; until test -e held || test $n -gt 200; \
                    do sleep 0.1; n=$((n+1)); done; ./attack watcher 0 65531; touch tried; wait $p";
    Attack::new(
        83,
        "all inotify instances a user may have",
        "ulimit -n $(ulimit -Hn); $ATTACK watchers 0",
        Says("STARVED"),
    )
    .control(Control::Like("ulimit -n $(ulimit -Hn); $ATTACK watchers 65531"))
    .wrap(starving)
    .layers(&["a user of its own owns the user namespace"])
    .run()
}
