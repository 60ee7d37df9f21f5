//! The shapes of well-known tokens.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// How a token goes on after the prefix by which it is found.
enum Form {
    /// At least so many bytes of letters, digits, `-` and `_` (and the given extras).
    Run(usize, &'static [u8]),
    /// After the prefix, spaces, then at least 8 bytes of a bearer token.
    Bearer,
    /// Three base64url parts with dots between them.
    Jwt,
    /// A PEM block of a private key, to its end line or the end of the text.
    Pem,
    /// `user:password@` of a URL: the password.
    Userinfo,
}

/// Prefix, name and form. A run prefix counts only where no letter or digit stands before it.
const SHAPES: [(&str, &str, Form); 28] = [
    // Anthropic's and OpenAI's, `sk-ant-…` and `sk-proj-…` among them.
    ("sk-", "api-key", Form::Run(16, b"")),
    ("sk_live_", "stripe-key", Form::Run(16, b"")),
    ("rk_live_", "stripe-key", Form::Run(16, b"")),
    ("ghp_", "github-token", Form::Run(20, b"")),
    ("gho_", "github-token", Form::Run(20, b"")),
    ("ghu_", "github-token", Form::Run(20, b"")),
    ("ghs_", "github-token", Form::Run(20, b"")),
    ("ghr_", "github-token", Form::Run(20, b"")),
    ("github_pat_", "github-token", Form::Run(20, b"")),
    ("glpat-", "gitlab-token", Form::Run(16, b"")),
    ("npm_", "npm-token", Form::Run(30, b"")),
    ("pypi-", "pypi-token", Form::Run(40, b"")),
    ("hf_", "huggingface-token", Form::Run(30, b"")),
    ("AIza", "google-key", Form::Run(30, b"")),
    ("ya29.", "google-token", Form::Run(20, b".")),
    ("AKIA", "aws-key-id", Form::Run(16, b"")),
    ("ASIA", "aws-key-id", Form::Run(16, b"")),
    ("xoxb-", "slack-token", Form::Run(10, b"")),
    ("xoxp-", "slack-token", Form::Run(10, b"")),
    ("xoxa-", "slack-token", Form::Run(10, b"")),
    ("xoxr-", "slack-token", Form::Run(10, b"")),
    ("xoxs-", "slack-token", Form::Run(10, b"")),
    ("Bearer", "bearer", Form::Bearer),
    ("bearer", "bearer", Form::Bearer),
    ("BEARER", "bearer", Form::Bearer),
    ("eyJ", "jwt", Form::Jwt),
    ("-----BEGIN ", "private-key", Form::Pem),
    ("://", "url-password", Form::Userinfo),
];

static PREFIXES: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasick::new(SHAPES.iter().map(|(prefix, ..)| prefix)).ok());

/// Calls `found` with each token's range and name. Ranges may overlap.
pub(super) fn find(text: &[u8], found: &mut dyn FnMut(Range<usize>, &'static str)) {
    // The automaton of these constants always builds; the unit tests below would not pass without it.
    let Some(prefixes) = &*PREFIXES else { return };
    // Nothing inside a covered range is looked at again, which keeps a text full of prefixes linear.
    let (mut covered, mut covered_by_pem) = (0, 0);
    for prefix in prefixes.find_overlapping_iter(text) {
        let (_, name, form) = &SHAPES[prefix.pattern().as_usize()];
        // A private key may begin in what was taken for a shorter token, and reaches further.
        let covered = if matches!(form, Form::Pem) { &mut covered_by_pem } else { &mut covered };
        if prefix.start() < *covered {
            continue;
        }
        if let Some(range) = form.extend(text, prefix.range()) {
            *covered = range.end;
            found(range, name);
        }
    }
}

impl Form {
    fn extend(&self, text: &[u8], prefix: Range<usize>) -> Option<Range<usize>> {
        match self {
            Self::Run(least, extra) => {
                if prefix.start > 0 && text[prefix.start - 1].is_ascii_alphanumeric() {
                    return None;
                }
                let end = run(text, prefix.end, extra);
                (end - prefix.end >= *least).then_some(prefix.start..end)
            }
            Self::Bearer => {
                let spaces = text[prefix.end..].iter().take(8).take_while(|b| **b == b' ').count();
                let from = prefix.end + spaces;
                let end = run(text, from, b".~+/=");
                (spaces > 0 && end - from >= 8).then_some(from..end)
            }
            Self::Jwt => jwt(text, prefix),
            Self::Pem => pem(text, prefix),
            Self::Userinfo => password(text, prefix.end),
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// End of the run of word bytes (and extras) from `from`.
fn run(text: &[u8], from: usize, extra: &[u8]) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|b| is_word(**b) || extra.contains(b)).count()
}

fn jwt(text: &[u8], prefix: Range<usize>) -> Option<Range<usize>> {
    // Without this, `eyJ` repeated in one long header would be tried at every place.
    if prefix.start > 0 && is_word(text[prefix.start - 1]) {
        return None;
    }
    let header = run(text, prefix.end, b"");
    if text.get(header) != Some(&b'.') {
        return None;
    }
    let payload = run(text, header + 1, b"");
    if payload < header + 10 {
        return None;
    }
    // The signature of an unsigned token is empty, its dot is not.
    let end = if text.get(payload) == Some(&b'.') { run(text, payload + 1, b"") } else { payload };
    Some(prefix.start..end)
}

fn pem(text: &[u8], prefix: Range<usize>) -> Option<Range<usize>> {
    let label = &text[prefix.end..text.len().min(prefix.end + 64)];
    let label_end = find_bytes(label, b"PRIVATE KEY")?;
    if find_bytes(&label[..label_end], b"-----").is_some() {
        return None;
    }
    let body = prefix.end + label_end;
    let end = find_bytes(&text[body..], b"-----END ").map_or(text.len(), |at| {
        let line = body + at + 9;
        find_bytes(&text[line..], b"-----").map_or(text.len(), |at| line + at + 5)
    });
    Some(prefix.start..end)
}

fn password(text: &[u8], from: usize) -> Option<Range<usize>> {
    let ends = |b: &u8| matches!(b, b'/' | b'?' | b'#' | b'"' | b'\'') || b.is_ascii_whitespace();
    let authority = &text[from..text[from..].iter().position(ends).map_or(text.len(), |at| from + at)];
    let at = authority.iter().rposition(|b| *b == b'@')?;
    let colon = authority[..at].iter().position(|b| *b == b':')?;
    (colon + 1 < at).then_some(from + colon + 1..from + at)
}

fn find_bytes(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> Vec<(&str, &'static str)> {
        let mut out = Vec::new();
        find(text.as_bytes(), &mut |range, name| out.push((&text[range], name)));
        out
    }

    #[test]
    fn well_known_tokens_are_found() {
        let digits = "0123456789abcdefghijABCDEFGHIJ0123456789";
        for (prefix, name, form) in &SHAPES {
            if let Form::Run(..) = form {
                let token = format!("{prefix}{digits}");
                let text = format!("--key={token} next");
                assert!(tokens(&text).contains(&(&token, name)), "{token}");
            }
        }
        assert_eq!(tokens("Authorization: Bearer abc.def-ghi/= x"), [("abc.def-ghi/=", "bearer")]);
        assert_eq!(tokens("https://bob:p@ss:w@host/x:y@z"), [("p@ss:w", "url-password")]);
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        assert_eq!(tokens(&format!("t={jwt},")), [(jwt, "jwt")]);
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAA\n-----END OPENSSH PRIVATE KEY-----";
        assert_eq!(tokens(&format!("a {key} b")), [(key, "private-key")]);
        assert_eq!(
            tokens("x -----BEGIN PRIVATE KEY-----\nAAA"),
            [("-----BEGIN PRIVATE KEY-----\nAAA", "private-key")]
        );
    }

    #[test]
    fn ordinary_text_is_not_taken_for_a_token() {
        for text in [
            "task-force-one-two-three-four-five",
            "sk-short",
            "https://example.com/a@b:c",
            "https://user@example.com",
            "-----BEGIN CERTIFICATE-----\nAAAA",
            "bearer of news",
            "eyJust.a",
            "/usr/lib/npm_modules",
        ] {
            assert_eq!(tokens(text), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_mixture_of_prefixes_is_searched_without_a_panic(parts in proptest::collection::vec(part(), 0..12)) {
            let text = parts.concat();
            find(&text, &mut |range, _| assert!(range.start < range.end && range.end <= text.len()));
        }
    }

    fn part() -> impl Strategy<Value = Vec<u8>> {
        let prefixes: Vec<&str> = SHAPES.iter().map(|(prefix, ..)| *prefix).collect();
        prop_oneof![
            proptest::sample::select(prefixes).prop_map(|prefix| prefix.as_bytes().to_vec()),
            proptest::sample::select(vec!["PRIVATE KEY-----", "-----END ", ".", "@", ":", " "])
                .prop_map(|part| part.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
            "[a-z]{0,40}".prop_map(String::into_bytes),
        ]
    }

    #[test]
    fn hostile_text_is_searched_in_linear_time() {
        for unit in [
            "sk-",
            "eyJ",
            "eyJ.",
            "://a:",
            "-----BEGIN ",
            "-----BEGIN PRIVATE KEY",
            "Bearer ",
            "xoxb-1",
            "a:b@://",
        ] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = Instant::now();
            find(text.as_bytes(), &mut |_, _| {});
            // A quadratic search of a megabyte takes minutes.
            assert!(start.elapsed() < Duration::from_secs(20), "{unit}");
        }
    }
}
