//! How paths travel: `#[serde(with = "skep_policy::path")]`. They are bytes to the kernel and to our messages; serde's
//! own form is text, and refuses a path that is not UTF-8. People are shown such a path escaped.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::Serializer;

use crate::escape::escape;

/// Writes a path.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = path.as_os_str().as_bytes();
    match path.to_str() {
        _ if !serializer.is_human_readable() => serializer.serialize_bytes(bytes),
        Some(text) => serializer.serialize_str(text),
        None => serializer.serialize_str(&escape(bytes)),
    }
}

/// Reads what [`serialize`] wrote in a format of bytes; of text, what was UTF-8.
///
/// # Errors
/// Those of the format.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = PathBuf;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("the bytes of a path")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<PathBuf, E> {
            Ok(OsString::from_vec(bytes.to_vec()).into())
        }
    }
    if deserializer.is_human_readable() {
        return String::deserialize(deserializer).map(PathBuf::from);
    }
    deserializer.deserialize_bytes(Bytes)
}
