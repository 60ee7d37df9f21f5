//! Secrets are replaced before a line is written, on the raw bytes, so no encoding can carry one past.
//!
//! Two sources: **known values** (environment variables handed to the sandbox whose name looks secret or that
//! the profile lists) wherever they occur, and **shapes** of well-known tokens. Either becomes
//! `‹redacted:NAME›`. The work is linear in the length of the text: known values go through one automaton, and
//! a shape either covers what was scanned for it or gives up after a constant number of bytes.
//!
//! What this does not find: a secret that was re-encoded (base64, percent, split over two arguments), and known
//! values under six bytes, which would garble ordinary text.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};

use super::shapes;
use super::text::Text;

/// Known values shorter than this are not looked for.
const SHORTEST: usize = 6;

/// How much of a known value must stand at the end of a text that was cut to be taken for it.
const SHORTEST_CUT: usize = 4;

/// Finds and replaces the secrets of one sandbox. Cheap to clone.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Known>>);

struct Known {
    automaton: AhoCorasick,
    secrets: Vec<(String, Vec<u8>)>,
}

/// Most known values. One text is looked through for each that a value may be inside of.
const MOST: usize = 256;

/// Most bytes of known values; a search takes some forty times as much while it is built.
const MOST_BYTES: usize = 256 << 10;

/// The list of known values is too large to search for.
#[derive(Debug, thiserror::Error)]
pub enum RedactorError {
    /// There are too many, or too long ones.
    #[error(
        "{count} variables with {bytes} bytes look like secrets, which are kept out of the audit; at most {MOST} with \
         {MOST_BYTES} bytes can be"
    )]
    TooMuch {
        /// How many.
        count: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The search was not built.
    #[error("cannot build the search for secret values: {0}")]
    Build(#[from] BuildError),
}

impl Redactor {
    /// Redacts these values, each under its name, besides the shapes.
    ///
    /// # Errors
    /// When the values are more than a search is built for.
    pub fn new(secrets: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, RedactorError> {
        let mut secrets: Vec<_> = secrets.into_iter().filter(|(_, value)| value.len() >= SHORTEST).collect();
        secrets.sort();
        secrets.dedup_by(|a, b| a.1 == b.1);
        if secrets.is_empty() {
            return Ok(Self(None));
        }
        let (count, bytes) = (secrets.len(), secrets.iter().map(|(_, value)| value.len()).sum());
        if count > MOST || bytes > MOST_BYTES {
            return Err(RedactorError::TooMuch { count, bytes });
        }
        // What is chosen for few values otherwise takes a kilobyte of memory for each of their bytes.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let values = secrets.iter().map(|(_, value)| value);
        let automaton = AhoCorasick::builder().kind(kind).build(values)?;
        Ok(Self(Some(Arc::new(Known { automaton, secrets }))))
    }

    /// Picks the secrets out of `NAME=value` strings: names that [`look secret`](looks_secret) or are `listed`.
    ///
    /// # Errors
    /// As [`Redactor::new`].
    pub fn from_environment(variables: &[Vec<u8>], listed: &[String]) -> Result<Self, RedactorError> {
        Self::new(variables.iter().filter_map(|variable| {
            let equals = variable.iter().position(|&b| b == b'=')?;
            let name = std::str::from_utf8(&variable[..equals]).ok()?;
            let secret = looks_secret(name) || listed.iter().any(|listed| listed == name);
            secret.then(|| (name.to_owned(), variable[equals + 1..].to_vec()))
        }))
    }

    /// Redacts a text in place.
    pub fn redact(&self, text: &mut Text) {
        let mut found = self.known(text);
        shapes::find(text.as_bytes(), &mut |range, name| found.push((range, name.to_owned())));
        if !found.is_empty() {
            text.replace(cover(text.as_bytes(), found));
        }
    }

    fn known(&self, text: &Text) -> Vec<(Range<usize>, String)> {
        let Some(known) = &self.0 else { return Vec::new() };
        let name = |index: usize| known.secrets[index].0.clone();
        // Overlapping, for a value may begin inside another one and must not leave its end behind.
        let mut found: Vec<(Range<usize>, String)> = Vec::new();
        for one in known.automaton.find_overlapping_iter(text.as_bytes()) {
            // One that lies in the one before changes nothing, and of those there may be a great many.
            if found.last().is_none_or(|(last, _)| one.start() < last.start || one.end() > last.end) {
                found.push((one.range(), name(one.pattern().as_usize())));
            }
        }
        if text.cut_from().is_some() {
            let tails = known.secrets.iter().filter_map(|(name, value)| {
                let length = tail_that_begins(text.as_bytes(), value);
                (length >= SHORTEST_CUT)
                    .then(|| (text.as_bytes().len() - length..text.as_bytes().len(), name.clone()))
            });
            found.extend(tails);
        }
        found
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().flat_map(|known| known.secrets.iter().map(|(name, _)| name));
        f.debug_list().entries(names).finish()
    }
}

/// Whether an environment variable of this name is taken for a secret: one of its words (`_` between them) is
/// KEY, TOKEN, SECRET, PASSWORD or the like.
#[must_use]
pub fn looks_secret(name: &str) -> bool {
    const WORDS: [&str; 14] = [
        "KEY",
        "APIKEY",
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASS",
        "PWD",
        "PASSPHRASE",
        "CREDENTIAL",
        "CREDENTIALS",
        "AUTH",
        "COOKIE",
        "SIGNATURE",
    ];
    // The shell's own PWD and OLDPWD are directories, and ssh's socket is a path.
    if matches!(name, "PWD" | "OLDPWD" | "SSH_AUTH_SOCK") {
        return false;
    }
    let upper = name.to_ascii_uppercase();
    upper.split('_').any(|word| WORDS.contains(&word))
        || ["TOKEN", "SECRET", "PASSWORD", "APIKEY"].iter().any(|end| upper.ends_with(end))
}

/// Length of the longest end of `text` that is a beginning of `value`, by the prefix function of
/// Knuth-Morris-Pratt: linear in `value`.
fn tail_that_begins(text: &[u8], value: &[u8]) -> usize {
    let text = &text[text.len().saturating_sub(value.len() - 1)..];
    let mut failure = vec![0; value.len()];
    let mut length = 0;
    for at in 1..value.len() {
        while length > 0 && value[at] != value[length] {
            length = failure[length - 1];
        }
        length += usize::from(value[at] == value[length]);
        failure[at] = length;
    }
    text.iter().fold(0, |mut length, byte| {
        while length > 0 && *byte != value[length] {
            length = failure[length - 1];
        }
        length + usize::from(*byte == value[length])
    })
}

/// The text with the union of the ranges replaced; where ranges overlap, the first one names the whole.
fn cover(text: &[u8], mut found: Vec<(Range<usize>, String)>) -> Vec<u8> {
    found.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for (range, name) in found {
        if range.start >= at {
            out.extend_from_slice(&text[at..range.start]);
            out.extend_from_slice(format!("‹redacted:{name}›").as_bytes());
        }
        at = at.max(range.end);
    }
    out.extend_from_slice(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redactor(values: &[(&str, &str)]) -> Redactor {
        Redactor::new(values.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()))).unwrap()
    }

    fn redacted(redactor: &Redactor, text: impl Into<Text>) -> String {
        let mut text = text.into();
        redactor.redact(&mut text);
        String::from_utf8_lossy(text.as_bytes()).into_owned()
    }

    #[test]
    fn known_values_are_replaced_wherever_they_stand() {
        let r = redactor(&[("API_KEY", "hunter2hunter2"), ("SHORT", "abc")]);
        assert_eq!(redacted(&r, "x=hunter2hunter2;abc"), "x=‹redacted:API_KEY›;abc");
        assert_eq!(redacted(&r, &b"\xffhunter2hunter2\n"[..]), "\u{fffd}‹redacted:API_KEY›\n");
        assert!(!format!("{r:?}").contains("hunter2"));
    }

    #[test]
    fn overlapping_values_leave_no_end_behind() {
        let r = redactor(&[("A", "abcdef"), ("B", "efghij")]);
        assert_eq!(redacted(&r, "-abcdefghij-"), "-‹redacted:A›-");
    }

    #[test]
    fn the_beginning_of_a_value_at_the_end_of_a_cut_text_goes_too() {
        let r = redactor(&[("K", "secret-value")]);
        assert_eq!(redacted(&r, Text::beginning("x secret-v", 99)), "x ‹redacted:K›");
        assert_eq!(redacted(&r, Text::beginning("x sec", 99)), "x sec");
        assert_eq!(redacted(&r, "x secret-v"), "x secret-v");
        assert_eq!(tail_that_begins(b"ababab", b"ababac"), 4);
    }

    #[test]
    fn values_inside_of_each_other_are_found_once_and_too_many_are_refused() {
        let nested = |count: usize| (0..count).map(|more| (format!("K{more}"), vec![b'a'; SHORTEST + more]));
        let text = Text::from(vec![b'a'; 4096]);
        let r = Redactor::new(nested(MOST)).unwrap();
        assert!(r.known(&text).len() <= 4096, "{}", r.known(&text).len());
        assert_eq!(redacted(&r, text), "‹redacted:K255›");
        assert!(matches!(Redactor::new(nested(MOST + 1)), Err(RedactorError::TooMuch { count: 257, .. })));
        assert!(Redactor::new([("K".to_owned(), vec![b'a'; MOST_BYTES + 1])]).is_err());
    }

    #[test]
    fn names_tell_which_variables_are_secret() {
        for name in [
            "ANTHROPIC_API_KEY",
            "GITHUB_TOKEN",
            "PGPASSWORD",
            "DB_PASS",
            "aws_secret_access_key",
            "NPM_AUTH",
        ] {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["PATH", "PWD", "SSH_AUTH_SOCK", "KEYBOARD", "TERM", "AUTHOR"] {
            assert!(!looks_secret(name), "{name}");
        }
        let env = [b"HOME=/home/alice".to_vec(), b"A_KEY=value-one".to_vec(), b"X=value-two".to_vec()];
        let r = Redactor::from_environment(&env, &["X".to_owned()]).unwrap();
        assert_eq!(
            redacted(&r, "value-one value-two /home/alice"),
            "‹redacted:A_KEY› ‹redacted:X› /home/alice"
        );
    }

    proptest! {
        #[test]
        fn no_known_value_survives(
            values in proptest::collection::vec("[abc]{6,9}", 1..5),
            text in proptest::collection::vec(prop_oneof!["[abcx]{0,12}", "[abc]{6,9}"], 0..12),
            pick in any::<prop::sample::Index>(),
        ) {
            let text = text.concat() + pick.get::<String>(&values).as_str();
            let r = Redactor::new(values.iter().map(|v| ("N".to_owned(), v.clone().into_bytes()))).unwrap();
            let out = redacted(&r, text);
            let rest = out.replace("‹redacted:N›", "|");
            for value in &values {
                prop_assert!(!rest.contains(value.as_str()), "{} in {}", value, rest);
            }
        }

        #[test]
        fn text_without_secrets_is_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let r = redactor(&[("K", "a value that no random bytes spell")]);
            let mut text = Text::from(bytes.clone());
            r.redact(&mut text);
            prop_assert_eq!(text.as_bytes(), &bytes[..]);
        }
    }
}
