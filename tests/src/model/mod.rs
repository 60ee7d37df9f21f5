//! A scripted model server: the other side of a real agent, without a model.
//!
//! A [`Script`] is a list of turns; each request that offers tools uses the next one, so a session plays out the
//! same way every time. Requests without tools (titles, summaries) get a side text. What the agent sends back,
//! above all the results of its tool calls, is kept in [`Exchange`]s: tests assert on those, for an agent's exit
//! code says little.

mod answer;
mod anthropic;
mod authority;
mod body;
mod openai;
mod script;
mod server;
mod sessions;

pub use authority::{Authority, NEUTRAL};
pub use script::{Call, Exchange, Script, ToolResult, Turn};
pub use server::Server;
