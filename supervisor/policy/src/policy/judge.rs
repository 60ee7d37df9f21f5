//! Verdicts on files and connections.
//!
//! Grants first: of those that speak about the operation, the deepest path wins and a tie takes the strictest.
//! Then guards, which can only make the answer stricter. No match is deny.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{FileOp, Grant, Guard, Policy, Verdict, places};
use crate::decision::Decision;
use crate::pattern::names;
use crate::profile::{Granting, Guarding, Op};
use crate::rule::RuleRef;
use crate::tree::{depth, within};

/// Why an ask is a deny for now.
pub(crate) const NO_APPROVER: &str = "no approver";

impl Policy {
    /// Judges an operation on a path, which is absolute and free of symbolic links: the kernel's own answer.
    #[must_use]
    pub fn judge(&self, op: FileOp, path: impl AsRef<Path>) -> Verdict {
        let mut written = path.as_ref().as_os_str().as_bytes().split(|byte| *byte == b'/');
        let resolved = written.all(|name| name != b"." && name != b"..");
        if !path.as_ref().is_absolute() || !resolved {
            return Verdict {
                decision: Decision::Deny,
                rule: None,
                reason: "the path is not resolved".into(),
            };
        }
        // Whoever asks may write slashes as he likes.
        let path: PathBuf = path.as_ref().components().collect();
        let path = path.as_path();
        let names: Vec<&[u8]> = names(path.as_os_str().as_bytes()).collect();
        let granted = self.judge_grants(op, path);
        let guarding = self.guards.iter().filter_map(|guard| Some((guard.decides(op, &names)?, guard)));
        match guarding.max_by_key(|(decision, guard)| (*decision, std::cmp::Reverse(&guard.written.rule))) {
            Some((decision, guard)) if decision >= granted.decision => verdict(
                decision,
                &guard.written.rule,
                guard.written.reason.as_deref(),
                guard.written.kind.meaning(),
            ),
            _ => granted,
        }
    }

    /// The verdict of the grants alone, as if there were no guards.
    fn judge_grants(&self, op: FileOp, path: &Path) -> Verdict {
        if let Some(verdict) = places::naming_a_thread(op, path) {
            return verdict;
        }
        match self.deciding_grant(op, path) {
            Some((decision, grant)) => verdict(
                decision,
                &grant.written.rule,
                grant.written.reason.as_deref(),
                grant.written.kind.meaning(decision),
            ),
            None => {
                Verdict { decision: Decision::Deny, rule: None, reason: "no rule grants this path".into() }
            }
        }
    }

    /// The grant that decides, guards left aside, and how.
    pub(crate) fn deciding_grant(&self, op: FileOp, path: &Path) -> Option<(Decision, &Grant)> {
        let speaking = self.grants.iter().filter_map(|grant| {
            let decision = grant.decides(op)?;
            Some((grant.covers(op, path)?, decision, grant))
        });
        speaking
            .max_by_key(|(depth, decision, grant)| {
                (*depth, *decision, std::cmp::Reverse(&grant.written.rule))
            })
            .map(|(_, decision, grant)| (decision, grant))
    }
}

fn verdict(decision: Decision, rule: &RuleRef, reason: Option<&str>, meaning: &str) -> Verdict {
    let reason = match decision {
        Decision::Ask => reason.map_or(NO_APPROVER.to_owned(), |reason| format!("{NO_APPROVER}: {reason}")),
        // The reason of a grant says why it grants, which explains no denial.
        Decision::Deny if rule.key.starts_with("files") || rule.line == 0 => meaning.to_owned(),
        Decision::Allow | Decision::Deny => reason.unwrap_or(meaning).to_owned(),
    };
    Verdict { decision, rule: Some(rule.clone()), reason }
}

impl Grant {
    /// How deep the grant lies, when it covers the path. Making and removing a name is a matter of the
    /// directory that holds it, so a grant does not cover that for its own root: it is a mount point.
    fn covers(&self, op: FileOp, path: &Path) -> Option<usize> {
        let subject = match op {
            FileOp::Create | FileOp::Remove => path.parent()?,
            FileOp::Read | FileOp::Write | FileOp::Exec | FileOp::Connect => path,
        };
        let under = [&self.real, &self.path].into_iter().filter(|root| within(subject, root));
        under.map(|root| depth(root)).max()
    }

    /// What the grant says about an operation; `None` when it says nothing.
    fn decides(&self, op: FileOp) -> Option<Decision> {
        let changes = matches!(op, FileOp::Write | FileOp::Create | FileOp::Remove);
        match self.written.kind {
            Granting::Read if changes => Some(Decision::Deny),
            Granting::Read => (op == FileOp::Read).then_some(Decision::Allow),
            // What the agent may create it may connect to: its own sockets.
            Granting::Write => {
                (changes || matches!(op, FileOp::Read | FileOp::Connect)).then_some(Decision::Allow)
            }
            Granting::Exec => matches!(op, FileOp::Exec | FileOp::Read).then_some(Decision::Allow),
            Granting::Connect => (op == FileOp::Connect).then_some(Decision::Allow),
            Granting::Ask => self.written.ops.contains(&op.asked()).then_some(Decision::Ask),
        }
    }
}

impl FileOp {
    fn asked(self) -> Op {
        match self {
            Self::Read => Op::Read,
            Self::Write | Self::Create | Self::Remove => Op::Write,
            Self::Exec => Op::Exec,
            Self::Connect => Op::Connect,
        }
    }
}

impl Guard {
    fn decides(&self, op: FileOp, names: &[&[u8]]) -> Option<Decision> {
        let decision = match (self.written.kind, op.asked()) {
            (Guarding::Hide, _) => Decision::Deny,
            (Guarding::Protect, Op::Write) => Decision::Deny,
            (Guarding::AskWrite, Op::Write) => Decision::Ask,
            (Guarding::AskRead, Op::Read) => Decision::Ask,
            (Guarding::Protect | Guarding::AskWrite | Guarding::AskRead, _) => return None,
        };
        let guarded = self.pattern.matches(names) && !self.except.iter().any(|except| except.matches(names));
        guarded.then_some(decision)
    }
}

impl Granting {
    fn meaning(self, decision: Decision) -> &'static str {
        match (self, decision) {
            (_, Decision::Ask) => NO_APPROVER,
            (_, Decision::Allow) => "granted",
            (_, Decision::Deny) => "granted for reading only",
        }
    }
}

impl Guarding {
    fn meaning(self) -> &'static str {
        match self {
            Self::Hide => "hidden from the sandbox",
            Self::Protect => "protected from changes",
            Self::AskWrite | Self::AskRead => NO_APPROVER,
        }
    }
}

/// The verdict on a name and port.
pub(super) fn connect(policy: &Policy, name: &str, port: u16) -> Verdict {
    let judged = policy.egress.judge(name, port);
    // The compiled rules leave out networks, so the index counts names only.
    let mut names =
        policy.rules.egress.iter().filter(|rule| matches!(rule.to, crate::profile::Destination::Name(..)));
    let rule = judged.rule.and_then(|index| names.nth(index));
    let reason = match (judged.decision, rule.and_then(|rule| rule.reason.as_deref())) {
        (Decision::Ask, Some(reason)) => format!("{NO_APPROVER}: {reason}"),
        (_, Some(reason)) => reason.to_owned(),
        (_, None) => judged.reason.to_owned(),
    };
    Verdict { decision: judged.decision, rule: rule.map(|rule| rule.rule.clone()), reason }
}
