//! What skepd does: one thread per connection, one task per sandbox, events, audit, the client protocol.
#![forbid(unsafe_code)]

pub mod absence;
pub mod audit;
pub mod caller;
pub mod client;
pub mod distinct;
pub mod events;
pub mod gateway;
pub mod helper;
mod hex;
pub mod host;
pub mod inquiry;
pub mod observe;
pub mod places;
pub mod prepare;
pub mod profiles;
pub mod protocol;
pub mod record;
pub mod registry;
pub mod reserve;
pub mod scans;
pub mod server;
pub mod supervisor;
pub mod task;
pub mod template;
pub mod turns;
pub mod view;
