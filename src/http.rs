//! HTTP/1.1, one request a connection, over whatever carries bytes.

use std::pin::Pin;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What HTTP is spoken over. As a trait object, so that the code for HTTP is there once.
pub trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

/// Sends a request; returns when the answer's head is there.
///
/// # Errors
/// If the connection breaks before, or what comes is not HTTP.
pub async fn exchange(
    transport: Pin<Box<dyn Transport>>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(transport)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}
