//! Makes programs of libseccomp shorter without changing what they say.
//!
//! Loading costs by the instruction, at every launch. Two things in libseccomp's output are longer than they
//! need be: it compares each number for itself, where neighbours mostly have one answer; and every program
//! begins by checking the architecture, which one that is entered from another has behind it. Both are read
//! off the program itself, by following it: [`follow`] is the whole of what is assumed about it. The tests
//! run the short and the long program on every number.

use super::link::{Instruction, JUMP, Program, RETURN};

/// BPF_LD | BPF_W | BPF_ABS: loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// BPF_JMP | BPF_JEQ, BPF_JGT and BPF_JGE with a constant.
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const X86_64: u32 = 0xc000_003e;
/// The first number of x32.
const X32: u32 = 0x4000_0000;
/// What a tracer sets to skip a call; the kernel runs the filter again on it.
const SKIPPED: u32 = u32::MAX;
const KILL: u32 = 0x8000_0000;

/// Follows a program for a number of x86-64 as far as number and architecture alone decide, and returns where
/// that ends: at a return, or at the first use of an argument. `None` where the program does something
/// unknown.
fn follow(program: &Program, number: u32) -> Option<usize> {
    let (mut accumulator, mut at) = (None, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = *program.0.get(at)?;
        let branch = |met: bool| at + 1 + usize::from(if met { jump_true } else { jump_false });
        at = match (code, accumulator) {
            (LOAD, _) if operand == NUMBER || operand == ARCHITECTURE => {
                accumulator = Some(if operand == NUMBER { number } else { X86_64 });
                at + 1
            }
            (LOAD | RETURN, _) => return Some(at),
            (JUMP, _) => at + 1 + usize::try_from(operand).ok()?,
            (IF_EQUAL, Some(value)) => branch(value == operand),
            (IF_GREATER, Some(value)) => branch(value > operand),
            (IF_AT_LEAST, Some(value)) => branch(value >= operand),
            _ => return None,
        };
    }
}

/// What is left of a stage's program for its call, once number and architecture are known.
pub(super) fn without_prologue(program: Program, call: u32) -> Program {
    // Jumps only go forward, so nothing that stays needs what is cut off in front of it.
    match follow(&program, call) {
        Some(start) => Program(program.0[start..].to_vec()),
        None => program,
    }
}

/// The same dispatch as a search over ranges of numbers. `last` is the highest number that may have an answer
/// of its own. A program that does not allow it, one that uses arguments or has too many ranges for short
/// jumps, comes back as it is.
pub(super) fn by_range(program: Program, last: u32) -> Program {
    ranges(&program, last).and_then(|ranges| search(&ranges)).unwrap_or(program)
}

/// A run of numbers, up to the next one's start, with one answer.
struct Range {
    start: u32,
    answer: u32,
}

fn ranges(program: &Program, last: u32) -> Option<Vec<Range>> {
    let mut ranges: Vec<Range> = Vec::new();
    for number in 0..=last + 1 {
        let end = program.0.get(follow(program, number)?)?;
        if end.code != RETURN {
            return None;
        }
        if ranges.last().is_none_or(|range| range.answer != end.operand) {
            ranges.push(Range { start: number, answer: end.operand });
        }
    }
    Some(ranges)
}

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum Target {
    Comparison(usize),
    Answer(u32),
}

/// `number >= start`.
struct Comparison {
    start: u32,
    met: Target,
    unmet: Target,
}

fn search(ranges: &[Range]) -> Option<Program> {
    const PROLOGUE: usize = 5;
    let mut comparisons = Vec::new();
    let first = halve(ranges, &mut comparisons)?;
    let mut answers: Vec<u32> = ranges.iter().map(|range| range.answer).chain([KILL]).collect();
    answers.sort_unstable();
    answers.dedup();

    let place = |target: Target| match target {
        Target::Comparison(index) => Some(PROLOGUE + index),
        Target::Answer(answer) => {
            Some(PROLOGUE + comparisons.len() + answers.iter().position(|of| *of == answer)?)
        }
    };
    let jump = |at: usize, code: u16, operand: u32, met: Target, unmet: Target| {
        let distance = |target| u8::try_from(place(target)?.checked_sub(at + 1)?).ok();
        Some(Instruction { code, jump_true: distance(met)?, jump_false: distance(unmet)?, operand })
    };
    let load = |operand| Instruction { code: LOAD, jump_true: 0, jump_false: 0, operand };
    let kill = Target::Answer(KILL);
    let unknown = Target::Answer(ranges.last()?.answer);

    let mut program = vec![load(ARCHITECTURE)];
    program.push(Instruction { jump_true: 0, ..jump(1, IF_EQUAL, X86_64, kill, kill)? });
    program.push(load(NUMBER));
    program.push(Instruction { jump_true: 0, ..jump(3, IF_AT_LEAST, X32, first, first)? });
    program.push(jump(4, IF_EQUAL, SKIPPED, unknown, kill)?);
    for (index, Comparison { start, met, unmet }) in comparisons.iter().enumerate() {
        program.push(jump(PROLOGUE + index, IF_AT_LEAST, *start, *met, *unmet)?);
    }
    program.extend(answers.iter().map(|answer| Instruction {
        code: RETURN,
        jump_true: 0,
        jump_false: 0,
        operand: *answer,
    }));
    Some(Program(program))
}

/// Adds the comparisons that find a number's range, a parent before its children.
fn halve(ranges: &[Range], comparisons: &mut Vec<Comparison>) -> Option<Target> {
    if let [range] = ranges {
        return Some(Target::Answer(range.answer));
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let index = comparisons.len();
    let (start, nowhere) = (high.first()?.start, Target::Answer(KILL));
    comparisons.push(Comparison { start, met: nowhere, unmet: nowhere });
    let unmet = halve(low, comparisons)?;
    let met = halve(high, comparisons)?;
    comparisons[index] = Comparison { start, met, unmet };
    Some(Target::Comparison(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
        Instruction { code, jump_true, jump_false, operand }
    }

    #[test]
    fn a_program_that_does_something_unknown_stays_as_it_is() {
        // BPF_JSET on the number, which libseccomp does not write.
        let program = Program(vec![
            instruction(LOAD, 0, 0, NUMBER),
            instruction(0x45, 0, 0, 1),
            instruction(RETURN, 0, 0, KILL),
        ]);
        assert_eq!(by_range(program.clone(), 10), program);
        assert_eq!(without_prologue(program.clone(), 1), program);
    }

    #[test]
    fn a_program_that_looks_at_an_argument_is_no_search() {
        let program = Program(vec![instruction(LOAD, 0, 0, 16), instruction(RETURN, 0, 0, KILL)]);
        assert_eq!(by_range(program.clone(), 10), program);
    }

    #[test]
    fn more_ranges_than_short_jumps_reach_stay_a_list() {
        let mut list = vec![instruction(LOAD, 0, 0, NUMBER)];
        for number in (0..600).step_by(2) {
            list.push(instruction(IF_EQUAL, 0, 1, number));
            list.push(instruction(RETURN, 0, 0, KILL));
        }
        list.push(instruction(RETURN, 0, 0, 0x7fff_0000));
        let program = Program(list);
        assert_eq!(by_range(program.clone(), 600), program);
    }
}
