//! Runs a program on one call, as the kernel would.

use crate::filter::link::{Instruction, Program};

/// The bit that makes a number one of x32.
pub(super) const X32: u32 = 0x4000_0000;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Allow,
    Errno(i32),
    Kill,
    Other(u32),
}

pub(super) fn run(program: &Program, number: u32, arguments: [u64; 6]) -> Outcome {
    interpret(program, &data(number, X86_64, arguments))
}

pub(super) fn run_i386(program: &Program, number: u32, arguments: [u64; 6]) -> Outcome {
    interpret(program, &data(number, I386, arguments))
}

/// `struct seccomp_data` as words: number, architecture, instruction pointer, arguments.
fn data(number: u32, architecture: u32, arguments: [u64; 6]) -> [u32; 16] {
    let mut words = [0; 16];
    (words[0], words[1]) = (number, architecture);
    for (at, argument) in arguments.into_iter().enumerate() {
        words[4 + 2 * at] = u32::try_from(argument & 0xffff_ffff).unwrap();
        words[5 + 2 * at] = u32::try_from(argument >> 32).unwrap();
    }
    words
}

fn interpret(program: &Program, data: &[u32; 16]) -> Outcome {
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program.0[at];
        at += 1;
        let branch = |met: bool| usize::from(if met { jump_true } else { jump_false });
        match code {
            0x20 => accumulator = data[usize::try_from(operand).unwrap() / 4],
            0x54 => accumulator &= operand,
            0x05 => at += usize::try_from(operand).unwrap(),
            0x15 => at += branch(accumulator == operand),
            0x25 => at += branch(accumulator > operand),
            0x35 => at += branch(accumulator >= operand),
            0x45 => at += branch(accumulator & operand != 0),
            0x06 => return outcome(operand),
            _ => panic!("instruction {code:#x}"),
        }
    }
}

fn outcome(returned: u32) -> Outcome {
    match returned {
        0x7fff_0000 => Outcome::Allow,
        0x8000_0000 => Outcome::Kill,
        errno if errno >> 16 == 5 => Outcome::Errno((errno & 0xffff).cast_signed()),
        other => Outcome::Other(other),
    }
}
