//! The listening half: sockets, TLS and the thread that serves them.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::answer::answer;
use super::sessions::Sessions;
use super::{Authority, Exchange, Script};

/// A running server. Agents are told apart by their API key.
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    https: SocketAddr,
    authority: Authority,
    sessions: Sessions,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on two loopback ports, one plain and one with TLS.
    ///
    /// # Errors
    /// No port, no certificate, or no thread.
    pub fn start() -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
        let plain = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("bind")?;
        let secure = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("bind")?;
        let (http, https) = (plain.local_addr()?, secure.local_addr()?);
        let sessions = Sessions::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let acceptor = TlsAcceptor::from(authority.config());
        let shared = sessions.clone();
        let thread = std::thread::spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.spawn_local(accept(plain, None, shared.clone()));
            local.spawn_local(accept(secure, Some(acceptor), shared));
            // A dropped sender is as good a reason to stop as a message: the server's owner is gone.
            let _ = local.block_on(&runtime, stopped);
        });
        Ok(Self { http, https, authority, sessions, stop: Some(stop), thread: Some(thread) })
    }

    /// Gives the agent with this API key its script, and forgets what it did before.
    pub fn script(&self, key: &str, script: Script) {
        self.sessions.begin(key, script);
    }

    /// What the agent with this API key asked so far.
    #[must_use]
    pub fn exchanges(&self, key: &str) -> Vec<Exchange> {
        self.sessions.exchanges(key)
    }

    /// Where it listens without TLS.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens with TLS.
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Whom agents must trust to believe the server's names.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed; the test's own assertions decide.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, sessions: Sessions) {
    while let Ok((stream, _)) = listener.accept().await {
        // As every server of such an API does: an answer in two segments would wait 40 ms for the first one's ACK.
        let _late = stream.set_nodelay(true);
        let (acceptor, sessions) = (acceptor.clone(), sessions.clone());
        tokio::task::spawn_local(async move {
            match acceptor {
                None => serve(stream, sessions).await,
                // A failed handshake shows as the agent's error; there is nobody else to tell.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, sessions).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, sessions: Sessions) {
    let service = service_fn(|request| answer(request, sessions.clone()));
    // Agents close connections as they like, and some scripts cut them: neither is an error here.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
