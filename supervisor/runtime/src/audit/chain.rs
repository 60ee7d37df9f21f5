//! The chain of lines.
//!
//! A line is one JSON object whose last member is `"chain"`: the SHA-256 of the previous line's chain value (32
//! bytes, zeros before the first line) followed by the line's own bytes up to, not including, `,"chain":`. The
//! bytes that are hashed are the bytes in the file, so nobody has to agree on how JSON is written.

use sha2::{Digest, Sha256};

use crate::hex::{hex, unhex};

/// A chain value.
pub(super) type Hash = [u8; 32];

const MARK: &[u8] = br#","chain":""#;
const END: &[u8] = br#""}"#;
/// What [`seal`] adds to a JSON object without its closing brace.
const SUFFIX: usize = MARK.len() + 64 + END.len();

/// Closes a line: takes the JSON object that starts at `from`, adds its chain value and the line's end.
pub(super) fn seal(previous: &Hash, line: &mut Vec<u8>, from: usize) -> Hash {
    debug_assert_eq!(line.last(), Some(&b'}'), "a line is a JSON object");
    line.pop();
    let hash: Hash = Sha256::new().chain_update(previous).chain_update(&line[from..]).finalize().into();
    line.extend_from_slice(MARK);
    line.extend_from_slice(hex(&hash).as_bytes());
    line.extend_from_slice(END);
    line.push(b'\n');
    hash
}

/// Splits a line (without its end) into the bytes its hash covers and that hash.
pub(super) fn unseal(line: &[u8]) -> Option<(&[u8], Hash)> {
    let (content, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX)?)?;
    let digits = suffix.strip_prefix(MARK)?.strip_suffix(END)?;
    Some((content, unhex(std::str::from_utf8(digits).ok()?)?))
}

/// The chain value of a line's content.
pub(super) fn link(previous: &Hash, content: &[u8]) -> Hash {
    Sha256::new().chain_update(previous).chain_update(content).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_line_opens_to_what_was_hashed() {
        let mut line = br#"{"v":1}"#.to_vec();
        let hash = seal(&[7; 32], &mut line, 0);
        assert_eq!(line.pop(), Some(b'\n'));
        let (content, found) = unseal(&line).unwrap();
        assert_eq!((content, found), (&br#"{"v":1"#[..], hash));
        assert_eq!(link(&[7; 32], content), hash);
        assert_ne!(link(&[8; 32], content), hash);
    }

    #[test]
    fn what_is_no_sealed_line_is_refused() {
        let mut line = br#"{"v":1}"#.to_vec();
        seal(&[0; 32], &mut line, 0);
        line.pop();
        for cut in 1..line.len() {
            assert!(unseal(&line[..cut]).is_none(), "{cut}");
        }
    }
}
