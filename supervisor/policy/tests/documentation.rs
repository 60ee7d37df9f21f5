//! The reference says what the code does: its examples load, and its table has every key.

use skep_policy::compose::compose;
use skep_policy::diagnostics::Source;
use skep_policy::policy::{Bindings, Policy};
use skep_policy::profile::Profile;
use skep_policy::shipped::{PROFILES, Shipped};
use skep_policy::tree::Imagined;

const REFERENCE: &str = include_str!("../../../docs/profiles.md");

#[test]
fn every_profile_of_the_reference_loads_and_its_examples_hold() {
    let blocks: Vec<&str> =
        REFERENCE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let source = Source::new("docs/profiles.md", block);
        let composed = Profile::parse(&source).and_then(|profile| compose(&profile, &Shipped));
        let compiled = composed
            .and_then(|effective| Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined));
        assert!(compiled.is_ok(), "{}", compiled.expect_err("not ok"));
    }
}

#[test]
fn the_reference_names_every_key_and_every_shipped_profile() {
    // The parser lists what it accepts: asked with a key it does not know.
    let asked = "schema = 1\nname = \"x\"\nz = 1\n[limits]\nz = 1\n[files]\nz = 1\n[guards]\nz = 1\n[environment]\nz = 1\n";
    let errors = Profile::parse(&Source::new("x", asked)).expect_err("z is unknown");
    let mut keys = 0;
    for message in errors.errors.iter().map(|error| error.message.as_str()) {
        let accepted = message.split("accepted: ").nth(1).expect("the accepted keys");
        for key in accepted.split(", ") {
            assert!(REFERENCE.contains(key), "{key} is not in docs/profiles.md");
            keys += 1;
        }
    }
    assert!(keys > 25, "{keys}");
    for (name, _) in PROFILES {
        assert!(REFERENCE.contains(&format!("| `{name}` |")), "{name} is not in docs/profiles.md");
    }
}
