//! `[limits]`.

use toml::de::DeValue;

use super::reader::{Node, Reader, Section};
use super::{Limit, LimitRule, LimitScope};
use crate::units::{Bytes, Percent, duration};

const KEYS: &[&str] = &["memory", "pids", "cpu", "io", "nofile", "file_size", "time", "idle", "per_command"];
const PER_COMMAND: &[&str] = &["memory", "pids", "cpu", "time"];

impl Limit {
    /// The key it is written with.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Pids(_) => "pids",
            Self::Cpu(_) => "cpu",
            Self::Io(_) => "io",
            Self::Nofile(_) => "nofile",
            Self::FileSize(_) => "file_size",
            Self::Time(_) => "time",
            Self::Idle(_) => "idle",
        }
    }

    /// The amount, to find the lower of two limits on the same thing.
    #[must_use]
    pub fn amount(self) -> u128 {
        match self {
            Self::Memory(Bytes(bytes)) | Self::FileSize(Bytes(bytes)) => bytes.into(),
            Self::Pids(number) | Self::Io(number) | Self::Nofile(number) => number.into(),
            Self::Cpu(Percent(percent)) => percent.into(),
            Self::Time(time) | Self::Idle(time) => time.as_millis(),
        }
    }
}

pub(super) fn limits(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<LimitRule> {
    let Some(mut section) = reader.section(node, "limits", KEYS) else { return Vec::new() };
    let mut limits = rules(reader, &mut section, &KEYS[..8], LimitScope::Sandbox, "limits");
    if let Some(node) = section.take("per_command") {
        limits.extend(per_command(reader, node, "limits.per_command"));
    }
    reader.finish(section);
    limits
}

/// The table of limits that each command has for itself.
pub(super) fn per_command(reader: &mut Reader<'_>, node: Node<'_>, name: &str) -> Vec<LimitRule> {
    let Some(mut section) = reader.section(node, name, PER_COMMAND) else { return Vec::new() };
    let limits = rules(reader, &mut section, PER_COMMAND, LimitScope::Command, name);
    reader.finish(section);
    limits
}

fn rules(
    reader: &mut Reader<'_>,
    section: &mut Section<'_>,
    keys: &[&'static str],
    scope: LimitScope,
    prefix: &str,
) -> Vec<LimitRule> {
    let mut limits = Vec::new();
    for key in keys {
        let Some(node) = section.take(key) else { continue };
        limits.extend(rule(reader, node, key, scope, &format!("{prefix}.{key}")));
    }
    limits
}

fn rule(
    reader: &mut Reader<'_>,
    node: Node<'_>,
    key: &str,
    scope: LimitScope,
    name: &str,
) -> Option<LimitRule> {
    let rule = reader.rule(&node.span(), name, "");
    if !matches!(node.get_ref(), DeValue::Table(_)) {
        let limit = limit(reader, node, key, name)?;
        return Some(LimitRule { limit, scope, best_effort: false, reason: None, rule });
    }
    let mut section = reader.section(node, name, &["max", "best_effort", "reason"])?;
    let (span, max) = (section.span(), section.take("max"));
    if max.is_none() {
        reader.error(span, format!("`{name}` needs the key `max`"));
    }
    let limit = max.and_then(|node| limit(reader, node, key, name));
    let best_effort =
        section.take("best_effort").and_then(|node| reader.flag(node, "best_effort")).unwrap_or(false);
    let reason = section.take("reason").and_then(|node| reader.text(node, "reason")).map(|(text, _)| text);
    reader.finish(section);
    Some(LimitRule { limit: limit?, scope, best_effort, reason, rule })
}

fn limit(reader: &mut Reader<'_>, node: Node<'_>, key: &str, name: &str) -> Option<Limit> {
    match key {
        "memory" => reader.parsed(node, name, Bytes::parse).map(Limit::Memory),
        "file_size" => reader.parsed(node, name, Bytes::parse).map(Limit::FileSize),
        "cpu" => reader.parsed(node, name, Percent::parse).map(Limit::Cpu),
        "time" => reader.parsed(node, name, duration).map(Limit::Time),
        "idle" => reader.parsed(node, name, duration).map(Limit::Idle),
        // 4,194,304 is PID_MAX_LIMIT of 64-bit kernels.
        "pids" => reader.number(&node, name, 1..4_194_305).map(Limit::Pids),
        "io" => reader.number(&node, name, 1..10_001).map(Limit::Io),
        _ => reader.number(&node, name, 16..1_048_577).map(Limit::Nofile),
    }
}
