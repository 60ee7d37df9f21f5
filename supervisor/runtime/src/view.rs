//! The host's files as facts for the policy, looked at with the caller's rights.
//!
//! Everything here runs inside [`skep_kernel::view::with_rights_of`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use skep_policy::launch::Ids;
use skep_policy::tree::{Found, Tree, walk};

/// The host's files, each looked at once: what one launch decides rests on one view.
#[derive(Debug, Default)]
pub struct HostTree {
    seen: RefCell<HashMap<PathBuf, Found>>,
}

impl HostTree {
    /// Takes a directory, and what is missing above it, for there: a launch would make it.
    pub fn suppose(&self, directory: &Path, owner: Ids) {
        for path in directory.ancestors().take_while(|path| self.look(path) == Found::Missing) {
            self.seen.borrow_mut().insert(path.to_owned(), Found::Directory(owner));
        }
    }
}

impl Tree for HostTree {
    fn look(&self, path: &Path) -> Found {
        if let Some(found) = self.seen.borrow().get(path) {
            return found.clone();
        }
        let found = look(path);
        self.seen.borrow_mut().insert(path.to_owned(), found.clone());
        found
    }
}

/// What is at a path, with the rights of the thread.
pub(crate) fn look(path: &Path) -> Found {
    let found = fs::symlink_metadata(path).and_then(|metadata| {
        let owner = Ids { uid: metadata.uid(), gid: metadata.gid() };
        Ok(match metadata.file_type() {
            kind if kind.is_dir() => Found::Directory(owner),
            kind if kind.is_file() => Found::File(owner),
            kind if kind.is_symlink() => Found::Symlink(fs::read_link(path)?),
            _ => Found::Other(owner),
        })
    });
    match found {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing,
        Err(error) => Found::Unreachable(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// Why a command cannot be started, as a shell tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCommand {
    /// Nothing of that name.
    NotFound,
    /// Something that is no executable file.
    NotExecutable,
}

/// The file a command names: looked up in `PATH` unless it has a slash, without symbolic links.
///
/// # Errors
/// When there is none, or none that may be executed.
pub fn program(tree: &dyn Tree, name: &[u8], search: &[u8], directory: &Path) -> Result<PathBuf, NoCommand> {
    let name = Path::new(OsStr::from_bytes(name));
    if name.as_os_str().is_empty() {
        return Err(NoCommand::NotFound);
    }
    if name.as_os_str().as_bytes().contains(&b'/') {
        return executable(tree, &directory.join(name));
    }
    let mut problem = NoCommand::NotFound;
    for place in search.split(|byte| *byte == b':').map(|place| Path::new(OsStr::from_bytes(place))) {
        // A relative entry of PATH would mean the current directory to the shell; it is skipped here, for it
        // is nearly always a mistake and would let the workspace choose the agent.
        if !place.is_absolute() {
            continue;
        }
        match executable(tree, &place.join(name)) {
            Ok(found) => return Ok(found),
            Err(NoCommand::NotExecutable) => problem = NoCommand::NotExecutable,
            Err(NoCommand::NotFound) => {}
        }
    }
    Err(problem)
}

fn executable(tree: &dyn Tree, path: &Path) -> Result<PathBuf, NoCommand> {
    let walked = walk(tree, path);
    match walked.found {
        Found::File(_) => {}
        Found::Missing | Found::Symlink(_) => return Err(NoCommand::NotFound),
        Found::Directory(_) | Found::Other(_) | Found::Unreachable(_) => {
            return Err(NoCommand::NotExecutable);
        }
    }
    let mode = fs::metadata(&walked.real).map(|metadata| metadata.permissions().mode());
    // Which of the three bits counts is decided by the kernel at execve, as the agent.
    if mode.is_ok_and(|mode| mode & 0o111 != 0) { Ok(walked.real) } else { Err(NoCommand::NotExecutable) }
}

/// The directory that holds a program with everything it brings: the `node_modules` it was installed in, else
/// the directory of the file. `None` where that would open a home, a workspace or more.
#[must_use]
pub fn package(program: &Path, closed: &[&Path]) -> Option<PathBuf> {
    let modules =
        program.ancestors().filter(|path| path.file_name().is_some_and(|n| n == "node_modules")).last();
    let package = modules.or_else(|| program.parent())?;
    let opens_too_much = closed.iter().any(|closed| closed.starts_with(package));
    (!opens_too_much && package != Path::new("/")).then(|| package.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_policy::tree::Sketch;

    const ROOT: Ids = Ids { uid: 0, gid: 0 };

    #[test]
    fn a_package_is_the_outermost_node_modules_or_the_directory() {
        let home = Path::new("/home/u");
        let npm = Path::new("/home/u/.nvm/lib/node_modules/@x/cli/node_modules/y/bin/cli");
        assert_eq!(package(npm, &[home]), Some("/home/u/.nvm/lib/node_modules".into()));
        assert_eq!(package(Path::new("/usr/bin/env"), &[home]), Some("/usr/bin".into()));
    }

    #[test]
    fn a_program_in_the_home_itself_opens_nothing() {
        let home = Path::new("/home/u");
        assert_eq!(package(Path::new("/home/u/claude"), &[home]), None);
        assert_eq!(package(Path::new("/home/claude"), &[home]), None);
        assert_eq!(package(Path::new("/claude"), &[]), None);
    }

    #[test]
    fn a_missing_command_is_told_from_one_that_cannot_run() {
        let tree = Sketch::default().with("/bin/d", Found::Directory(ROOT));
        let here = Path::new("/ws");
        assert_eq!(program(&tree, b"no", b"/bin", here), Err(NoCommand::NotFound));
        assert_eq!(program(&tree, b"d", b"/bin", here), Err(NoCommand::NotExecutable));
        assert_eq!(program(&tree, b"", b"/bin", here), Err(NoCommand::NotFound));
    }
}
