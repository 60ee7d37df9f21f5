//! The three answers, in the words used everywhere: profile, API, log, documentation.

use serde::{Deserialize, Serialize};

/// What a rule decides. Ordered by strictness: the strictest of several answers is their maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It happens.
    Allow,
    /// A person decides; until approvals exist this denies with the reason "no approver".
    Ask,
    /// It does not happen. No match is `Deny`.
    Deny,
}
