//! The one port: HTTP/1 and HTTP/2 in the clear, told apart by the preface; limits of each connection.
//!
//! Tasks: the accept loop, one per connection. All end with [`Port::close`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::rest::CanonicalPath;

/// Connections at one time.
const CONNECTIONS: usize = 4096;
/// What a new connection may take until it says something, and a request until its headers are there.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Half-open connections are found by pings.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(8));
/// Bytes on their way in one stream: logs come in chunks of 256 KiB.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Requests at one time of one connection.
const STREAMS: u32 = 128;
const HEADER_BYTES: u32 = 16 * 1024;
/// Against floods of opened and reset streams.
const PENDING_RESETS: usize = 20;
/// What answers may still take when the coordinator goes down; streams without an end are cut then.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// The listener and its connections.
pub(crate) struct Port {
    close: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

/// Serves the router on this listener.
pub(crate) fn open(listener: TcpListener, router: Router, paths: CanonicalPath) -> Port {
    let (close, closed) = oneshot::channel();
    let accepting = tokio::spawn(accept(listener, Server { router, paths, builder: builder() }, closed));
    Port { close, accepting }
}

impl Port {
    /// Takes no more connections, lets answers in work go out, and cuts what is left.
    pub(crate) async fn close(self) {
        self.close.send(()).unwrap_or_default();
        // It ends by itself, or by a panic that has been reported.
        self.accepting.await.unwrap_or_default();
    }
}

#[derive(Clone)]
struct Server {
    router: Router,
    paths: CanonicalPath,
    builder: Builder<TokioExecutor>,
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    builder
}

async fn accept(listener: TcpListener, server: Server, mut closed: oneshot::Receiver<()>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let permit = tokio::select! {
            _ = &mut closed => break,
            permit = permits.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            _ = &mut closed => break,
            accepted = listener.accept() => accepted,
        };
        match stream {
            Ok((stream, _)) => {
                connections.spawn(server.clone().serve(stream, graceful.watcher(), permit));
            }
            Err(error) => {
                // Out of file descriptors, as a rule: the next one may have more luck.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(CLOSE_GRACE, graceful.shutdown()).await.is_err() {
        tracing::debug!("streams without an end are cut");
    }
    connections.shutdown().await;
}

impl Server {
    async fn serve(self, stream: TcpStream, watcher: Watcher, _permit: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        // Telling the protocols apart has no deadline of its own.
        if tokio::time::timeout(HEADER_TIMEOUT, stream.readable()).await.is_err() {
            return;
        }
        let Server { router, paths, builder } = self;
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            paths.apply(&mut request);
            let router = router.clone();
            async move {
                Ok::<_, Infallible>(
                    router.oneshot(request.map(Body::new)).await.unwrap_or_else(|e| match e {}),
                )
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            // Clients go as they like.
            tracing::debug!(%error, "a connection ended");
        }
    }
}
