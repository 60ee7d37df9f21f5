//! Filters of its own: the kernel takes the strictest answer of all filters, so none may loosen an older one.

use crate::report;
use crate::sys::{Answer, address, call};

/// `SECCOMP_SET_MODE_FILTER`.
const SET_MODE_FILTER: usize = 1;
const FLAG_NEW_LISTENER: usize = 1 << 3;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;

/// `struct sock_filter` and `struct sock_fprog`.
#[repr(C)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Installs filters that allow everything, then tries what was denied before.
pub(crate) fn weaken() {
    let _ = call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0]);
    let before = probe();
    for (name, answer, flags) in
        [("allow", RET_ALLOW, 0), ("trace", RET_TRACE, 0), ("notify", RET_USER_NOTIF, FLAG_NEW_LISTENER)]
    {
        // A filter that answers everything with a notification would stop this very process.
        let installed =
            if answer == RET_USER_NOTIF { install_for(libc::SYS_uname, flags) } else { install(answer) };
        println!("filter {name}: {installed:?}");
        let after = probe();
        let weaker = before.is_err() && after.is_ok();
        println!("{} weaker by {name}: {after:?}", if weaker { "DONE" } else { "DENIED" });
    }
    report("a denied call passes", before);
}

fn probe() -> Answer {
    call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])
}

/// One instruction: return `answer` for every call.
fn install(answer: u32) -> Answer {
    // RET_TRACE without a tracer answers ENOSYS, so it is put on one call only.
    if answer == RET_TRACE {
        return install_on(libc::SYS_unshare, answer, 0);
    }
    install_program(&[Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: answer }], 0)
}

fn install_for(number: i64, flags: usize) -> Answer {
    install_on(number, RET_USER_NOTIF, flags)
}

/// Load the number, compare, return.
fn install_on(number: i64, answer: u32, flags: usize) -> Answer {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    install_program(
        &[
            Instruction { code: 0x20, jump_true: 0, jump_false: 0, value: 0 },
            Instruction { code: 0x15, jump_true: 0, jump_false: 1, value: number },
            Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: answer },
            Instruction { code: 0x06, jump_true: 0, jump_false: 0, value: RET_ALLOW },
        ],
        flags,
    )
}

fn install_program(instructions: &[Instruction], flags: usize) -> Answer {
    let length = u16::try_from(instructions.len()).unwrap_or(0);
    let program = Program { length, instructions: instructions.as_ptr() };
    call(libc::SYS_seccomp, &[SET_MODE_FILTER, flags, address(&program)])
}
