//! Egress rules: which names and ports a sandbox may connect to.
//!
//! A `deny` that matches decides. Otherwise the most specific match does, as with paths: a name spelled out
//! beats a wildcard and a port spelled out beats any port, so that `*:443 ask` can stand beside
//! `api.anthropic.com:443 allow`. Of equally specific matches the strictest decides; no match is deny.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::decision::Decision;

/// First of the virtual IPv4 addresses the gateway answers with, a /15 (RFC 2544: benchmarks, never routed).
pub const VIRTUAL_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// First of the virtual IPv6 addresses, a /32 of unique local ones.
pub const VIRTUAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd5c, 0xe900, 0, 0, 0, 0, 0, 0);

/// Most bytes of a host name (RFC 1035: 255 on the wire, with the length of each label and an empty one at the end).
pub const LONGEST_NAME: usize = 253;

/// The compiled egress rules of one sandbox, in the order of the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// One destination pattern with its decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Labels of the name, `*` standing for exactly one whole label, in reading order
    /// (`["*", "example", "com"]`); a lone `["*"]` is any name.
    pub labels: Vec<String>,
    /// The port, `None` for any.
    pub port: Option<u16>,
    /// What the rule decides.
    pub decision: Decision,
    /// How the rule is named in records: profile, line and text.
    pub display: String,
}

/// What the rules say about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressVerdict {
    /// The decision; callers treat [`Decision::Ask`] as deny with the reason "no approver".
    pub decision: Decision,
    /// Index of the deciding rule, `None` when none matched.
    pub rule: Option<usize>,
    /// Why.
    pub reason: &'static str,
}

impl Rules {
    /// Judges a connection to a name and port. A name that is not one is denied.
    #[must_use]
    pub fn judge(&self, name: &str, port: u16) -> EgressVerdict {
        self.judge_where(name, |rule| rule.port.is_none_or(|wanted| wanted == port))
    }

    /// Judges a question for a name: is there any port on which it may be connected to, or asked for?
    #[must_use]
    pub fn judge_name(&self, name: &str) -> EgressVerdict {
        let Some(name) = canonical_name(name) else { return NO_NAME };
        let ports =
            self.rules.iter().filter(|rule| rule.matches_name(&name)).map(|rule| rule.port.unwrap_or(0));
        let verdicts = ports.map(|port| self.judge(&name, port));
        verdicts.min_by_key(|verdict| verdict.decision).unwrap_or(NO_MATCH)
    }

    /// The ports on which some name may be connected to, or asked for; `None` for any.
    #[must_use]
    pub fn ports(&self) -> Option<BTreeSet<u16>> {
        self.rules.iter().filter(|rule| rule.decision != Decision::Deny).map(|rule| rule.port).collect()
    }

    fn judge_where(&self, name: &str, port_matches: impl Fn(&Rule) -> bool) -> EgressVerdict {
        let Some(name) = canonical_name(name) else { return NO_NAME };
        let matching =
            self.rules.iter().enumerate().filter(|(_, rule)| rule.matches_name(&name) && port_matches(rule));
        let rank = |rule: &Rule| (rule.decision == Decision::Deny, rule.specificity(), rule.decision);
        // Of equals the first in the profile is named, hence the reversed index.
        let deciding = matching.max_by_key(|(index, rule)| (rank(rule), std::cmp::Reverse(*index)));
        deciding.map_or(NO_MATCH, |(index, rule)| EgressVerdict {
            decision: rule.decision,
            rule: Some(index),
            reason: match rule.decision {
                Decision::Allow => "allowed by the rule",
                Decision::Ask => "no approver",
                Decision::Deny => "denied by the rule",
            },
        })
    }
}

const NO_MATCH: EgressVerdict =
    EgressVerdict { decision: Decision::Deny, rule: None, reason: "no rule names this destination" };
const NO_NAME: EgressVerdict =
    EgressVerdict { decision: Decision::Deny, rule: None, reason: "not a host name" };

impl Rule {
    /// `name` must be canonical.
    fn matches_name(&self, name: &str) -> bool {
        if self.labels == ["*"] {
            return true;
        }
        let mut asked = name.split('.');
        let all =
            self.labels.iter().all(|label| asked.next().is_some_and(|part| label == "*" || label == part));
        all && asked.next().is_none()
    }

    /// Labels spelled out, then whether the port is.
    fn specificity(&self) -> (bool, usize, bool) {
        let any = self.labels == ["*"];
        let literal = self.labels.iter().filter(|label| *label != "*").count();
        (!any && literal == self.labels.len(), literal, self.port.is_some())
    }
}

/// Lower case, without the trailing dot; `None` when it is no host name.
#[must_use]
pub fn canonical_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(good);
    (name.len() <= LONGEST_NAME && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(list: &[(&str, Option<u16>, Decision)]) -> Rules {
        let rule = |(name, port, decision): &(&str, Option<u16>, Decision)| Rule {
            labels: name.split('.').map(str::to_owned).collect(),
            port: *port,
            decision: *decision,
            display: (*name).to_owned(),
        };
        Rules { rules: list.iter().map(rule).collect() }
    }

    #[test]
    fn no_rule_is_deny() {
        assert_eq!(Rules::default().judge("example.com", 443).decision, Decision::Deny);
        assert_eq!(Rules::default().judge_name("example.com").decision, Decision::Deny);
    }

    #[test]
    fn names_are_compared_in_canonical_form_and_whole() {
        let rules = rules(&[("api.example.com", Some(443), Decision::Allow)]);
        assert_eq!(rules.judge("API.Example.COM.", 443).decision, Decision::Allow);
        for (name, port) in [
            ("api.example.com", 80),
            ("evil-api.example.com", 443),
            ("api.example.com.evil.tld", 443),
            ("example.com", 443),
            ("api.example.com..", 443),
            ("api example.com", 443),
            ("", 443),
        ] {
            assert_eq!(rules.judge(name, port).decision, Decision::Deny, "{name}:{port}");
        }
    }

    #[test]
    fn a_star_is_one_label_and_alone_any_name() {
        let one = rules(&[("*.example.com", None, Decision::Allow)]);
        assert_eq!(one.judge("a.example.com", 1).decision, Decision::Allow);
        assert_eq!(one.judge("a.b.example.com", 1).decision, Decision::Deny);
        assert_eq!(one.judge("example.com", 1).decision, Decision::Deny);
        assert_eq!(rules(&[("*", None, Decision::Allow)]).judge("a.b.c", 1).decision, Decision::Allow);
    }

    #[test]
    fn a_named_destination_passes_beside_a_question_for_all_others() {
        let rules =
            rules(&[("api.example.com", Some(443), Decision::Allow), ("*", Some(443), Decision::Ask)]);
        assert_eq!(rules.judge("api.example.com", 443).decision, Decision::Allow);
        assert_eq!(rules.judge("other.example.com", 443).decision, Decision::Ask);
        assert_eq!(rules.judge("other.example.com", 443).reason, "no approver");
        assert_eq!(rules.judge_name("other.example.com").decision, Decision::Ask);
    }

    #[test]
    fn a_deny_is_never_opened_by_something_more_specific() {
        let rules =
            rules(&[("*.example.com", None, Decision::Deny), ("a.example.com", Some(443), Decision::Allow)]);
        assert_eq!(rules.judge("a.example.com", 443).decision, Decision::Deny);
        assert_eq!(rules.judge_name("a.example.com").decision, Decision::Deny);
    }

    #[test]
    fn the_ports_of_all_rules_but_denials_are_open() {
        let named = [("a", Some(443), Decision::Allow), ("b", Some(22), Decision::Ask)];
        assert_eq!(rules(&named).ports(), Some(BTreeSet::from([22, 443])));
        let denied =
            [("a", Some(443), Decision::Allow), ("b", Some(22), Decision::Deny), ("c", None, Decision::Deny)];
        assert_eq!(rules(&denied).ports(), Some(BTreeSet::from([443])));
        assert_eq!(rules(&[("a", Some(443), Decision::Allow), ("b", None, Decision::Ask)]).ports(), None);
        assert_eq!(rules(&[]).ports(), Some(BTreeSet::new()));
    }

    #[test]
    fn a_name_is_answered_if_one_of_its_ports_is_allowed() {
        let rules = rules(&[
            ("a.example.com", Some(22), Decision::Deny),
            ("a.example.com", Some(443), Decision::Allow),
        ]);
        assert_eq!(rules.judge_name("a.example.com").decision, Decision::Allow);
    }
}
