//! HTTP/1.1, one request per connection, over any byte stream.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::retry::{Retry, Transient};

/// The longest that one request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The longest that connecting to one address of a name may take before the next is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The byte stream that carries HTTP. It is used as a trait object, so that the HTTP code exists
/// once.
pub trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

/// Sends a request and returns when the response's head has arrived.
///
/// # Errors
/// If the connection breaks first, or the response is not HTTP.
pub async fn exchange(
    transport: Pin<Box<dyn Transport>>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(transport)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The connection could not be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// The error of connect(2) or the resolver.
        source: io::Error,
    },
    /// The connection broke, or the response was not HTTP.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// No answer came within [`ANSWER_LIMIT`].
    #[error("no answer within {} s", ANSWER_LIMIT.as_secs())]
    Late,
    /// The server is in trouble; the status.
    #[error("the answer is HTTP status {0}")]
    ServerError(u16),
}

/// Which statuses count as answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// All statuses: a user's own signal may be any of them.
    Any,
    /// Statuses below 500: a server in trouble cannot tell.
    NotServerErrors,
}

/// All of them may pass: servers and networks recover.
impl Transient for NoAnswer {
    fn retry(&self) -> Retry {
        Retry::UntilDeadline
    }
}

/// Sends one request and returns the HTTP status. The method is GET, or POST if there is a JSON
/// document to send. Boxed, so that the code exists once and not in each caller.
pub fn status(
    url: &Uri,
    document: Option<String>,
    accept: Accept,
) -> Pin<Box<dyn Future<Output = Result<u16, NoAnswer>> + Send>> {
    let url = url.clone();
    Box::pin(async move {
        match timeout(ANSWER_LIMIT, ask(&url, document)).await.unwrap_or(Err(NoAnswer::Late))? {
            status if status >= 500 && accept == Accept::NotServerErrors => {
                Err(NoAnswer::ServerError(status))
            }
            status => Ok(status),
        }
    })
}

async fn ask(url: &Uri, document: Option<String>) -> Result<u16, NoAnswer> {
    let host = url.host().unwrap_or_default();
    let address = format!("{host}:{}", url.port_u16().unwrap_or(80));
    // Use the displayed form: only there does a query without a path have its slash.
    let path = url.path_and_query().map_or_else(|| "/".into(), ToString::to_string);
    let socket = connect(&address)
        .await
        .map_err(|source| NoAnswer::Connect { address: address.clone(), source })?;
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    // Every part comes from a URL that was parsed before.
    let method = if document.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", authority)
        .header("Connection", "close");
    let request = if document.is_some() {
        request.header("Content-Type", "application/json")
    } else {
        request
    };
    let request =
        request.body(Full::new(Bytes::from(document.unwrap_or_default()))).unwrap_or_default();
    Ok(exchange(Box::pin(socket), request).await?.status().as_u16())
}

/// Connects to the first of a name's addresses that answers. Of two address families, only one may
/// lead to the server.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let mut result = Err(io::Error::other("the name has no address"));
    for address in lookup_host(address).await? {
        result = timeout(CONNECT_LIMIT, TcpStream::connect(address))
            .await
            .unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        if result.is_ok() {
            break;
        }
    }
    result
}
