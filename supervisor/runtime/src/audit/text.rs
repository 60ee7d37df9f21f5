//! Bytes chosen by others, in a record.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_policy::escape::{escape, is_plain_text};

/// Bytes that come from the agent, a file name, the network or a person: a path, an argument, a name.
///
/// In a record it is a plain JSON string where the bytes are UTF-8 without control, bidirectional or invisible
/// characters, else `{"bytes":"<base64>","text":"<escaped>"}`: every byte survives, `text` is for people, and
/// no raw control character is ever in the log. A text of which only the beginning was captured carries the
/// length of the whole as `of`, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text {
    bytes: Vec<u8>,
    /// Length of the whole where `bytes` is only its beginning.
    of: Option<u64>,
}

impl Text {
    /// The beginning of a text of `of` bytes.
    #[must_use]
    pub fn beginning(bytes: impl Into<Vec<u8>>, of: u64) -> Self {
        let bytes = bytes.into();
        let of = Some(of).filter(|&of| of > bytes.len() as u64);
        Self { bytes, of }
    }

    /// The bytes themselves: never print them, see [`Text::shown`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of the whole where only the beginning is here.
    #[must_use]
    pub fn cut_from(&self) -> Option<u64> {
        self.of
    }

    /// One line of visible characters, with a mark where it was cut.
    #[must_use]
    pub fn shown(&self) -> String {
        let shown = escape(&self.bytes).into_owned();
        match self.of {
            Some(of) => format!("{shown}… ({of} bytes)"),
            None => shown,
        }
    }

    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Keeps the first `limit` bytes and marks the cut.
    pub(super) fn shorten(&mut self, limit: usize) {
        if self.bytes.len() > limit {
            self.of.get_or_insert(self.bytes.len() as u64);
            self.bytes.truncate(limit);
        }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plain = is_plain_text(&self.bytes);
        if plain && self.of.is_none() {
            // `plain` proves that these bytes are UTF-8: nothing is replaced here.
            return serializer.serialize_str(&String::from_utf8_lossy(&self.bytes));
        }
        let mut map = serializer.serialize_map(None)?;
        if !plain {
            map.serialize_entry("bytes", &STANDARD.encode(&self.bytes))?;
            map.serialize_entry("text", &escape(&self.bytes))?;
        } else {
            map.serialize_entry("text", &String::from_utf8_lossy(&self.bytes))?;
        }
        if let Some(of) = self.of {
            map.serialize_entry("of", &of)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Plain(String),
    Map {
        #[serde(default)]
        bytes: Option<String>,
        text: String,
        #[serde(default)]
        of: Option<u64>,
    },
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Plain(text) => Self { bytes: text.into_bytes(), of: None },
            Wire::Map { bytes: Some(bytes), of, .. } => {
                Self { bytes: STANDARD.decode(bytes).map_err(D::Error::custom)?, of }
            }
            Wire::Map { bytes: None, text, of } => Self { bytes: text.into_bytes(), of },
        })
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, of: None }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        text.as_bytes().into()
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        path.as_os_str().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &Text) -> String {
        serde_json::to_string(text).unwrap()
    }

    #[test]
    fn plain_text_is_a_string_and_the_rest_keeps_its_bytes() {
        assert_eq!(json(&"/home/ä \"q\"".into()), r#""/home/ä \"q\"""#);
        assert_eq!(json(&"a\n\x1b[2J".into()), r#"{"bytes":"YQobWzJK","text":"a\\n\\u{1b}[2J"}"#);
        assert_eq!(json(&b"\xff"[..].into()), r#"{"bytes":"/w==","text":"\\xff"}"#);
        assert_eq!(json(&Text::beginning("abc", 9)), r#"{"text":"abc","of":9}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip_without_a_raw_control_byte(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), more in 0u64..3,
        ) {
            let text = Text::beginning(bytes.clone(), bytes.len() as u64 + more);
            let json = json(&text);
            prop_assert!(json.bytes().all(|b| b >= b' ' && b != 0x7f));
            prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
        }

        #[test]
        fn any_string_survives_and_only_plain_characters_are_written(string in any::<String>()) {
            let json = json(&Text::from(string.clone()));
            prop_assert!(json.chars().all(skep_policy::escape::is_plain));
            let back: Text = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.as_bytes(), string.as_bytes());
        }
    }
}
