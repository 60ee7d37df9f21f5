//! `[commands]`.

use super::limits::per_command;
use super::parse::{DECISIONS, setting};
use super::reader::{Node, Reader};
use super::{CommandRule, Deadline, Rules};
use crate::units::duration;

const KEYS: &[&str] = &["run", "decision", "deadline", "timeout", "limits", "reason", "best_effort"];

pub(super) fn commands(reader: &mut Reader<'_>, node: Node<'_>, rules: &mut Rules) {
    let Some(mut section) = reader.section(node, "commands", &["default", "rule"]) else { return };
    if let Some(node) = section.take("default") {
        rules.command_default = setting(reader, node, "commands.default", |reader, node| {
            reader.choice(node, "commands.default", &DECISIONS)
        });
    }
    let items = section.take("rule").map(|node| reader.list(node, "commands.rule")).unwrap_or_default();
    if let Some(first) = items.first().filter(|_| rules.command_default.is_empty()) {
        reader.error(
            first.span(),
            "`commands.default` is missing; say what happens to commands that no rule names",
        );
    }
    rules.commands = items.into_iter().filter_map(|item| rule(reader, item)).collect();
    reader.finish(section);
}

fn rule(reader: &mut Reader<'_>, node: Node<'_>) -> Option<CommandRule> {
    let mut section = reader.section(node, "commands.rule", KEYS)?;
    let span = section.span();
    let run = section.take("run").map(|node| (node.span(), reader.texts(node, "run")));
    let decision = section.take("decision").map(|node| reader.choice(node, "decision", &DECISIONS));
    if decision.is_none() {
        reader.error(span.clone(), "a command rule needs `decision`: \"allow\", \"ask\" or \"deny\"");
    }
    let deadline = section.take("deadline").and_then(|node| deadline(reader, node));
    let timeout = section.take("timeout").and_then(|node| reader.parsed(node, "timeout", duration));
    let limits = section.take("limits").map(|node| per_command(reader, node, "commands.rule.limits"));
    let reason = section.take("reason").and_then(|node| reader.text(node, "reason")).map(|(text, _)| text);
    let best_effort =
        section.take("best_effort").and_then(|node| reader.flag(node, "best_effort")).unwrap_or(false);
    reader.finish(section);
    let Some((run_span, run)) = run.filter(|(_, run)| !run.is_empty()) else {
        reader.error(
            span,
            "a command rule needs `run`: a list of words like [\"git\", \"**\", \"push\", \"**\"]",
        );
        return None;
    };
    let run: Vec<String> = run.into_iter().map(|(word, _)| word).collect();
    let rule = reader.rule(&run_span, "commands.rule", &run.join(" "));
    let limits = limits.unwrap_or_default();
    Some(CommandRule { run, decision: decision??, deadline, timeout, limits, reason, best_effort, rule })
}

/// `"90s"` or `"never"`.
pub(super) fn deadline(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Deadline> {
    reader.parsed(node, "deadline", |text| match text {
        "never" => Ok(Deadline::Never),
        _ => {
            duration(text).map(Deadline::After).map_err(|accepted| format!("{accepted}, or it is \"never\""))
        }
    })
}
