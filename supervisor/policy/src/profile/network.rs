//! `[[egress]]`.

use std::net::IpAddr;

use super::commands::deadline;
use super::parse::DECISIONS;
use super::reader::{Node, Reader};
use super::{Destination, EgressRule, Protocol};
use crate::decision::Decision;
use crate::egress::canonical_name;

const KEYS: &[&str] = &["to", "decision", "protocol", "inspect", "deadline", "reason", "best_effort"];

const PROTOCOLS: [(&str, Protocol); 4] =
    [("tls", Protocol::Tls), ("http", Protocol::Http), ("ssh", Protocol::Ssh), ("tcp", Protocol::Tcp)];

const ACCEPTED: &str = "a destination is \"NAME:PORT\" or \"ADDRESS/BITS:PORT\"; a label of the name or the port \
                        may be `*`, IPv6 addresses stand in [ ]";

pub(super) fn egress(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<EgressRule> {
    let items = reader.list(node, "egress");
    items.into_iter().flat_map(|item| rules(reader, item)).collect()
}

fn rules(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<EgressRule> {
    let Some(mut section) = reader.section(node, "egress", KEYS) else { return Vec::new() };
    let (span, to) = (section.span(), section.take("to"));
    if to.is_none() {
        reader.error(span, "the key `to` is missing in `egress`; write to = [\"name:port\"]");
    }
    let to = to.map(|node| reader.texts(node, "to")).unwrap_or_default();
    let decision = section.take("decision").and_then(|node| reader.choice(node, "decision", &DECISIONS));
    let protocol = section.take("protocol").and_then(|node| reader.choice(node, "protocol", &PROTOCOLS));
    let inspect = section.take("inspect").and_then(|node| reader.flag(node, "inspect")).unwrap_or(false);
    let deadline = section.take("deadline").and_then(|node| deadline(reader, node));
    let reason = section.take("reason").and_then(|node| reader.text(node, "reason")).map(|(text, _)| text);
    let best_effort =
        section.take("best_effort").and_then(|node| reader.flag(node, "best_effort")).unwrap_or(false);
    reader.finish(section);
    let mut rules = Vec::new();
    for (text, span) in to {
        let Some(to) = destination(&text) else {
            reader.error(span, format!("`to` has \"{text}\"; {ACCEPTED}"));
            continue;
        };
        let rule = reader.rule(&span, "egress", &text);
        let decision = decision.unwrap_or(Decision::Allow);
        let reason = reason.clone();
        rules.push(EgressRule { to, decision, protocol, inspect, deadline, reason, best_effort, rule });
    }
    rules
}

fn destination(text: &str) -> Option<Destination> {
    let (host, port) = text.rsplit_once(':')?;
    let port = match port {
        "*" => None,
        _ => Some(port.parse::<u16>().ok().filter(|&port| port > 0)?),
    };
    if let Some(network) = network(host) {
        return Some(Destination::Network(network.0, network.1, port));
    }
    labels(host).map(|labels| Destination::Name(labels, port))
}

fn network(host: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match host.rsplit_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (host, None),
    };
    let address = address.strip_prefix('[').map_or(Some(address), |rest| rest.strip_suffix(']'))?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

/// The labels of a name pattern: `*` is one whole label, or alone any name.
fn labels(host: &str) -> Option<Vec<String>> {
    let plain = host.replace('*', "x");
    let name = canonical_name(&plain)?;
    let stars_are_whole = host.split('.').all(|label| label == "*" || !label.contains('*'));
    // A name of digits only is an address somebody mistyped, and resolvers take it for one.
    let numeric = name.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    let labels = host.trim_end_matches('.').split('.').map(str::to_ascii_lowercase).collect();
    (stars_are_whole && !numeric).then_some(labels)
}
