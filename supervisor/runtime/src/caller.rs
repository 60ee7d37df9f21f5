//! Who a sandbox works for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use skep_policy::launch::Ids;

use crate::protocol::Refusal;

/// First of the ids skep gives away: far above people, systemd's dynamic users (61184 to 65519) and the usual
/// sub-id ranges, below 2^31 where some programs still count with signed numbers.
const FIRST_ID: u32 = 0x5ce9_0000;

/// The ids of the gateway.
pub const GATEWAY: Ids = Ids { uid: FIRST_ID + 1, gid: FIRST_ID + 1 };

/// First uid for agents with `identity = "own"`.
const FIRST_AGENT: u32 = FIRST_ID + 0x1_0000;

/// First uid for the PID 1 of a sandbox.
const FIRST_INIT: u32 = FIRST_AGENT + SANDBOXES;

/// How many sandboxes there can be before numbers are used again.
const SANDBOXES: u32 = 0x10_0000;

/// Ids that are one sandbox's alone. Nobody logs in as any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnIds {
    /// Its agent's, if that has a uid of its own.
    pub agent: Ids,
    /// Its PID 1's, who owns nothing but the agent's user namespace: what the kernel counts for each user is so
    /// counted for each sandbox.
    pub init: Ids,
}

/// The ids of the `serial`-th sandbox.
#[must_use]
pub fn own_ids(serial: u64) -> OwnIds {
    let offset = u32::try_from(serial % u64::from(SANDBOXES)).unwrap_or(0);
    let ids = |first: u32| Ids { uid: first + offset, gid: first + offset };
    OwnIds { agent: ids(FIRST_AGENT), init: ids(FIRST_INIT) }
}

/// The user a sandbox works for: whose rights look paths up and who owns the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// His ids.
    pub ids: Ids,
    /// His login name, or his uid where he has no entry.
    pub name: String,
    /// His home, absolute.
    pub home: PathBuf,
}

impl Caller {
    /// The user behind a connection: its peer, or, if the peer is root, the user root names.
    ///
    /// `home` is the caller's own idea of his home; a wrong one harms nobody, for it is looked at with his
    /// rights only.
    ///
    /// # Errors
    /// When somebody but root names another user, the user does not exist, or he has no usable home.
    pub fn resolve(peer: u32, subject: Option<u32>, home: Option<&[u8]>) -> Result<Self, Refusal> {
        if peer != 0 && subject.is_some_and(|uid| uid != peer) {
            return Err(Refusal::new(
                "subject",
                "only root may start an agent for another user",
                "leave it out",
            ));
        }
        let uid = subject.unwrap_or(peer);
        let user = User::from_uid(Uid::from_raw(uid)).map_err(|errno| {
            Refusal::new("subject", format!("looking up user {uid} failed: {errno}"), "try again")
        })?;
        let home = home
            .map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)))
            .filter(|path| path.is_absolute())
            .or_else(|| user.as_ref().map(|user| user.dir.clone()))
            .filter(|path| path.is_absolute() && path != Path::new("/"))
            .ok_or_else(|| {
                Refusal::new(
                    "home",
                    format!("user {uid} has no home directory"),
                    "set HOME to an absolute path",
                )
            })?;
        let (gid, name) = match &user {
            Some(user) => (user.gid.as_raw(), user.name.clone()),
            None if peer == uid => (uid, uid.to_string()),
            None => {
                return Err(Refusal::new(
                    "subject",
                    format!("there is no user {uid}"),
                    "name an existing one",
                ));
            }
        };
        Ok(Self { ids: Ids { uid, gid }, name, home })
    }

    /// Is this root, whose agents get a uid of their own?
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.ids.uid == 0
    }
}

/// The value of `name` in a `NAME=value` list.
#[must_use]
pub fn variable<'a>(environment: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    environment.iter().find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sandboxes_and_the_gateway_share_an_id() {
        let serials = [0, 1, u64::from(SANDBOXES) - 1];
        let ids = serials.map(own_ids).into_iter().flat_map(|own| [own.agent.uid, own.init.uid]);
        let ids: Vec<u32> = ids.chain([GATEWAY.uid]).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
        assert!(ids.iter().all(|uid| i32::try_from(*uid).is_ok()), "{ids:?}");
    }

    #[test]
    fn only_root_names_another_user() {
        assert_eq!(Caller::resolve(1000, Some(0), None).unwrap_err().code, "subject");
        assert!(Caller::resolve(0, Some(0), None).unwrap().is_root());
    }

    #[test]
    fn a_relative_home_is_ignored() {
        let caller = Caller::resolve(0, None, Some(b"../x")).unwrap();
        assert!(caller.home.is_absolute());
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = vec![b"HOMER=1".to_vec(), b"HOME=/h".to_vec()];
        assert_eq!(variable(&environment, "HOME"), Some(b"/h".as_slice()));
        assert_eq!(variable(&environment, "OME"), None);
    }
}
