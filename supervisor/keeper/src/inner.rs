//! What keeper, PID 1 and agent tell each other. Both ends are of one build, so these may change freely.

use serde::{Deserialize, Serialize};
use skep_policy::launch::Ending;

use crate::failure::Failure;

/// From the keeper to PID 1, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Build the sandbox and start the agent. Descriptors: the sealed plan, then the template's mount namespace if
    /// `template` says so.
    Build {
        /// A template is passed.
        template: bool,
    },
    /// Descriptors: the sandbox's devpts; standard input, output and error of the agent.
    Streams,
    /// The next detached mounts of [`crate::sources`], as many as fit into one message.
    Sources {
        /// There are no more.
        last: bool,
    },
}

/// From PID 1 to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// PID 1 waits for its orders. Descriptor: the mount namespace it waits in, which outlives that wait by this
    /// descriptor: to take a namespace apart takes longer than to enter the next.
    Settled,
    /// The launch failed here; PID 1 exits.
    Failed(Failure),
    /// The agent ended; PID 1 exits, and everything in its namespace with it.
    Exited(Ending),
}

/// From the agent, before it is one. The end of its socket is the success of its `execve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The next thing is `execve`. Descriptor: its pidfd.
    Ready,
    /// The launch failed here.
    Failed(Failure),
    /// The gate was closed: PID 1 gave up, and says why itself.
    GivenUp,
}
