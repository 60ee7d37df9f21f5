//! The state of every scripted session, shared between the server's thread and the test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Exchange, Script, Turn};

/// Sessions by API key.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<String, Session>>>);

#[derive(Debug, Default)]
struct Session {
    script: Script,
    next: usize,
    exchanges: Vec<Exchange>,
}

/// What a request is to be answered with.
#[derive(Debug)]
pub(super) enum Next {
    /// It offers no tools and uses no turn.
    Side,
    /// The turn with this number.
    Turn(usize, Turn),
    /// More requests than turns: the test will fail on the exchange without a turn.
    Exhausted,
}

impl Sessions {
    pub(super) fn begin(&self, key: &str, script: Script) {
        self.lock().insert(key.to_owned(), Session { script, ..Session::default() });
    }

    pub(super) fn exchanges(&self, key: &str) -> Vec<Exchange> {
        self.lock().get(key).map(|session| session.exchanges.clone()).unwrap_or_default()
    }

    /// Notes a request and takes the turn it uses.
    pub(super) fn advance(&self, key: &str, mut exchange: Exchange) -> Next {
        let mut sessions = self.lock();
        let session = sessions.entry(key.to_owned()).or_default();
        let next = session.take(exchange.offers_tools);
        if let Next::Turn(number, _) = next {
            exchange.turn = Some(number);
        }
        session.exchanges.push(exchange);
        next
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn take(&mut self, offers_tools: bool) -> Next {
        if !offers_tools {
            return Next::Side;
        }
        let Some(turn) = self.script.turns.get(self.next) else { return Next::Exhausted };
        self.next += 1;
        Next::Turn(self.next - 1, turn.clone())
    }
}
