//! The OpenAI Responses API, as far as Codex uses it, in both of its modes.

use serde_json::{Value, json};

use super::script::{Call, ToolResult, call_id, text_of};

/// How the model takes tool calls, read from what the request offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Function tools, `exec_command` among them.
    Functions,
    /// One custom tool `exec` that takes JavaScript (models marked `code_mode_only`).
    Code,
}

pub(super) fn offers_tools(request: &Value) -> bool {
    request["tools"].as_array().is_some_and(|tools| !tools.is_empty()) || mode(request) == Mode::Code
}

pub(super) fn mode(request: &Value) -> Mode {
    let mut input = request["input"].as_array().into_iter().flatten();
    if input.any(|item| item["type"] == "additional_tools") { Mode::Code } else { Mode::Functions }
}

/// Results after the last call: the whole conversation is sent each time, for nothing is stored.
pub(super) fn results(request: &Value) -> Vec<ToolResult> {
    let Some(input) = request["input"].as_array() else { return Vec::new() };
    let is_result = |item: &Value| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output"));
    let is_call = |item: &Value| item["type"].as_str().is_some_and(|kind| kind.ends_with("_call"));
    let after = input.iter().rposition(is_call).map_or(0, |last| last + 1);
    input[after..]
        .iter()
        .filter(|item| is_result(item))
        .map(|item| ToolResult {
            call: item["call_id"].as_str().unwrap_or_default().to_owned(),
            text: text_of(&item["output"]),
            failed: None,
        })
        .collect()
}

pub(super) fn text_items(text: &str) -> Vec<Value> {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    vec![json!({
        "type": "message", "id": "msg_scripted", "role": "assistant", "status": "completed", "content": content,
    })]
}

pub(super) fn call_items(mode: Mode, turn: usize, calls: &[Call]) -> Vec<Value> {
    calls.iter().enumerate().map(|(index, call)| call_item(mode, &call_id(turn, index), call)).collect()
}

fn call_item(mode: Mode, id: &str, call: &Call) -> Value {
    match (mode, call) {
        (Mode::Functions, Call::Shell(command)) => function(id, "exec_command", &json!({"cmd": command})),
        (Mode::Functions, Call::Tool { name, input }) => function(id, name, input),
        (Mode::Code, Call::Shell(command)) => code(id, &shell(command)),
        (Mode::Code, Call::Tool { name, input }) => code(id, &invocation(name, input)),
        (_, Call::Code(source)) => code(id, source),
    }
}

fn function(id: &str, name: &str, input: &Value) -> Value {
    json!({
        "type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": name,
        "arguments": input.to_string(), "status": "completed",
    })
}

fn code(id: &str, source: &str) -> Value {
    json!({
        "type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": id, "name": "exec", "input": source,
        "status": "completed",
    })
}

/// Prints what the function tool of the other mode would: the exit code, then the output.
fn shell(command: &str) -> String {
    format!(
        "const result = await tools.exec_command({});\n\
         text(`Process exited with code ${{result.exit_code}}\\n${{result.output}}`);\n",
        json!({"cmd": command})
    )
}

/// JSON is JavaScript, so an input needs no quoting of its own.
fn invocation(tool: &str, input: &Value) -> String {
    format!("const result = await tools.{tool}({input});\ntext(JSON.stringify(result));\n")
}

pub(super) fn events(items: &[Value]) -> Vec<(&'static str, Value)> {
    let created = json!({"type": "response.created", "response": {"id": "resp_scripted"}});
    let mut events = vec![("response.created", created)];
    for (index, item) in items.iter().enumerate() {
        let added = json!({"type": "response.output_item.added", "output_index": index, "item": item});
        let done = json!({"type": "response.output_item.done", "output_index": index, "item": item});
        events.extend([("response.output_item.added", added), ("response.output_item.done", done)]);
    }
    events.push(("response.completed", json!({"type": "response.completed", "response": response(items)})));
    events
}

/// The answer in one piece, which is also what the last event of a stream carries.
pub(super) fn response(items: &[Value]) -> Value {
    json!({
        "id": "resp_scripted", "object": "response", "status": "completed", "output": items,
        "usage": {
            "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
        },
    })
}

pub(super) fn error(kind: &str) -> Value {
    json!({"error": {"type": kind, "code": kind, "message": "scripted"}})
}
