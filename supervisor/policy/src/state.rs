//! The life of a sandbox, as a function from state and event to state and actions.
//!
//! ```text
//!             Prepared            Started
//! Preparing ───────────▶ Ready ───────────▶ Running
//!   │  │                  │  │                │  │
//!   │  └ Failed ──────────┼──┴─ Failed        │  └ Exited ─┐
//!   └─ Stop ──────────────┴─── Stop ──────────┘            ▼
//!                 ▼                 Stop                 Ending ── Gone ──▶ Ended | Failed
//!              Ending  ◀────────────────────────────────────┘
//! ```
//!
//! A keeper that is lost takes its sandbox with it, so `Lost` ends every state that is not over. Nothing leaves
//! [`State::Ended`] and [`State::Failed`]. The data of a state lives in its variant.

use serde::{Deserialize, Serialize};

use crate::launch::{Ending, Stage};

/// Where a sandbox is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The keeper builds it.
    Preparing,
    /// Only the agent is missing; the gateway and the judges are being told.
    Ready,
    /// The agent runs.
    Running {
        /// Its pid on the host.
        pid: u32,
    },
    /// It is being ended, or its last processes are.
    Ending {
        /// What will be reported.
        outcome: Outcome,
    },
    /// Nothing is left of it.
    Ended {
        /// How the agent ended.
        ending: Ending,
    },
    /// Nothing is left of it, and the agent did not end by itself.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// What will be reported of a sandbox that ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The agent ended.
    Ended(Ending),
    /// It did not, or not by itself.
    Failed(Failure),
}

/// Why an agent did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// A step of the launch.
    Launch {
        /// Which.
        stage: Stage,
        /// The object of the step.
        object: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// Something outside the sandbox, such as the gateway or the audit, was not there.
    Outside(String),
    /// Somebody, or a time limit, stopped it.
    Stopped(String),
    /// The keeper disappeared.
    KeeperLost,
}

/// What happens to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The keeper has everything but the agent.
    Prepared,
    /// The agent's program has been executed.
    Started(u32),
    /// The launch failed.
    Failed(Failure),
    /// The agent ended.
    Exited(Ending),
    /// Somebody wants it to end, and why.
    Stop(String),
    /// Its processes and namespaces are gone.
    Gone,
    /// The keeper's socket closed.
    Lost,
}

/// What the supervisor does about it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Write the record of the launch, attach the gateway, then tell the keeper to go.
    Go,
    /// Tell the keeper to end the sandbox.
    Kill,
    /// Write how it ended and answer whoever waits.
    Report(Outcome),
    /// Take the sandbox out of the gateway, the judges and the cgroup tree.
    Release,
}

impl State {
    /// Whether nothing can happen any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Failed { .. })
    }

    /// The next state, and what to do. An event that makes no sense in a state changes nothing: it comes from
    /// another process and may come late or twice.
    #[must_use]
    pub fn next(self, event: Event) -> (Self, Vec<Action>) {
        match (self, event) {
            (state @ (Self::Ended { .. } | Self::Failed { .. }), _) => (state, Vec::new()),
            (Self::Preparing, Event::Prepared) => (Self::Ready, vec![Action::Go]),
            (Self::Ready, Event::Started(pid)) => (Self::Running { pid }, Vec::new()),
            (Self::Preparing | Self::Ready, Event::Failed(failure)) => {
                ending(Outcome::Failed(failure), false)
            }
            // The agent may have ended before its start was told.
            (Self::Ready | Self::Running { .. }, Event::Exited(how)) => ending(Outcome::Ended(how), false),
            (Self::Preparing | Self::Ready | Self::Running { .. }, Event::Stop(why)) => {
                ending(Outcome::Failed(Failure::Stopped(why)), true)
            }
            (Self::Ending { outcome }, Event::Gone | Event::Lost) => over(outcome),
            (_, Event::Gone | Event::Lost) => over(Outcome::Failed(Failure::KeeperLost)),
            (state, _) => (state, Vec::new()),
        }
    }
}

fn ending(outcome: Outcome, kill: bool) -> (State, Vec<Action>) {
    let actions = if kill { vec![Action::Kill] } else { Vec::new() };
    (State::Ending { outcome }, actions)
}

fn over(outcome: Outcome) -> (State, Vec<Action>) {
    let actions = vec![Action::Release, Action::Report(outcome.clone())];
    let state = match outcome {
        Outcome::Ended(ending) => State::Ended { ending },
        Outcome::Failed(failure) => State::Failed { failure },
    };
    (state, actions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(events: &[Event]) -> (State, Vec<Action>) {
        let mut done = Vec::new();
        let state = events.iter().fold(State::Preparing, |state, event| {
            let (state, actions) = state.next(event.clone());
            done.extend(actions);
            state
        });
        (state, done)
    }

    #[test]
    fn a_usual_run_goes_once_and_is_reported_when_nothing_is_left() {
        let ending = Ending::Code(0);
        let (state, actions) = run(&[Event::Prepared, Event::Started(7), Event::Exited(ending), Event::Gone]);
        assert_eq!(state, State::Ended { ending });
        assert_eq!(actions, [Action::Go, Action::Release, Action::Report(Outcome::Ended(ending))]);
    }

    #[test]
    fn a_stop_kills_and_is_reported_as_such_even_if_the_agent_exits_meanwhile() {
        let events =
            [Event::Prepared, Event::Stop("asked".into()), Event::Exited(Ending::Signal(9)), Event::Gone];
        let (state, actions) = run(&events);
        assert_eq!(state, State::Failed { failure: Failure::Stopped("asked".into()) });
        assert_eq!(actions.iter().filter(|action| **action == Action::Kill).count(), 1);
    }

    #[test]
    fn a_lost_keeper_ends_every_sandbox() {
        for events in [vec![], vec![Event::Prepared], vec![Event::Prepared, Event::Started(1)]] {
            let (state, _) = run(&[events, vec![Event::Lost]].concat());
            assert_eq!(state, State::Failed { failure: Failure::KeeperLost });
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Prepared),
            any::<u32>().prop_map(Event::Started),
            Just(Event::Failed(Failure::Outside("gateway".into()))),
            any::<u8>().prop_map(|code| Event::Exited(Ending::Code(code))),
            Just(Event::Stop("asked".into())),
            Just(Event::Gone),
            Just(Event::Lost),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_it_goes_at_most_once_and_is_reported_exactly_when_over(
            events in prop::collection::vec(event(), 0..20),
        ) {
            let (state, actions) = run(&events);
            let count = |wanted: fn(&Action) -> bool| actions.iter().filter(|action| wanted(action)).count();
            prop_assert!(count(|action| *action == Action::Go) <= 1);
            prop_assert!(count(|action| *action == Action::Kill) <= 1);
            let over = usize::from(state.is_over());
            prop_assert_eq!(count(|action| matches!(action, Action::Report(_))), over);
            prop_assert_eq!(count(|action| *action == Action::Release), over);
            // Nothing starts after the end began.
            let end = actions.iter().position(|action| *action != Action::Go).unwrap_or(actions.len());
            prop_assert!(!actions[end..].contains(&Action::Go));
        }
    }
}
