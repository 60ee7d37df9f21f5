//! Tables of docs/performance.md, generated: date, machine class, command, figures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Samples of one contender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// What was timed.
    pub(crate) name: String,
    /// Microseconds of each run.
    pub(crate) microseconds: Vec<f64>,
}

impl Samples {
    /// None yet.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), microseconds: Vec::new() }
    }

    /// Adds a run.
    pub(crate) fn add(&mut self, took: Duration) {
        self.microseconds.push(took.as_secs_f64() * 1e6);
    }

    /// The value below which this share (0 to 1) of the runs lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.microseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of a small list"
        )]
        let index = (last as f64 * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// A table in which every row is compared with the p50 of `reference`.
pub(crate) fn table(contenders: &[Samples], reference: &str) -> String {
    let base = contenders.iter().find(|c| c.name == reference).map_or(f64::NAN, |c| c.quantile(0.5));
    let mut text =
        format!("| what | n | p10 us | p50 us | p99 us | x {reference} (p50) |\n|---|---|---|---|---|---|\n");
    for contender in contenders {
        let [p10, p50, p99] = [0.1, 0.5, 0.99].map(|share| contender.quantile(share));
        let runs = contender.microseconds.len();
        let name = &contender.name;
        // Writing to a String cannot fail.
        let _infallible =
            writeln!(text, "| {name} | {runs} | {p10:.0} | {p50:.0} | {p99:.0} | {:.2} |", p50 / base);
    }
    text
}

/// Puts a section into docs/performance.md in place of its last version, between its markers.
pub(crate) fn publish(section: &str, command: &str, body: &str) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let (begin, end) = (format!("<!-- begin {section} -->"), format!("<!-- end {section} -->"));
    let block = format!("{begin}\n{}, {}. Command: `{command}`\n\n{body}\n{end}", today(), machine());
    let text = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{block}{}", &old[..from], &old[to + end.len()..]),
        _ => format!("{}\n\n## {section}\n\n{block}\n", old.trim_end()),
    };
    fs::write(&path, text)?;
    println!("{body}");
    Ok(())
}

/// The day, in UTC.
fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(|_| "undated".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// What kind of machine this is, without naming it.
fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} shared virtual CPUs", version.join("."))
}
