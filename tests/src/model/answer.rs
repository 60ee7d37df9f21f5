//! From a request to its answer.

use std::convert::Infallible;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::Value;

use super::body::{Chunks, End};
use super::script::text_of;
use super::sessions::{Next, Sessions};
use super::{Exchange, Turn, anthropic, openai};

/// Text for requests that offer no tools.
const SIDE_TEXT: &str = "scripted side text";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    Messages,
    Responses,
}

/// Answers one request; everything unexpected is an HTTP error, so that the agent reports it.
pub(super) async fn answer(
    request: Request<Incoming>,
    sessions: Sessions,
) -> Result<Response<Chunks>, Infallible> {
    let (head, body) = request.into_parts();
    let api = match head.uri.path() {
        "/v1/messages" => Api::Messages,
        "/v1/responses" => Api::Responses,
        _ => return Ok(failure(404, &[], &anthropic::error("not_found_error"))),
    };
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(body) = serde_json::from_slice::<Value>(&bytes) else {
        return Ok(failure(400, &[], &api.error("invalid_request_error")));
    };
    let next = sessions.advance(&key_of(&head.headers), api.exchange(head.uri.to_string(), &body));
    Ok(api.respond(&body, next))
}

impl Api {
    fn exchange(self, target: String, body: &Value) -> Exchange {
        let (offers_tools, results) = match self {
            Self::Messages => (anthropic::offers_tools(body), anthropic::results(body)),
            Self::Responses => (openai::offers_tools(body), openai::results(body)),
        };
        Exchange { target, model: text_of(&body["model"]), offers_tools, results, turn: None }
    }

    fn respond(self, body: &Value, next: Next) -> Response<Chunks> {
        match next {
            Next::Side => self.success(body, &self.text(SIDE_TEXT), End::Complete),
            Next::Exhausted => failure(400, &[], &self.error("script_exhausted")),
            Next::Turn(_, Turn::Text(text)) => self.success(body, &self.text(&text), End::Complete),
            Next::Turn(number, Turn::Calls(calls)) => {
                let content = match self {
                    Self::Messages => anthropic::call_blocks(number, &calls),
                    Self::Responses => openai::call_items(openai::mode(body), number, &calls),
                };
                self.success(body, &content, End::Complete)
            }
            Next::Turn(_, Turn::Refusal { status, kind, headers }) => {
                failure(status, &headers, &self.error(&kind))
            }
            Next::Turn(_, Turn::Cut {}) => self.success(body, &self.text("this will be cut"), End::Broken),
            Next::Turn(_, Turn::Hang {}) => {
                response(200, "text/event-stream", Chunks::events(&[], End::Silent))
            }
        }
    }

    fn text(self, text: &str) -> Vec<Value> {
        match self {
            Self::Messages => anthropic::text_block(text),
            Self::Responses => openai::text_items(text),
        }
    }

    fn error(self, kind: &str) -> Value {
        match self {
            Self::Messages => anthropic::error(kind),
            Self::Responses => openai::error(kind),
        }
    }

    /// A stream if one was asked for, else the same in one piece.
    fn success(self, body: &Value, content: &[Value], end: End) -> Response<Chunks> {
        let model = body["model"].as_str().unwrap_or_default();
        if body["stream"] != true {
            let whole = match self {
                Self::Messages => anthropic::message(model, content),
                Self::Responses => openai::response(content),
            };
            return response(200, "application/json", Chunks::whole(whole.to_string()));
        }
        let mut events = match self {
            Self::Messages => anthropic::events(model, content),
            Self::Responses => openai::events(content),
        };
        if end == End::Broken {
            // Two events are enough for the agent to know that an answer has begun.
            events.truncate(2);
        }
        response(200, "text/event-stream", Chunks::events(&events, end))
    }
}

fn key_of(headers: &HeaderMap) -> String {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(&AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    text(&HeaderName::from_static("x-api-key")).or(bearer).unwrap_or_default().to_owned()
}

fn failure(status: u16, headers: &[(String, String)], body: &Value) -> Response<Chunks> {
    let mut response = response(status, "application/json", Chunks::whole(body.to_string()));
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn response(status: u16, kind: &'static str, body: Chunks) -> Response<Chunks> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
