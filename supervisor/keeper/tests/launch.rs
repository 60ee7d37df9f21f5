//! Launches as root: from a hand-made plan to the end of the sandbox.

mod support;

use skep_policy::launch::Ending;
use support::{launch, plan, said, shell};

#[test]
fn as_root_true_is_launched_and_leaves_nothing() {
    let outcome = launch(plan(&["true"]), None).finish();
    assert_eq!(outcome.ending, Ending::Code(0));
    assert!(outcome.status.success());
}

#[test]
fn as_root_the_exit_code_of_the_agent_is_told() {
    assert_eq!(launch(shell("exit 42"), None).finish().ending, Ending::Code(42));
}

#[test]
fn as_root_the_signal_the_agent_died_of_is_told() {
    assert_eq!(launch(shell("kill -TERM $$"), None).finish().ending, Ending::Signal(15));
}

#[test]
fn as_root_the_agent_has_the_ids_of_the_plan_and_one_group() {
    assert_eq!(said("id -u; id -g; id -G"), "4242\n4243\n4243\n");
}
