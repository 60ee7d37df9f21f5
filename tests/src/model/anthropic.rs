//! The Anthropic Messages API, as far as agents use it.

use serde_json::{Value, json};

use super::script::{Call, ToolResult, call_id, text_of};

pub(super) fn offers_tools(request: &Value) -> bool {
    request["tools"].as_array().is_some_and(|tools| !tools.is_empty())
}

/// Results after the model's last words: reminders of the agent may follow in messages of their own.
pub(super) fn results(request: &Value) -> Vec<ToolResult> {
    let Some(messages) = request["messages"].as_array() else { return Vec::new() };
    let after =
        messages.iter().rposition(|message| message["role"] == "assistant").map_or(0, |last| last + 1);
    messages[after..]
        .iter()
        .filter_map(|message| message["content"].as_array())
        .flatten()
        .filter(|part| part["type"] == "tool_result")
        .map(|part| ToolResult {
            call: part["tool_use_id"].as_str().unwrap_or_default().to_owned(),
            text: text_of(&part["content"]),
            failed: Some(part["is_error"].as_bool().unwrap_or(false)),
        })
        .collect()
}

pub(super) fn text_block(text: &str) -> Vec<Value> {
    vec![json!({"type": "text", "text": text})]
}

pub(super) fn call_blocks(turn: usize, calls: &[Call]) -> Vec<Value> {
    calls.iter().enumerate().map(|(index, call)| call_block(&call_id(turn, index), call)).collect()
}

fn call_block(id: &str, call: &Call) -> Value {
    let (name, input) = match call {
        Call::Shell(command) => ("Bash", json!({"command": command, "description": "scripted"})),
        Call::Tool { name, input } => (name.as_str(), input.clone()),
        Call::Code(source) => ("exec", json!({"source": source})),
    };
    json!({"type": "tool_use", "id": id, "name": name, "input": input})
}

/// The answer in one piece, for requests that do not stream.
pub(super) fn message(model: &str, content: &[Value]) -> Value {
    json!({
        "id": "msg_scripted", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": stop_reason(content), "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    })
}

/// The same answer as the events of a stream.
pub(super) fn events(model: &str, content: &[Value]) -> Vec<(&'static str, Value)> {
    let mut start = message(model, &[]);
    start["stop_reason"] = Value::Null;
    let mut events = vec![("message_start", json!({"type": "message_start", "message": start}))];
    for (index, block) in content.iter().enumerate() {
        events.extend(block_events(index, block));
    }
    let delta = json!({"stop_reason": stop_reason(content), "stop_sequence": null});
    let usage = json!({"output_tokens": 5});
    events.push(("message_delta", json!({"type": "message_delta", "delta": delta, "usage": usage})));
    events.push(("message_stop", json!({"type": "message_stop"})));
    events
}

fn block_events(index: usize, block: &Value) -> [(&'static str, Value); 3] {
    let mut empty = block.clone();
    let delta = if block["type"] == "text" {
        empty["text"] = json!("");
        json!({"type": "text_delta", "text": block["text"]})
    } else {
        empty["input"] = json!({});
        json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})
    };
    let start = json!({"type": "content_block_start", "index": index, "content_block": empty});
    let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = json!({"type": "content_block_stop", "index": index});
    [("content_block_start", start), ("content_block_delta", delta), ("content_block_stop", stop)]
}

fn stop_reason(content: &[Value]) -> &'static str {
    if content.iter().any(|block| block["type"] == "tool_use") { "tool_use" } else { "end_turn" }
}

pub(super) fn error(kind: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": "scripted"}})
}
