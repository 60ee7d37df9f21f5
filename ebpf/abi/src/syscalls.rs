//! The system calls that are watched when they return, and where their arguments are (x86-64).

use bytemuck::{Pod, Zeroable};

/// Not watched.
pub const CLASS_NONE: u8 = 0;
/// Opens a file and returns its descriptor.
pub const CLASS_OPEN: u8 = 1;
/// Changes names, contents or attributes.
pub const CLASS_CHANGE: u8 = 2;
/// Starts a program; seen here only when it fails.
pub const CLASS_EXEC: u8 = 3;
/// Connects a socket; of interest for AF_UNIX when it fails.
pub const CLASS_CONNECT: u8 = 4;
/// Binds a socket; of interest for AF_UNIX, where it makes a file.
pub const CLASS_BIND: u8 = 5;

/// There is no such argument.
pub const NONE: i8 = -1;
/// The directory is the working directory.
pub const CWD: i8 = -2;

/// Which argument of a system call is what. Arguments are named by the byte offset of their register in
/// `struct pt_regs`, so that a program finds one without a branch: every branch before a walk doubles what the
/// verifier has to go through.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Shape {
    /// `CLASS_*`.
    pub class: u8,
    /// The path's directory: a descriptor argument, [`CWD`] or [`NONE`].
    pub directory: i8,
    /// The path, or [`NONE`] where the call takes a descriptor (`directory`) only.
    pub path: i8,
    /// Directory of the second path.
    pub second_directory: i8,
    /// The second path.
    pub second_path: i8,
    /// Flags or mode worth recording.
    pub argument: i8,
    /// 1 where the flags are in a `struct open_how` the argument points to.
    pub indirect: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Shape>() == 8);

impl Shape {
    const UNWATCHED: Self = Self::new(CLASS_NONE, NONE, NONE, NONE);

    /// Arguments are given by their position from 0.
    const fn new(class: u8, directory: i8, path: i8, argument: i8) -> Self {
        Self {
            class,
            directory: register(directory),
            path: register(path),
            second_directory: NONE,
            second_path: NONE,
            argument: register(argument),
            indirect: 0,
            reserved: 0,
        }
    }

    const fn and(mut self, second_directory: i8, second_path: i8) -> Self {
        self.second_directory = register(second_directory);
        self.second_path = register(second_path);
        self
    }

    const fn indirect(mut self) -> Self {
        self.indirect = 1;
        self
    }
}

/// Where `struct pt_regs` has the argument at a position; [`NONE`] and [`CWD`] stay what they are.
const fn register(position: i8) -> i8 {
    match position {
        0 => 112, // di
        1 => 104, // si
        2 => 96,  // dx
        3 => 56,  // r10
        4 => 72,  // r8
        other => other,
    }
}

/// Where `struct pt_regs` has the number of the system call, `orig_ax`.
pub const NUMBER_REGISTER: u64 = 120;

/// Elements of [`table`]: system calls from this number on are not watched.
pub const TABLE_LENGTH: usize = 512;

/// Number, name and shape of every watched system call.
pub const WATCHED: &[(u32, &str, Shape)] = &[
    (2, "open", Shape::new(CLASS_OPEN, CWD, 0, 1)),
    (42, "connect", Shape::new(CLASS_CONNECT, CWD, 1, 2)),
    (49, "bind", Shape::new(CLASS_BIND, CWD, 1, 2)),
    (59, "execve", Shape::new(CLASS_EXEC, CWD, 0, NONE)),
    (76, "truncate", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (82, "rename", Shape::new(CLASS_CHANGE, CWD, 0, NONE).and(CWD, 1)),
    (83, "mkdir", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (84, "rmdir", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    (85, "creat", Shape::new(CLASS_OPEN, CWD, 0, NONE)),
    (86, "link", Shape::new(CLASS_CHANGE, CWD, 0, NONE).and(CWD, 1)),
    (87, "unlink", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    // The target of a symbolic link is text, not a path from a directory.
    (88, "symlink", Shape::new(CLASS_CHANGE, CWD, 1, NONE).and(NONE, 0)),
    (90, "chmod", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (91, "fchmod", Shape::new(CLASS_CHANGE, 0, NONE, 1)),
    (92, "chown", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (93, "fchown", Shape::new(CLASS_CHANGE, 0, NONE, 1)),
    (94, "lchown", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (133, "mknod", Shape::new(CLASS_CHANGE, CWD, 0, 1)),
    (188, "setxattr", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    (189, "lsetxattr", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    (190, "fsetxattr", Shape::new(CLASS_CHANGE, 0, NONE, NONE)),
    (197, "removexattr", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    (198, "lremovexattr", Shape::new(CLASS_CHANGE, CWD, 0, NONE)),
    (199, "fremovexattr", Shape::new(CLASS_CHANGE, 0, NONE, NONE)),
    (257, "openat", Shape::new(CLASS_OPEN, 0, 1, 2)),
    (258, "mkdirat", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (259, "mknodat", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (260, "fchownat", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (263, "unlinkat", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (264, "renameat", Shape::new(CLASS_CHANGE, 0, 1, NONE).and(2, 3)),
    (265, "linkat", Shape::new(CLASS_CHANGE, 0, 1, 4).and(2, 3)),
    (266, "symlinkat", Shape::new(CLASS_CHANGE, 1, 2, NONE).and(NONE, 0)),
    (268, "fchmodat", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (316, "renameat2", Shape::new(CLASS_CHANGE, 0, 1, 4).and(2, 3)),
    (322, "execveat", Shape::new(CLASS_EXEC, 0, 1, 4)),
    (437, "openat2", Shape::new(CLASS_OPEN, 0, 1, 2).indirect()),
    (452, "fchmodat2", Shape::new(CLASS_CHANGE, 0, 1, 2)),
    (463, "setxattrat", Shape::new(CLASS_CHANGE, 0, 1, NONE)),
    (466, "removexattrat", Shape::new(CLASS_CHANGE, 0, 1, NONE)),
];

/// The shapes by number, as the programs' map `SYSCALLS` has them.
pub const fn table() -> [Shape; TABLE_LENGTH] {
    let mut table = [Shape::UNWATCHED; TABLE_LENGTH];
    let mut at = 0;
    while at < WATCHED.len() {
        let (number, _, shape) = WATCHED[at];
        table[number as usize] = shape;
        at += 1;
    }
    table
}

/// The name of a watched system call.
pub fn name(number: u32) -> Option<&'static str> {
    WATCHED.iter().find(|(known, ..)| *known == number).map(|(_, name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ascending_and_below_the_table_length() {
        assert!(WATCHED.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(WATCHED.iter().all(|(number, ..)| (*number as usize) < TABLE_LENGTH));
    }

    #[test]
    fn the_table_has_every_watched_call_and_nothing_else() {
        let table = table();
        let watched = table.iter().filter(|shape| shape.class != CLASS_NONE).count();
        assert_eq!(watched, WATCHED.len());
        assert_eq!(table[257], Shape::new(CLASS_OPEN, 0, 1, 2));
    }

    #[test]
    fn a_watched_call_has_a_name() {
        assert_eq!(name(316), Some("renameat2"));
        assert_eq!(name(0), None);
    }
}
