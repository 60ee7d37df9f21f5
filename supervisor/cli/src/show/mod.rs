//! What `skep` shows. Everything here takes plain data and writes text; nothing asks the system but
//! [`audit::follow`], which reads a log.
//!
//! Whatever somebody else chose (a path, an argument, a host name, the text of a profile) passes through
//! [`render`] on its way to a terminal.

pub mod audit;
pub mod doctor;
pub mod entry;
pub mod profile;
pub mod render;
pub mod sandboxes;
pub mod summary;
pub mod weaker;
