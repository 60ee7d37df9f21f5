//! The grammar as the design wrote it down.

use skep_policy::compose::{Library, compose};
use skep_policy::diagnostics::Source;
use skep_policy::policy::{Bindings, Policy};
use skep_policy::profile::Profile;
use skep_policy::tree::Imagined;

/// A library in which every profile is empty.
struct Empty;

impl Library for Empty {
    fn find(&self, name: &str) -> Option<Source> {
        Some(Source::new(name, format!("schema = 1\nname = \"{name}\"\n")))
    }
}

#[test]
fn the_profile_of_the_design_is_read_whole_and_its_examples_hold() {
    let source = Source::new("design.toml", include_str!("design.toml"));
    let profile = Profile::parse(&source).unwrap_or_else(|errors| panic!("{errors}"));
    let effective = compose(&profile, &Empty).unwrap_or_else(|errors| panic!("{errors}"));
    let policy = Policy::compile_checked(&effective, &Bindings::for_tests(), &Imagined);
    policy.unwrap_or_else(|errors| panic!("{errors}"));
}
