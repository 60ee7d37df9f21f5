//! Joins programs into one.
//!
//! libseccomp has one default answer per filter, and no rule with several tests of the same argument, so "all
//! of `ioctl` but these requests" does not fit into a filter that refuses by default. Calls whose arguments
//! decide therefore get a program of their own with its own default. The program that enters one says "trace,
//! label n"; here that return becomes a jump to program n. It is one instruction for another, so nothing else
//! moves, and each program loads what it needs from the start.

use std::collections::BTreeMap;

use super::FilterError;

/// One instruction, `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) operand: u32,
}

/// Instructions in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(pub(super) Vec<Instruction>);

/// BPF_RET | BPF_K.
pub(super) const RETURN: u16 = 0x06;
/// BPF_JMP | BPF_JA: the only jump whose distance has 32 bits.
pub(super) const JUMP: u16 = 0x05;
/// SECCOMP_RET_TRACE, with the label in the low half.
const TRACE: u32 = 0x7ff0_0000;
/// BPF_MAXINSNS of the kernel.
const MOST: usize = 4096;

impl Program {
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FilterError> {
        let (instructions, rest) = bytes.as_chunks::<8>();
        if instructions.is_empty() || !rest.is_empty() {
            return Err(FilterError::Link("not a sequence of instructions"));
        }
        Ok(Self(instructions.iter().map(Instruction::from_bytes).collect()))
    }
}

impl Instruction {
    fn from_bytes(bytes: &[u8; 8]) -> Self {
        let [c0, c1, jump_true, jump_false, o0, o1, o2, o3] = *bytes;
        Self {
            code: u16::from_ne_bytes([c0, c1]),
            jump_true,
            jump_false,
            operand: u32::from_ne_bytes([o0, o1, o2, o3]),
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [o0, o1, o2, o3] = self.operand.to_ne_bytes();
        [c0, c1, self.jump_true, self.jump_false, o0, o1, o2, o3]
    }

    /// The label of the program to enter here.
    fn enters(self) -> Option<u16> {
        let [high, low] = [self.operand & 0xffff_0000, self.operand & 0xffff];
        if self.code == RETURN && high == TRACE { u16::try_from(low).ok() } else { None }
    }
}

/// Lays the programs out by label and turns each entry of one into a jump. Those that no program enters are
/// left out: they would only be loaded for nothing.
pub(super) fn link(programs: &BTreeMap<u16, Program>) -> Result<Vec<u8>, FilterError> {
    let programs = reachable(programs);
    let mut starts = BTreeMap::new();
    let mut length = 0;
    for (label, program) in &programs {
        starts.insert(*label, length);
        length += program.0.len();
    }
    if length > MOST {
        return Err(FilterError::Link("more than 4096 instructions"));
    }
    let instructions = programs.values().flat_map(|program| program.0.iter());
    let mut bytes = Vec::with_capacity(length * 8);
    for (at, instruction) in instructions.enumerate() {
        let linked = match instruction.enters() {
            Some(label) => jump(at, starts.get(&label).copied())?,
            None => *instruction,
        };
        bytes.extend_from_slice(&linked.to_bytes());
    }
    Ok(bytes)
}

/// The programs the first one enters, directly or not; an entry only goes to a later label, so one pass sees
/// all.
fn reachable(programs: &BTreeMap<u16, Program>) -> BTreeMap<u16, &Program> {
    let mut entered = Vec::from_iter(programs.first_key_value().map(|(label, _)| *label));
    let mut found = BTreeMap::new();
    for (label, program) in programs {
        if entered.contains(label) {
            entered.extend(program.0.iter().filter_map(|instruction| instruction.enters()));
            found.insert(*label, program);
        }
    }
    found
}

fn jump(from: usize, to: Option<usize>) -> Result<Instruction, FilterError> {
    let distance = to
        .ok_or(FilterError::Link("a program that is entered is missing"))?
        .checked_sub(from + 1)
        .and_then(|distance| u32::try_from(distance).ok())
        .ok_or(FilterError::Link("a program is entered from behind"))?;
    Ok(Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: distance })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returns(operand: u32) -> Program {
        Program(vec![Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand }])
    }

    #[test]
    fn an_entered_program_is_jumped_to() {
        let allow = 0x7fff_0000;
        let programs = BTreeMap::from([(0, returns(TRACE | 3)), (2, returns(1)), (3, returns(allow))]);
        let linked = Program::from_bytes(&link(&programs).unwrap()).unwrap();
        let jump = Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: 0 };
        assert_eq!(linked.0, [jump, returns(allow).0[0]], "program 2 is not entered and left out");
    }

    #[test]
    fn a_missing_program_and_one_behind_are_errors() {
        assert!(link(&BTreeMap::from([(0, returns(TRACE | 7))])).is_err());
        assert!(link(&BTreeMap::from([(0, returns(TRACE))])).is_err());
        assert!(Program::from_bytes(&[0; 7]).is_err());
        assert!(Program::from_bytes(&[]).is_err());
    }
}
