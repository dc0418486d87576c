//! Sends one request to a Docker Engine through its socket. The docker command would take 60 ms
//! just to start.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// How long an answer may take, including answers that wait for a container's end.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends a request; returns the status and the answer, which is text if it is not JSON.
///
/// # Errors
/// If there is no complete answer within 60 s.
pub fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime
        .block_on(async { tokio::time::timeout(LIMIT, whole(socket, method, path, body)).await });
    answer.with_context(|| format!("no answer to {method} {path} within {} s", LIMIT.as_secs()))?
}

async fn whole(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value)> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot reach {}", socket.display()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("Host", "engine");
    let body = body.map(Value::to_string).unwrap_or_default();
    let request =
        request.header("Content-Type", "application/json").body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await.with_context(|| format!("{method} {path}"))?;
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await?.to_bytes();
    let value = serde_json::from_slice(&text)
        .unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned().into());
    Ok((status, value))
}
