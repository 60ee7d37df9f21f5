//! Canonical names: what is judged, resolved and recorded is one spelling.

use std::fmt;

use hickory_proto::rr::Name;
use skep_policy::egress::LONGEST_NAME;

/// A host name: lower-case letters, digits, hyphens and underscores in labels of 1 to 63 bytes, at most
/// [`LONGEST_NAME`] in all, no trailing dot, and nothing a client could take for an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

/// Why a name is nothing a connection could be made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The root, or an empty label.
    #[error("the name is empty")]
    Empty,
    /// More than [`LONGEST_NAME`] bytes, or a label of more than 63.
    #[error("the name is too long")]
    Length,
    /// A byte that no host name has: NUL, dot inside a label, anything but letters, digits, `-` and `_`.
    #[error("the name has a byte no host name has")]
    Byte,
    /// The last label is a number, so some client would take the name for an address.
    #[error("the name looks like an address")]
    Address,
}

impl NameError {
    /// The error in fixed words, for records.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "not a host name: empty",
            Self::Length => "not a host name: too long",
            Self::Byte => "not a host name: a byte none has",
            Self::Address => "not a host name: looks like an address",
        }
    }
}

impl HostName {
    /// The canonical spelling of a name off the wire.
    ///
    /// # Errors
    /// When it is no host name.
    pub fn from_wire(name: &Name) -> Result<Self, NameError> {
        Self::from_labels(name.iter())
    }

    /// The canonical spelling of a name somebody wrote, with or without a trailing dot.
    ///
    /// # Errors
    /// When it is no host name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::from_labels(text.strip_suffix('.').unwrap_or(text).split('.').map(str::as_bytes))
    }

    fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut text = String::new();
        let mut last = &b""[..];
        for label in labels {
            if label.is_empty() {
                return Err(NameError::Empty);
            }
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)) {
                return Err(NameError::Byte);
            }
            if label.len() > 63 || text.len() + label.len() >= 254 {
                return Err(NameError::Length);
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            last = label;
        }
        match last {
            [] => Err(NameError::Empty),
            _ if text.len() > LONGEST_NAME => Err(NameError::Length),
            _ if is_number(last) => Err(NameError::Address),
            _ => Ok(Self(text)),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for the sandbox's own loopback (RFC 6761, section 6.3).
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        self.0 == "localhost" || self.0.ends_with(".localhost")
    }
}

/// Whether a label ends a name that `inet_aton` or a URL parser reads as an IPv4 address.
fn is_number(label: &[u8]) -> bool {
    let digits = label.iter().all(u8::is_ascii_digit);
    let hexadecimal = match label {
        [b'0', b'x' | b'X', rest @ ..] => rest.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    };
    digits || hexadecimal
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, NameError>) {
        let name = HostName::parse(text);
        assert_eq!(name.as_ref().map(HostName::as_str).map_err(|error| *error), expected, "{text:?}");
    }

    #[test]
    fn case_and_trailing_dot_do_not_make_another_name() {
        check("API.Example.COM", Ok("api.example.com"));
        check("api.example.com.", Ok("api.example.com"));
        check("xn--Bcher-kva.example", Ok("xn--bcher-kva.example"));
        check("a_b.example", Ok("a_b.example"));
        check("localhost", Ok("localhost"));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        check("", Err(NameError::Empty));
        check(".", Err(NameError::Empty));
        check("a..b", Err(NameError::Empty));
        check("a.b..", Err(NameError::Empty));
        check("a\0.evil.example", Err(NameError::Byte));
        check("bücher.example", Err(NameError::Byte));
        check("a b.example", Err(NameError::Byte));
        check("*.example", Err(NameError::Byte));
        check("a/b.example", Err(NameError::Byte));
        check(&format!("{}.example", "a".repeat(64)), Err(NameError::Length));
    }

    #[test]
    fn the_longest_name_has_253_bytes() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert_eq!(longest.len(), 253);
        check(&longest, Ok(&longest));
        check(&format!("{longest}b"), Err(NameError::Length));
        check(&format!("{}.c", &longest[..252]), Err(NameError::Length));
    }

    #[test]
    fn a_name_some_client_takes_for_an_address_is_refused() {
        for text in ["127.0.0.1", "1", "0x7f000001", "10.0x1", "a.1", "0x"] {
            check(text, Err(NameError::Address));
        }
        check("1.example", Ok("1.example"));
        check("1.0xyz", Ok("1.0xyz"));
    }

    #[test]
    fn a_dot_inside_a_wire_label_is_no_separator() {
        let name = Name::from_labels([&b"evil.example"[..], &b"com"[..]]).unwrap();
        assert_eq!(HostName::from_wire(&name), Err(NameError::Byte));
    }

    #[test]
    fn localhost_and_names_below_it_are_local() {
        for (text, local) in [("localhost", true), ("a.b.LocalHost.", true), ("notlocalhost", false)] {
            assert_eq!(HostName::parse(text).unwrap().is_localhost(), local, "{text}");
        }
    }
}
