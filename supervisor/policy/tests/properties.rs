//! What holds for every profile, tried on many.
#![expect(
    clippy::panic,
    reason = "a helper of tests fails by panicking, with the errors as people read them"
)]

use std::sync::Arc;

use proptest::prelude::*;
use skep_policy::compose::{Effective, compose};
use skep_policy::decision::Decision;
use skep_policy::diagnostics::Source;
use skep_policy::layers::{Host, bind};
use skep_policy::policy::{Bindings, FileOp, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::{PROFILES, Shipped};
use skep_policy::tree::Imagined;

const OPS: [FileOp; 6] =
    [FileOp::Read, FileOp::Write, FileOp::Create, FileOp::Remove, FileOp::Exec, FileOp::Connect];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", ".git", "hooks"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..5).prop_map(|names| format!("/{}", names.join("/")))
}

fn grant() -> impl Strategy<Value = (String, String)> {
    let kinds = prop::sample::select(vec!["read", "write", "ask", "exec", "connect"]);
    (kinds.prop_map(str::to_owned), path())
}

fn guard() -> impl Strategy<Value = (String, String)> {
    let kinds = prop::sample::select(vec!["hide", "protect", "ask_write", "ask_read"]);
    let star = prop::sample::select(vec!["", "**", "a*", "*s"]);
    let pattern = (star, path(), any::<bool>()).prop_map(|(star, path, after)| match (star, after) {
        ("", _) => path,
        ("**", true) => format!("{path}/**"),
        ("**", false) => format!("**{path}"),
        (star, _) => format!("{path}/{star}"),
    });
    (kinds.prop_map(str::to_owned), pattern)
}

/// One mixin for each rule, so that the order of rules is the order of mixins.
fn policy(grants: &[(String, String)], guards: &[(String, String)]) -> Policy {
    let mut text = String::from("schema = 1\nname = \"p\"\n");
    let effective = |text: &str| -> Effective {
        let profile =
            Profile::parse(&Source::new("p", text)).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        compose(&profile, &Shipped).expect("nothing is used")
    };
    let mut whole = effective(&text);
    for (table, list) in [("files", grants), ("guards", guards)] {
        for (kind, path) in list {
            text = format!("schema = 1\nname = \"p\"\n[{table}]\n{kind} = [\"{path}\"]\n");
            let one = effective(&text).rules;
            let rules = Arc::make_mut(&mut whole.rules);
            rules.grants.extend(one.grants.iter().cloned());
            rules.guards.extend(one.guards.iter().cloned());
        }
    }
    Policy::compile(&whole, &Bindings::for_tests(), &Imagined).unwrap_or_else(|errors| panic!("{errors}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_order_of_rules_never_matters(
        grants in prop::collection::vec(grant(), 0..6),
        guards in prop::collection::vec(guard(), 0..4),
        asked in path(),
        turn in 0usize..6,
    ) {
        let (mut other_grants, mut other_guards) = (grants.clone(), guards.clone());
        other_grants.reverse();
        other_guards.reverse();
        if !other_grants.is_empty() {
            let turn = turn % other_grants.len();
            other_grants.rotate_left(turn);
        }
        let (one, other) = (policy(&grants, &guards), policy(&other_grants, &other_guards));
        for op in OPS {
            prop_assert_eq!(one.judge(op, &asked).decision, other.judge(op, &asked).decision);
        }
    }

    #[test]
    fn adding_a_guard_never_opens_anything(
        grants in prop::collection::vec(grant(), 0..6),
        guards in prop::collection::vec(guard(), 0..4),
        more in guard(),
        asked in path(),
    ) {
        let before = policy(&grants, &guards);
        let mut guards = guards;
        guards.push(more);
        let after = policy(&grants, &guards);
        for op in OPS {
            prop_assert!(after.judge(op, &asked).decision >= before.judge(op, &asked).decision);
        }
    }

    #[test]
    fn without_a_grant_above_it_nothing_is_allowed(
        grants in prop::collection::vec(grant(), 0..6),
        guards in prop::collection::vec(guard(), 0..4),
        asked in path(),
    ) {
        let covered = grants.iter().any(|(_, path)| {
            asked == *path || asked.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        prop_assume!(!covered);
        for op in OPS {
            prop_assert_eq!(policy(&grants, &guards).judge(op, &asked).decision, Decision::Deny);
        }
    }

    #[test]
    fn unresolved_paths_are_denied(grants in prop::collection::vec(grant(), 0..6), asked in path()) {
        let policy = policy(&grants, &[]);
        for odd in [format!("{asked}/../x"), format!("/./{asked}"), asked[1..].to_owned()] {
            prop_assert_eq!(policy.judge(FileOp::Read, &odd).decision, Decision::Deny);
        }
    }

    #[test]
    fn a_path_of_any_bytes_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let path: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
        let policy = policy(&[("write".into(), "/a".into())], &[("hide".into(), "**/a*".into())]);
        for op in OPS {
            let verdict = policy.judge(op, &path);
            prop_assert!(!verdict.reason.is_empty());
        }
    }
}

/// Whole way of a profile: nothing may panic, whatever it says.
fn survive(text: &str) {
    let Ok(profile) = Profile::parse(&Source::new("mutated", text)) else { return };
    let Ok(effective) = compose(&profile, &Shipped) else { return };
    let Ok(policy) = Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined) else { return };
    let _refused = bind(&policy, &Host::default(), &Imagined, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn mutated_profiles_never_panic(
        which in 0usize..PROFILES.len() + 1,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..5, any::<char>()), 1..6),
    ) {
        let text = PROFILES.get(which).map_or(include_str!("design.toml"), |(_, text)| text);
        let mut characters: Vec<char> = text.chars().collect();
        for (at, other, what, character) in edits {
            let (at, other) = (at.index(characters.len()), other.index(characters.len()));
            match what {
                0 => characters[at] = character,
                1 => characters.insert(at, character),
                2 => { characters.remove(at); }
                3 => characters.swap(at, other),
                _ => {
                    let piece: Vec<char> = characters[other..].iter().take(12).copied().collect();
                    characters.splice(at..at, piece);
                }
            }
        }
        survive(&characters.into_iter().collect::<String>());
    }
}
