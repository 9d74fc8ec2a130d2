//! The API's connections. Owns sockets and HTTP/1; refuses to know what is asked and answered. Unlike `transport` it can
//! cut a connection instead of answering.

use std::{io, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::api::Api;
use crate::{limits, tasks::Tasks};

/// Serves the API on what `listener` accepts, until the tasks have to end.
pub fn serve(listener: TcpListener, api: Arc<Api>, tasks: Tasks) {
    tasks.clone().spawn(async move {
        let accept = accept(&listener, &api, &tasks);
        tasks.stop().run_until_cancelled(accept).await;
    });
}

async fn accept(listener: &TcpListener, api: &Arc<Api>, tasks: &Tasks) {
    let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "the stand-in cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (api, stop) = (Arc::clone(api), tasks.stop().clone());
        tasks.spawn(async move {
            let ended = stop.run_until_cancelled(connection(socket, api)).await;
            if let Some(Err(error)) = ended {
                tracing::debug!(%error, "a connection to the stand-in ended early");
            }
            drop(permit);
        });
    }
}

async fn connection(socket: TcpStream, api: Arc<Api>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let service = service_fn(|request| api.handle(request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_READ_TIMEOUT)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .max_headers(limits::HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .await
        .map_err(io::Error::other)
}
