//! Text for people: escaped, as wide as the terminal, coloured only on terminals.

use std::io::IsTerminal;

use skep_policy::escape::{escape, is_plain_text};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Where text goes, as far as its form depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// Columns, where it is a terminal; files and pipes get whole lines.
    pub width: Option<usize>,
    /// Whether colours are wanted.
    pub colour: bool,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// It worked, it is on.
    Good,
    /// Refused, broken.
    Bad,
    /// Weaker than it should be, lost.
    Careful,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

impl Screen {
    /// What standard output is; `NO_COLOR` and `TERM=dumb` are heeded.
    #[must_use]
    pub fn of_output() -> Self {
        Self::of(std::io::stdout().is_terminal())
    }

    /// What standard error is.
    #[must_use]
    pub fn of_errors() -> Self {
        Self::of(std::io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Self {
        if !terminal {
            return Self::default();
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colour = set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb");
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        Self { width: Some(width.max(40)), colour }
    }

    /// The text in a colour, if there are colours. The text must be plain already.
    #[must_use]
    pub fn paint(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Good => "32",
            Ink::Bad => "31",
            Ink::Careful => "33",
            Ink::Faint => "2",
            Ink::Strong => "1",
        };
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The text cut to what is left of the line after `used` columns, with `…` where something is missing.
    #[must_use]
    pub fn rest(&self, text: &str, used: usize) -> String {
        match self.width {
            Some(width) => cut(text, width.saturating_sub(used).max(20)),
            None => text.to_owned(),
        }
    }
}

/// Foreign text as it may be shown.
#[must_use]
pub fn foreign(text: &str) -> String {
    escape(text.as_bytes()).into_owned()
}

/// Text of several lines, ours and foreign mixed (a message with the source of a profile in it): everything but
/// its line ends is escaped. Backslashes stay, for these texts are not meant to be read back.
#[must_use]
pub fn lines(text: &str) -> String {
    let line = |line: &str| if is_plain_text(line.as_bytes()) { line.to_owned() } else { foreign(line) };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// An escaped argument, in quotes where it would not be read as one.
#[must_use]
pub fn argument(escaped: &str) -> String {
    let unclear = |c: char| c == ' ' || c == '\'' || c == '"' || c == '…';
    if escaped.is_empty() || escaped.contains(unclear) {
        return format!("'{}'", escaped.replace('\'', "\\'"));
    }
    escaped.to_owned()
}

/// How many there are of something whose plural ends in s: `1 rule`, `2 rules`.
#[must_use]
pub fn counted(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Columns of a plain text.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text in at most `columns` columns, with `…` at its end where it was longer.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used + 1 > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// The text filled up with spaces to `columns`.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Rows under headings, each column as wide as its widest cell; the last one takes what is left of the line.
#[must_use]
pub fn table(screen: &Screen, heads: &[&str], rows: &[Vec<String>]) -> String {
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
        cells.chain([width(heads[column])]).max().unwrap_or(0)
    };
    let columns: Vec<usize> = (0..heads.len()).map(widest).collect();
    let before_last: usize = columns.iter().rev().skip(1).map(|width| width + 2).sum();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let last = heads.len() - 1;
        let cell = |(column, cell): (usize, &str)| match column {
            column if column == last => screen.rest(cell, before_last),
            column => pad(cell, columns[column] + 2),
        };
        cells.enumerate().map(cell).collect::<String>().trim_end().to_owned()
    };
    let mut out = screen.paint(Ink::Strong, &line(&mut heads.iter().copied())) + "\n";
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_counts_columns_and_not_bytes() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本語日本語", 6), "日本…");
        assert_eq!(width(&cut("日本語日本語", 6)), 5);
        assert_eq!(pad("日本", 6), "日本  ");
    }

    #[test]
    fn a_table_fits_the_screen() {
        let rows = vec![vec!["a".into(), "x".repeat(100)], vec!["bbb".into(), "y".into()]];
        let screen = Screen { width: Some(40), colour: false };
        let text = table(&screen, &["ID", "COMMAND"], &rows);
        assert!(text.lines().all(|line| width(line) <= 40), "{text}");
        assert!(text.starts_with("ID   COMMAND\na    xxx"), "{text}");
        assert!(table(&Screen::default(), &["ID", "COMMAND"], &rows).contains(&"x".repeat(100)));
    }

    #[test]
    fn foreign_text_of_several_lines_keeps_only_its_line_ends() {
        assert_eq!(lines("a\n\x1b[2Jb\r"), "a\n\\u{1b}[2Jb\\r");
        assert_eq!(argument("a b"), "'a b'");
        assert_eq!(argument(""), "''");
    }

    #[test]
    fn one_thing_is_not_counted_like_several() {
        assert_eq!(counted(1_usize, "rule"), "1 rule");
        assert_eq!([counted(0_u64, "rule"), counted(2_u64, "rule")], ["0 rules", "2 rules"]);
    }

    #[test]
    fn there_is_no_colour_without_a_terminal() {
        assert_eq!(Screen::default().paint(Ink::Bad, "x"), "x");
        assert_eq!(Screen { colour: true, width: None }.paint(Ink::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
