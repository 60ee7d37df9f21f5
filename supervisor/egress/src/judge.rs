//! Verdicts as the gateway acts on them and reports them.

use skep_policy::decision::Decision;
use skep_policy::egress::{EgressVerdict, Rules};

use crate::name::HostName;

/// What was decided, by which rule, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// The decision: what asks is denied, with the words "no approver", until there are approvals.
    pub decision: Decision,
    /// Index of the deciding rule.
    pub rule: Option<u32>,
    /// Fixed words for the record.
    pub reason: &'static str,
}

impl Verdict {
    /// A denial that no rule of the profile made.
    #[must_use]
    pub const fn denied(reason: &'static str) -> Self {
        Self { decision: Decision::Deny, rule: None, reason }
    }

    /// Whether it happens.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.decision == Decision::Allow
    }
}

impl From<EgressVerdict> for Verdict {
    fn from(verdict: EgressVerdict) -> Self {
        let decision = if verdict.decision == Decision::Allow { Decision::Allow } else { Decision::Deny };
        let rule = verdict.rule.and_then(|index| u32::try_from(index).ok());
        Self { decision, rule, reason: verdict.reason }
    }
}

/// Judges a connection to a port of a name.
#[must_use]
pub fn connection(rules: &Rules, name: &HostName, port: u16) -> Verdict {
    rules.judge(name.as_str(), port).into()
}

/// Judges whether a name may be known at all: whether some port of it is allowed.
#[must_use]
pub fn name(rules: &Rules, name: &HostName) -> Verdict {
    rules.judge_name(name.as_str()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_allow_allows() {
        for decision in [Decision::Allow, Decision::Ask, Decision::Deny] {
            let verdict = Verdict::from(EgressVerdict { decision, rule: Some(3), reason: "why" });
            assert_eq!(verdict.allows(), decision == Decision::Allow);
            assert_eq!((verdict.rule, verdict.reason), (Some(3), "why"));
        }
    }
}
