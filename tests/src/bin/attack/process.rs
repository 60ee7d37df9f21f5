//! Signals to everybody, and processes that want to stay.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, kill as send, signal};
use nix::unistd::{Pid, setsid};

use crate::report;
use crate::sys::call;

/// Signals to the processes named, to PID 1, and by threads. Nothing is sent to "everybody" (-1): outside the
/// sandbox that would end the machine, so the tests do it with a shell, inside only.
pub(crate) fn kill(processes: &[&str]) {
    for process in processes {
        let id: i32 = process.parse().unwrap_or(i32::MAX);
        report(&format!("kill {process}"), send(Pid::from_raw(id), Signal::SIGKILL));
        let thread = [id as usize, id as usize, libc::SIGKILL as usize];
        report(&format!("tgkill {process}"), call(libc::SYS_tgkill, &thread));
        let pidfd = call(libc::SYS_pidfd_open, &[id as usize, 0]);
        let sent = pidfd.and_then(|pidfd| {
            call(libc::SYS_pidfd_send_signal, &[pidfd as usize, libc::SIGKILL as usize, 0, 0])
        });
        report(&format!("pidfd_send_signal {process}"), sent);
    }
}

/// Leaves its session, ignores what asks it to end, starts itself again and goes.
pub(crate) fn daemon() {
    if std::env::var_os("ATTACK_DAEMON").is_some() {
        // SAFETY: ignoring a signal runs no handler.
        #[expect(unsafe_code, reason = "`signal` is unsafe for handlers, of which there is none")]
        let ignored = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT]
            .map(|number| unsafe { signal(number, SigHandler::SigIgn) });
        let _ = (setsid(), ignored);
        sleep(Duration::from_secs(3600));
        return;
    }
    let Ok(own) = std::env::current_exe() else { return };
    let mut again = Command::new(own);
    again.arg("daemon").env("ATTACK_DAEMON", "1");
    again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    report("daemon", again.spawn());
}

/// Makes all inotify instances that a user may have, says so by a file `held`, and keeps them until `tried` is there.
pub(crate) fn hold_watchers(user: &str) {
    become_user(user);
    let mut held = 0;
    // Bounded by descriptors in any case.
    while call(libc::SYS_inotify_init1, &[0]).is_ok() {
        held += 1;
    }
    become_user("0");
    println!("holds {held}");
    report("say so", std::fs::write("held", ""));
    for _ in 0..600 {
        if Path::new("tried").exists() {
            return;
        }
        sleep(Duration::from_millis(50));
    }
}

/// Who cannot have one inotify instance?
pub(crate) fn make_watcher(users: &[&str]) {
    for user in users {
        become_user(user);
        if let Err(error) = call(libc::SYS_inotify_init1, &[0]) {
            println!("STARVED {user}: {error}");
        }
        become_user("0");
    }
}

/// Inside, where nobody has a choice of users, it stays who it is.
fn become_user(user: &str) {
    let id = user.parse().unwrap_or(0);
    let _stays = call(libc::SYS_setresuid, &[usize::MAX, id, usize::MAX]);
}
