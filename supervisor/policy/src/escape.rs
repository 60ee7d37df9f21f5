//! How bytes that somebody else chose are shown: one place for diagnostics, audit and terminals.
//!
//! What an agent names (paths, arguments, host names) may hold terminal commands, line breaks, text that runs
//! backwards and characters nobody sees (CVE-2023-28101 is the best known case). [`escape`] turns any bytes
//! into one line of visible characters from which the bytes can be read again: what is not [`is_plain`] becomes
//! `\n`, `\t`, `\r`, `\u{202e}`, or `\xff` for a byte that is not UTF-8; a backslash becomes `\\`.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character shows as itself: no control, no line or paragraph separator, nothing that changes the
/// direction of text, nothing invisible, no space but the usual one.
#[must_use]
pub fn is_plain(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    !c.is_control() && !c.is_whitespace() && !is_invisible(c)
}

/// Characters of Unicode 16 without a glyph: format controls (Cf, bidirectional ones among them), fillers,
/// variation selectors, tags, private use and noncharacters.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890 | 0x891 | 0x8e2
        | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0x2800 | 0x3164
        | 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffc
        | 0x110bd | 0x110cd | 0x13430..=0x1345f | 0x1bca0..=0x1bca3 | 0x1d159 | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff | 0xf0000..)
        || u32::from(c) & 0xfffe == 0xfffe
}

/// Whether bytes are UTF-8 of plain characters only, that is whether they may be shown as they are.
#[must_use]
pub fn is_plain_text(bytes: &[u8]) -> bool {
    // Nearly everything is ASCII; the loop over bytes is several times as fast as that over characters.
    bytes.iter().all(|b| (b' '..=b'~').contains(b))
        || std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(is_plain))
}

/// The bytes as one line of visible characters, reversible by [`unescape`].
#[must_use]
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.chars().all(|c| c != '\\' && is_plain(c))
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    Cow::Owned(out)
}

fn push(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if is_plain(c) => out.push(c),
        c => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
}

/// The bytes behind an escaped text, `None` where it is none that [`escape`] wrote.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let (kind, tail) = rest[at + 1..].split_at_checked(1)?;
        rest = tail;
        match kind {
            "\\" => out.push(b'\\'),
            "n" => out.push(b'\n'),
            "r" => out.push(b'\r'),
            "t" => out.push(b'\t'),
            "x" => {
                let (digits, tail) = rest.split_at_checked(2)?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail;
            }
            "u" => {
                let (digits, tail) = rest.strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = tail;
            }
            _ => return None,
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_shown_as_it_is() {
        for text in ["/home/a b/ä.rs", "日本語", "--flag=x", "🐝"] {
            assert_eq!(escape(text.as_bytes()), text);
        }
    }

    #[test]
    fn terminal_commands_line_breaks_and_backward_text_are_spelled_out() {
        assert_eq!(escape(b"\x1b[2J\r\nx\t\x07"), r"\u{1b}[2J\r\nx\t\u{7}");
        assert_eq!(escape("a\u{202e}gpj.exe".as_bytes()), r"a\u{202e}gpj.exe");
        assert_eq!(
            escape("a\u{200b}b\u{2028}c\u{a0}d\u{9b}e".as_bytes()),
            r"a\u{200b}b\u{2028}c\u{a0}d\u{9b}e"
        );
        assert_eq!(escape(b"a\xff\\n"), r"a\xff\\n");
    }

    #[test]
    fn every_character_and_every_byte_survives() {
        for c in ('\0'..=char::MAX).step_by(7).chain('\0'..='\u{3000}') {
            let text = c.to_string();
            let shown = escape(text.as_bytes());
            assert!(shown.chars().all(is_plain), "{c:?}");
            assert_eq!(unescape(&shown).as_deref(), Some(text.as_bytes()), "{c:?}");
        }
        let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(unescape(&escape(&bytes)), Some(bytes));
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in ["\\", "\\q", "\\x1", "\\u{", "\\u{110000}", "\\u{d800}", "\\xé", "\\u41"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }
}
