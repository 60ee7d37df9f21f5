//! Rules that hold less than they say, and rules that nothing enforces.

use serde_json::{Value, json};
use skep_policy::layers::{Binding, Consent, Refusal};

use super::render::foreign;

/// The weaker rules, under each reason those it is true of; empty where there are none.
#[must_use]
pub fn grouped(binding: &Binding) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (rule, weaker) in binding.weaker() {
        let accepted = if weaker.consent == Consent::Accepted { " (accepted by the caller)" } else { "" };
        let why = format!("{}; what remains: {}", foreign(&weaker.why), foreign(&weaker.remains));
        let rule = foreign(&rule.to_string()) + accepted;
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, rules)) => rules.push(rule),
            None => groups.push((why, vec![rule])),
        }
    }
    let lines = |rules: &[String]| rules.iter().map(|rule| format!("      {rule}\n")).collect::<String>();
    groups.iter().map(|(why, rules)| format!("  {why}\n{}", lines(rules))).collect()
}

/// The weaker rules of a binding as JSON.
#[must_use]
pub fn weaker_json(binding: &Binding) -> Vec<Value> {
    let consent = |consent| match consent {
        Consent::BestEffort => "best_effort",
        Consent::Accepted => "accepted",
    };
    let weaker = binding.weaker().map(|(rule, weaker)| {
        json!({
            "rule": foreign(&rule.to_string()),
            "why": foreign(&weaker.why),
            "remains": foreign(&weaker.remains),
            "consent": consent(weaker.consent),
        })
    });
    weaker.collect()
}

/// The rules of a refusal as JSON.
#[must_use]
pub fn refused_json(refusal: &Refusal) -> Vec<Value> {
    let refused = refusal.rules.iter().map(|unenforced| {
        json!({
            "rule": foreign(&unenforced.rule.to_string()),
            "why": foreign(&unenforced.why),
            "remains": foreign(&unenforced.remains),
            "do": foreign(&unenforced.remedy),
        })
    });
    refused.collect()
}

#[cfg(test)]
mod tests {
    use skep_policy::layers::{Bound, Weaker};
    use skep_policy::rule::RuleRef;

    use super::*;

    #[test]
    fn rules_stand_under_the_reason_they_share() {
        let bound = |text: &str, why: &str, consent| {
            let rule =
                RuleRef { profile: "p".into(), line: 3, column: 1, key: "k".into(), text: text.into() };
            let weaker = Weaker { why: why.into(), remains: "nothing".into(), consent };
            Bound { rule, layers: Vec::new(), weaker: Some(weaker) }
        };
        let rules = vec![
            bound("a", "no judge", Consent::BestEffort),
            bound("b", "no cgroup\x1b[2J", Consent::Accepted),
            bound("c", "no judge", Consent::BestEffort),
        ];
        let binding = Binding { rules, ..Binding::default() };
        let expected = "  no judge; what remains: nothing\n      p:3 k \"a\"\n      p:3 k \"c\"\n  \
                        no cgroup\\u{1b}[2J; what remains: nothing\n      p:3 k \"b\" (accepted by the caller)\n";
        assert_eq!(grouped(&binding), expected);
        assert_eq!(weaker_json(&binding).len(), 3);
    }
}
