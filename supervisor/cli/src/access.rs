//! Who may ask a running skepd for sandboxes without being root: the members of one group.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups, getuid};
use skep_policy::escape::escape;
use skep_runtime::places::sibling;

use crate::origin::Origin;

/// The group.
pub const GROUP: &str = "skep";

/// How a user stands to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user; `None` where it is root himself.
    pub user: Option<String>,
    /// How he stands to it.
    pub standing: Standing,
}

/// See [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This host has no such group.
    NoGroup,
    /// He is no member.
    Outside,
    /// He is a member, and became one after his session began.
    NotYet,
    /// He is a member.
    Member,
}

impl Access {
    /// Of the user who typed the command: behind sudo, of the one who called it.
    ///
    /// # Errors
    /// When users or groups cannot be looked up.
    pub fn find() -> Result<Self, Errno> {
        let group = Group::from_name(GROUP)?.map(|group| group.gid);
        let is_root = geteuid().is_root();
        let subject = if is_root { Origin::find().subject.map(Uid::from_raw) } else { Some(getuid()) };
        let Some(uid) = subject else {
            let standing = if group.is_some() { Standing::Member } else { Standing::NoGroup };
            return Ok(Self { user: None, standing });
        };
        let entry = User::from_uid(uid)?;
        let listed = match &entry {
            Some(user) => CString::new(user.name.as_str())
                .map_or(Ok(Vec::new()), |name| getgrouplist(&name, user.gid))?,
            None => Vec::new(),
        };
        // sudo has replaced the groups of the session it was called in.
        let held = if is_root { None } else { Some([getgroups()?, vec![getegid()]].concat()) };
        let user = entry.map_or_else(|| uid.to_string(), |user| escape(user.name.as_bytes()).into_owned());
        Ok(Self { user: Some(user), standing: judge(group, held.as_deref(), &listed) })
    }

    /// What to do, so that no sudo is needed; empty where nothing is.
    #[must_use]
    pub fn advice(&self) -> String {
        let user = self.user.as_deref().unwrap_or("USER");
        match self.standing {
            Standing::NoGroup => format!(
                "sudo groupadd --system {GROUP} && sudo usermod -aG {GROUP} {user}, then log in again and start skepd again"
            ),
            Standing::Outside => format!("sudo usermod -aG {GROUP} {user}, then log in again"),
            Standing::NotYet => format!("log in again, or go on in the shell that `newgrp {GROUP}` starts"),
            Standing::Member => String::new(),
        }
    }

    /// Why the socket of skepd is closed to him.
    #[must_use]
    pub fn closed(&self, socket: &str) -> String {
        let user = self.user.as_deref().unwrap_or("root");
        match self.standing {
            Standing::NoGroup => format!("{socket} is root's alone, for this host has no group {GROUP}"),
            Standing::Outside => {
                format!("{socket} is open to root and to the group {GROUP}, and {user} is in neither")
            }
            Standing::NotYet => {
                format!("{socket} is open to the group {GROUP}, which {user} joined after this session began")
            }
            Standing::Member => format!(
                "{socket} is closed to {user} although he is in the group {GROUP}: the skepd was started before the \
                 group was made, or a directory above the socket is closed"
            ),
        }
    }
}

/// `held` are the groups of the session, where they can be known; `listed` those the user database names.
fn judge(group: Option<Gid>, held: Option<&[Gid]>, listed: &[Gid]) -> Standing {
    let Some(group) = group else { return Standing::NoGroup };
    let is_listed = listed.contains(&group);
    match held.map_or(is_listed, |held| held.contains(&group)) {
        true => Standing::Member,
        false if is_listed => Standing::NotYet,
        false => Standing::Outside,
    }
}

/// `sudo` and a program of ours by the name root finds it under: sudo searches the system's directories only.
#[must_use]
pub fn sudo(program: &str) -> String {
    let path = sibling(program)
        .ok()
        .filter(|path| !SEARCHED.iter().any(|known| path.parent() == Some(Path::new(known))));
    let path = path.map(|path| escape(path.as_os_str().as_bytes()).into_owned());
    format!("sudo {}", path.as_deref().unwrap_or(program))
}

/// The directories in sudo's usual `secure_path`.
const SEARCHED: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

#[cfg(test)]
mod tests {
    use super::*;

    const SKEP: Gid = Gid::from_raw(990);
    const OWN: Gid = Gid::from_raw(1000);

    #[test]
    fn who_joined_after_the_session_began_is_told_from_who_did_not_join() {
        for (group, held, listed, standing) in [
            (None, Some(&[OWN][..]), &[OWN][..], Standing::NoGroup),
            (Some(SKEP), Some(&[OWN]), &[OWN], Standing::Outside),
            (Some(SKEP), Some(&[OWN]), &[OWN, SKEP], Standing::NotYet),
            (Some(SKEP), Some(&[OWN, SKEP]), &[OWN], Standing::Member),
            (Some(SKEP), None, &[OWN, SKEP], Standing::Member),
            (Some(SKEP), None, &[OWN], Standing::Outside),
        ] {
            assert_eq!(judge(group, held, listed), standing, "{group:?} {held:?} {listed:?}");
        }
    }

    #[test]
    fn everybody_but_a_member_is_told_what_to_type() {
        let access = |standing| Access { user: Some("bee".into()), standing };
        for standing in [Standing::NoGroup, Standing::Outside] {
            let access = access(standing);
            assert!(access.advice().contains("usermod -aG skep bee"), "{}", access.advice());
            assert!(access.closed("/run/skep/skepd.sock").contains("group skep"));
        }
        assert!(access(Standing::NoGroup).advice().contains("groupadd --system skep"));
        assert!(access(Standing::NotYet).advice().contains("newgrp skep"));
        assert_eq!(access(Standing::Member).advice(), "");
    }
}
