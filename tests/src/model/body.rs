//! A response body that can break off or fall silent on purpose.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use serde_json::Value;

/// How a body ends once its chunks are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Properly.
    Complete,
    /// The connection is closed without the closing chunk, as by a proxy that died.
    Broken,
    /// Never.
    Silent,
}

/// Chunks, then the end.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: VecDeque<Bytes>,
    end: End,
    paused: bool,
}

impl Chunks {
    pub(super) fn whole(text: String) -> Self {
        Self::new(VecDeque::from([Bytes::from(text)]), End::Complete)
    }

    pub(super) fn events(events: &[(&str, Value)], end: End) -> Self {
        let chunks = events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n").into());
        Self::new(chunks.collect(), end)
    }

    fn new(chunks: VecDeque<Bytes>, end: End) -> Self {
        Self { chunks, end, paused: false }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match (self.chunks.pop_front(), self.end) {
            (Some(chunk), _) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            (None, End::Complete) => Poll::Ready(None),
            // An error drops what has not been sent yet, and a pause makes hyper send it.
            (None, End::Broken) if !self.paused => {
                self.paused = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            (None, End::Broken) => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            // Nothing will ever wake it: the peer or the end of the server drops the connection.
            (None, End::Silent) => Poll::Pending,
        }
    }
}
