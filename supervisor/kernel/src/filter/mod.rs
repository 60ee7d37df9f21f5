//! The seccomp programs of a sandbox, as the bytes the kernel takes.
//!
//! ```text
//! table.rs      number -> verdict          the whole of x86-64 up to 6.18
//! arguments.rs  Stage  -> rules            calls whose arguments decide
//! condense.rs   program -> shorter program ranges of numbers instead of numbers
//! link.rs       programs -> one program    a stage is entered by a jump
//! ```
//!
//! Both are allow-lists. A number nobody knows answers ENOSYS, a call known to be dangerous EPERM; the calls
//! of another ABI, `int 0x80` and x32, kill the process, for a filter that only knows x86-64 numbers would
//! let them through. libseccomp writes the programs; what it writes is then made shorter, because loading is
//! part of every launch.
//!
//! A filter answers numbers and integers. Whatever is behind a pointer (paths, addresses) can change after
//! the filter has looked at it, and is judged elsewhere.
//!
//! Minimum kernel version: 4.14 (SECCOMP_RET_KILL_PROCESS). Required configuration: CONFIG_SECCOMP_FILTER.

mod arguments;
mod condense;
mod link;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::SyscallError;
use arguments::{Answer, Stage, Test};
use condense::{by_range, without_prologue};
use link::{Program, link};
use table::{Group, Verdict};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the numbers of filter/table.rs are those of x86-64");

/// What a profile adds to the agent's calls. The default is the floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentFilter {
    /// Leaves namespaces and mounts to the kernel, which limits them to the agent's own user namespace, so
    /// that the agent can build sandboxes of its own.
    pub nested_sandbox: bool,
    /// Lets memfds be made, and with them programs that no rule on paths has seen.
    pub memfd: bool,
}

/// Why a program could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// libseccomp refused a rule, or is older than 2.5.
    #[error("libseccomp: {0}")]
    Library(#[from] libseccomp::error::SeccompError),
    /// The memfd through which libseccomp hands out the program.
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    /// A stage that the program enters does not follow it, or the whole is longer than the kernel takes.
    #[error("the program does not link: {0}")]
    Link(&'static str),
}

/// What one system call gets, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ruling {
    /// Its number on x86-64.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// `allow`, an errno, or `by argument`.
    pub answer: String,
    /// Why.
    pub reason: &'static str,
}

/// What each system call of the kernel gets from [`agent`]. Numbers that are not listed answer ENOSYS.
pub fn rulings(options: AgentFilter) -> impl Iterator<Item = Ruling> {
    table::AGENT.iter().flat_map(move |group| {
        let answer = match resolve(group.verdict, options) {
            Answer::Allow => "allow".to_owned(),
            Answer::Errno(errno) => format!("{:?}", Errno::from_raw(errno)),
            Answer::GoOn(_) => "by argument".to_owned(),
        };
        let reason = group.reason;
        group.calls.iter().map(move |(number, name)| Ruling {
            number: *number,
            name,
            answer: answer.clone(),
            reason,
        })
    })
}

/// Compiles the agent's program. It takes about as long as launching a sandbox: keep the bytes.
///
/// # Errors
/// When libseccomp refuses; the program does not depend on the host.
pub fn agent(options: AgentFilter) -> Result<Vec<u8>, FilterError> {
    let main = by_range(compile_table(table::AGENT, options)?, table::LAST);
    let mut programs = BTreeMap::from([(MAIN, main)]);
    for stage in arguments::ALL {
        programs.insert(label(stage), without_prologue(compile_stage(stage)?, stage.rules().call));
    }
    link(&programs)
}

/// Compiles the program of PID 1, for the time after the agent has been cloned: its children would inherit
/// it.
///
/// # Errors
/// When libseccomp refuses; the program does not depend on the host.
pub fn init() -> Result<Vec<u8>, FilterError> {
    let calls = Group { reason: "", verdict: Verdict::Allow, calls: table::INIT };
    let program = compile_table(&[calls], AgentFilter::default())?;
    link(&BTreeMap::from([(MAIN, by_range(program, table::LAST))]))
}

/// The label of the program that is entered first.
const MAIN: u16 = 0;

/// The label of a stage's program.
const fn label(stage: Stage) -> u16 {
    stage as u16 + 1
}

/// What a number gets that no rule names.
const UNKNOWN: ScmpAction = ScmpAction::Errno(libc::ENOSYS);

fn compile_table(groups: &[Group], options: AgentFilter) -> Result<Program, FilterError> {
    let mut filter = new_filter(UNKNOWN)?;
    for group in groups {
        let action = action(resolve(group.verdict, options));
        // libseccomp refuses a rule that says what the default says.
        if action == UNKNOWN {
            continue;
        }
        for (number, _) in group.calls {
            filter.add_rule_exact(action, call(*number))?;
        }
    }
    export(&filter)
}

fn compile_stage(stage: Stage) -> Result<Program, FilterError> {
    let rules = stage.rules();
    let mut filter = new_filter(action(rules.otherwise))?;
    for (answer, tests) in &rules.rules {
        let tests: Vec<ScmpArgCompare> = tests.iter().map(comparison).collect();
        filter.add_rule_conditional_exact(action(*answer), call(rules.call), &tests)?;
    }
    export(&filter)
}

/// What `options` make of a verdict.
fn resolve(verdict: Verdict, options: AgentFilter) -> Answer {
    match verdict {
        Verdict::Allow => Answer::Allow,
        Verdict::Refuse(errno) => Answer::Errno(errno),
        Verdict::Inspect(stage) => Answer::GoOn(stage),
        Verdict::NestedOnly | Verdict::InspectUnlessNested(_) if options.nested_sandbox => Answer::Allow,
        Verdict::NestedOnly => Answer::Errno(libc::EPERM),
        Verdict::FloorOnly(errno) if options.nested_sandbox => Answer::Errno(errno),
        Verdict::FloorOnly(_) => Answer::Allow,
        Verdict::InspectUnlessNested(stage) => Answer::GoOn(stage),
        Verdict::MemfdOnly if options.memfd => Answer::Allow,
        Verdict::MemfdOnly => Answer::Errno(libc::ENOSYS),
    }
}

/// A stage is entered where its label is traced: [`link`] leaves none of these in the program.
fn action(answer: Answer) -> ScmpAction {
    match answer {
        Answer::Allow => ScmpAction::Allow,
        Answer::Errno(errno) => ScmpAction::Errno(errno),
        Answer::GoOn(stage) => ScmpAction::Trace(label(stage)),
    }
}

fn call(number: u32) -> ScmpSyscall {
    ScmpSyscall::from(number.cast_signed())
}

fn comparison(test: &Test) -> ScmpArgCompare {
    ScmpArgCompare::new(test.argument, ScmpCompareOp::MaskedEqual(test.mask), test.value)
}

fn new_filter(default: ScmpAction) -> Result<ScmpFilterContext, FilterError> {
    const BINARY_TREE: u32 = 2;
    let mut filter = ScmpFilterContext::new(default)?;
    filter.set_act_badarch(ScmpAction::KillProcess)?;
    // A process compiled for x86-64 adds only x86-64 by itself; saying so keeps a supervisor that is not from
    // writing a filter for its own architecture.
    if !filter.is_arch_present(ScmpArch::X8664)? {
        filter.add_arch(ScmpArch::X8664)?;
    }
    filter.set_ctl_optimize(BINARY_TREE)?;
    Ok(filter)
}

/// libseccomp 2.5 hands programs out through a descriptor only.
fn export(filter: &ScmpFilterContext) -> Result<Program, FilterError> {
    let memfd = memfd_create("filter", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| SyscallError::from_nix("memfd_create", "filter", errno))?;
    let mut file = File::from(memfd);
    filter.export_bpf(&file)?;
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| SyscallError::from_io("read", "filter", &error))?;
    Program::from_bytes(&bytes)
}
