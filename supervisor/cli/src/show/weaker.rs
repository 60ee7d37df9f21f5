//! Rules that hold less than they say, and rules that nothing enforces.

use serde_json::{Value, json};
use skep_policy::layers::{Binding, Consent, Refusal};

use super::render::foreign;

/// The weaker rules of a binding, under each reason those it is true of; empty where there are none.
#[must_use]
pub fn grouped(binding: &Binding) -> String {
    let rules = binding.weaker().map(|(rule, weaker)| {
        let accepted = if weaker.consent == Consent::Accepted { " (accepted by the caller)" } else { "" };
        (rule.to_string() + accepted, format!("{}; what remains: {}", weaker.why, weaker.remains))
    });
    by_reason(&rules.collect::<Vec<_>>())
}

/// Rules, each with why it is weaker, under the reasons they share.
#[must_use]
pub fn by_reason(rules: &[(String, String)]) -> String {
    written(rules, usize::MAX)
}

/// The same where nobody has asked for it: of a reason that many rules share only their number is told.
#[must_use]
pub fn in_short(rules: &[(String, String)]) -> String {
    written(rules, FEW)
}

/// Rules of one reason that are always named.
const FEW: usize = 2;

fn written(rules: &[(String, String)], named: usize) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (rule, why) in rules {
        // Where an object is not there yet, the reason begins with its path; the rest of it is shared.
        let why = match why.find(MISSING) {
            Some(at) => format!("what it names{}", &why[at..]),
            None => why.clone(),
        };
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, rules)) => rules.push(rule),
            None => groups.push((why, vec![rule])),
        }
    }
    let lines = |rules: &[&str]| match rules.len() > named {
        true => format!("      {} rules: `skep profile check` names them\n", rules.len()),
        false => rules.iter().map(|rule| format!("      {}\n", foreign(rule))).collect(),
    };
    groups.iter().map(|(why, rules)| format!("  {}\n{}", foreign(why), lines(rules))).collect()
}

/// How many rules there are, with the verb.
#[must_use]
pub fn count(rules: usize) -> String {
    if rules == 1 { "1 rule is".to_owned() } else { format!("{rules} rules are") }
}

const MISSING: &str = " does not exist yet";

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
            bound("d", "/w/d does not exist yet", Consent::BestEffort),
            bound("e", "/w/e does not exist yet", Consent::BestEffort),
        ];
        let binding = Binding { rules, ..Binding::default() };
        let expected = "  no judge; what remains: nothing\n      p:3 k \"a\"\n      p:3 k \"c\"\n  \
                        no cgroup\\u{1b}[2J; what remains: nothing\n      p:3 k \"b\" (accepted by the caller)\n  what it names does not exist yet; \
                        what remains: nothing\n      p:3 k \"d\"\n      p:3 k \"e\"\n";
        assert_eq!(grouped(&binding), expected);
        assert_eq!(weaker_json(&binding).len(), 5);
    }

    #[test]
    fn a_start_counts_what_many_rules_share() {
        let rule = |name: &str, why: &str| (format!("p:3 k \"{name}\""), why.to_owned());
        let rules = ["a", "b", "c"].map(|name| rule(name, "no judge"));
        let all = [&rules[..], &[rule("d", "no cgroup")]].concat();
        let expected =
            "  no judge\n      3 rules: `skep profile check` names them\n  no cgroup\n      p:3 k \"d\"\n";
        assert_eq!(in_short(&all), expected);
        assert_eq!(in_short(&rules[..2]), by_reason(&rules[..2]));
    }
}
