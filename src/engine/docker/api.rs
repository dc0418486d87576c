//! The Docker Engine API over HTTP/1.1: requests, answers, streams. Bodies are passed through as
//! JSON values, so fields that we do not know are not lost.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::api_error::ApiError;
use super::socket::is_socket;
use crate::engine::{CHANGE_LIMIT, QUERY_LIMIT};
use crate::http::{self, Transport};
use crate::retry::{milliseconds, retry_within};
use crate::settings::DockerHost;

/// The newest API version whose behaviour is tested; it is also spoken to newer engines.
const NEWEST: (u32, u32) = (1, 56);
/// The oldest API version that is supported: Docker 20.10.
const OLDEST: (u32, u32) = (1, 41);
/// Limit for connecting and for the first answer; a healthy engine needs milliseconds.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// How long to keep asking an engine that does not answer at first.
const PING_PATIENCE: Duration = Duration::from_secs(12);
/// What to escape in one part of a path or query: all but RFC 3986 `unreserved`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An engine's API: where it listens, and which version to speak. Each request is made once.
#[derive(Debug, Clone)]
pub struct Api {
    host: DockerHost,
    version: String,
    socket_after_restart: Option<PathBuf>,
}

/// What a request carries besides its path.
#[derive(Default, Clone, Copy)]
struct Payload<'a> {
    body: Option<&'a Value>,
    auth: Option<&'a str>,
}

/// An answer that arrives piece by piece.
pub struct Stream {
    request: String,
    status: StatusCode,
    body: Incoming,
}

impl Stream {
    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// If the connection broke ([`ApiError::Broken`]).
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => {
                    return Err(ApiError::Broken { request: self.request.clone(), source });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns the whole rest as JSON; `null` if it is empty.
    ///
    /// # Errors
    /// If the connection broke, or the rest is not JSON.
    pub async fn json(self) -> Result<Value, ApiError> {
        self.collect().await?.json()
    }

    async fn collect(self) -> Result<Body, ApiError> {
        let Self { request, status, body } = self;
        let broken = |source| ApiError::Broken { request: request.clone(), source };
        let bytes = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Body { request, status, bytes })
    }
}

/// An answer that has arrived in full.
struct Body {
    request: String,
    status: StatusCode,
    bytes: Bytes,
}

impl Body {
    fn json(self) -> Result<Value, ApiError> {
        Ok(self.json_lines()?.pop().unwrap_or_default())
    }

    fn json_lines(self) -> Result<Vec<Value>, ApiError> {
        let documents = serde_json::Deserializer::from_slice(&self.bytes).into_iter::<Value>();
        let documents: Result<_, _> = documents.collect();
        documents.map_err(|source| ApiError::NotJson { request: self.request, source })
    }
}

/// Turns a status of 400 or above into a refusal in the engine's own words.
async fn accepted(
    request: &str,
    answer: Response<Incoming>,
) -> Result<Response<Incoming>, ApiError> {
    let status = answer.status();
    if status.as_u16() < 400 {
        return Ok(answer);
    }
    let body = Stream { request: request.to_owned(), status, body: answer.into_body() };
    let said = match body.json().await {
        Ok(value) => value["message"].as_str().map(str::to_owned),
        // A truncated refusal could mean anything: the status alone is not enough (a 404 may be
        // about a container or an image).
        Err(error @ ApiError::Broken { .. }) => return Err(error),
        Err(_) => None,
    };
    let message = said.unwrap_or_else(|| format!("{request}: HTTP status {status}"));
    Err(ApiError::Refused { status: status.as_u16(), message })
}

impl Api {
    /// Asks the engine for its API version and agrees on one.
    ///
    /// # Errors
    /// If no engine answers at `host`, or the engine is too old.
    pub async fn reach(host: &DockerHost) -> Result<Self, ApiError> {
        let api = Self::with_version(host.clone(), String::new());
        let version = retry_within(PING_PATIENCE, "reaching the engine", || api.ping()).await?;
        Ok(Self { version, ..api })
    }

    /// Asks the engine which API version to speak.
    async fn ping(&self) -> Result<String, ApiError> {
        let request = "GET /_ping".to_owned();
        let late = ApiError::Late { request: request.clone(), seconds: PING_LIMIT.as_secs() };
        let ping = async {
            accepted(
                &request,
                self.send(Method::GET, "/_ping", &request, Payload::default()).await?,
            )
            .await
        };
        let answer = timeout(PING_LIMIT, ping).await.unwrap_or(Err(late))?;
        let header = answer
            .headers()
            .get("api-version")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if header.is_empty() {
            return Err(ApiError::Empty { request });
        }
        agree(header).ok_or_else(|| ApiError::TooOld(header.to_owned()))
    }

    /// Returns the engine at `host`, with a version agreed on before.
    pub fn with_version(host: DockerHost, version: String) -> Self {
        Self { host, version, socket_after_restart: None }
    }

    /// Sets where the engine may make a new socket when it restarts.
    pub fn socket_after_restart(self, socket_after_restart: Option<PathBuf>) -> Self {
        Self { socket_after_restart, ..self }
    }

    /// Returns the same engine, spoken to in an older version.
    pub fn speaking(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
    }

    /// Returns where the API listens.
    pub fn host(&self) -> &DockerHost {
        &self.host
    }

    /// Returns the agreed API version, such as `1.41`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sends a GET request whose answer is a JSON object.
    ///
    /// # Errors
    /// If the request fails, or the answer is anything else ([`ApiError::Empty`]).
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.get_as(path, None).await
    }

    /// Same as [`Api::get`], with a registry's login (X-Registry-Auth).
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn get_as(&self, path: &str, auth: Option<&str>) -> Result<Value, ApiError> {
        let answer = self
            .exchange(QUERY_LIMIT, Method::GET, path, Payload { body: None, auth })
            .await?
            .json()?;
        if answer.is_object() {
            Ok(answer)
        } else {
            Err(ApiError::Empty { request: describe(&Method::GET, path) })
        }
    }

    /// Sends a GET request whose answer is a JSON array.
    ///
    /// # Errors
    /// If the request fails, or the answer is anything else ([`ApiError::Empty`]).
    pub async fn get_list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        match self.exchange(QUERY_LIMIT, Method::GET, path, Payload::default()).await?.json()? {
            Value::Array(list) => Ok(list),
            _ => Err(ApiError::Empty { request: describe(&Method::GET, path) }),
        }
    }

    /// Sends a GET request; returns every document of an answer that has one per line.
    ///
    /// # Errors
    /// If the request fails.
    pub async fn get_lines(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        self.exchange(QUERY_LIMIT, Method::GET, path, Payload::default()).await?.json_lines()
    }

    /// Sends a POST request with an optional JSON body; returns JSON, `null` if it is empty.
    ///
    /// # Errors
    /// If the request fails.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        self.exchange(CHANGE_LIMIT, Method::POST, path, Payload { body, auth: None }).await?.json()
    }

    /// Sends a POST request that starts a container. The status says whether the engine did so now
    /// (204) or had done so before (304).
    ///
    /// # Errors
    /// If the request fails, or the status is another one ([`ApiError::Empty`]); what was done is
    /// then unknown.
    pub async fn post_start(&self, path: &str) -> Result<(), ApiError> {
        let answer = self.exchange(CHANGE_LIMIT, Method::POST, path, Payload::default()).await?;
        let done = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&answer.status);
        if done { Ok(()) } else { Err(ApiError::Empty { request: answer.request }) }
    }

    /// Sends a POST request with an optional JSON body, whose answer must be a JSON object.
    ///
    /// # Errors
    /// If the request fails, or the answer is anything else ([`ApiError::Empty`]).
    pub async fn post_for_object(&self, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        let answer = self.post(path, body).await?;
        if answer.is_object() {
            Ok(())
        } else {
            Err(ApiError::Empty { request: describe(&Method::POST, path) })
        }
    }

    /// Sends a DELETE request.
    ///
    /// # Errors
    /// If the request fails.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.exchange(CHANGE_LIMIT, Method::DELETE, path, Payload::default())
            .await?
            .json()
            .map(drop)
    }

    /// Sends a POST request that listens or waits and changes nothing. Returns when the answer's
    /// head has arrived; the rest is read piece by piece and may take forever.
    ///
    /// # Errors
    /// If the request fails.
    pub async fn listen(&self, path: &str) -> Result<Stream, ApiError> {
        let late = ApiError::Late {
            request: describe(&Method::POST, path),
            seconds: QUERY_LIMIT.as_secs(),
        };
        timeout(QUERY_LIMIT, self.open(Method::POST, path, Payload::default()))
            .await
            .unwrap_or(Err(late))
    }

    /// Sends a POST request without a time limit. The answer begins when the engine has something
    /// to say, and is read piece by piece. `auth` is a registry's login (X-Registry-Auth).
    ///
    /// # Errors
    /// If the request fails.
    pub async fn post_stream(&self, path: &str, auth: Option<&str>) -> Result<Stream, ApiError> {
        self.open(Method::POST, path, Payload { body: None, auth }).await
    }

    /// Sends a request; returns the whole answer, within the limit.
    async fn exchange(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        payload: Payload<'_>,
    ) -> Result<Body, ApiError> {
        let late = ApiError::Late { request: describe(&method, path), seconds: limit.as_secs() };
        let answer = async { self.open(method, path, payload).await?.collect().await };
        timeout(limit, answer).await.unwrap_or(Err(late))
    }

    /// Sends a request of the agreed version; returns when the answer's head has arrived.
    async fn open(
        &self,
        method: Method,
        path: &str,
        payload: Payload<'_>,
    ) -> Result<Stream, ApiError> {
        let request = describe(&method, path);
        let versioned = format!("/v{}{path}", self.version);
        let answer =
            accepted(&request, self.send(method, &versioned, &request, payload).await?).await?;
        Ok(Stream { request, status: answer.status(), body: answer.into_body() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        request: &str,
        Payload { body, auth }: Payload<'_>,
    ) -> Result<Response<Incoming>, ApiError> {
        let broken = |source| ApiError::Broken { request: request.to_owned(), source };
        // `to_vec` fails on maps with keys that are not strings; a Value has none.
        let body = body.map(|value| Bytes::from(serde_json::to_vec(value).unwrap_or_default()));
        let mut message = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "docker")
            .header("Content-Type", "application/json");
        if let Some(auth) = auth {
            message = message.header("X-Registry-Auth", auth);
        }
        let message = message.body(Full::new(body.unwrap_or_default())).map_err(|error| {
            ApiError::Connect {
                host: self.host.to_string(),
                source: io::Error::new(io::ErrorKind::InvalidInput, error),
            }
        })?;
        let begin = Instant::now();
        let connect = |source| ApiError::Connect { host: self.host.to_string(), source };
        let transport = self.connect().await.map_err(connect)?;
        let answer = http::exchange(transport, message).await.map_err(broken)?;
        let milliseconds = milliseconds(begin.elapsed());
        log::debug!(request, status = u64::from(answer.status().as_u16()), milliseconds; "asked the engine");
        Ok(answer)
    }

    /// Connects to the engine.
    async fn connect(&self) -> io::Result<Pin<Box<dyn Transport>>> {
        Ok(match &self.host {
            DockerHost::Unix(path) => {
                let socket = match (UnixStream::connect(path).await, &self.socket_after_restart) {
                    // The kernel refuses a folder just as it refuses a socket on which nothing is
                    // listening (connect(2)); only the latter can change.
                    (Err(error), _) if path.exists() && !is_socket(path) => {
                        Err(io::Error::new(io::ErrorKind::InvalidInput, error))
                    }
                    // If the engine has not made a new socket yet, the old one's refusal stands.
                    (Err(error), Some(socket))
                        if error.kind() == io::ErrorKind::ConnectionRefused =>
                    {
                        UnixStream::connect(socket).await.map_err(|_| error)
                    }
                    (socket, _) => socket,
                };
                Box::pin(socket?)
            }
            DockerHost::Tcp(address) => Box::pin(TcpStream::connect(address).await?),
        })
    }
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Escapes one part of a path or query, so that no text can break out of it.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Returns method and path without the query, as errors and the debug log show them.
fn describe(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

/// Returns the newest version that both sides speak, or `None`.
fn agree(engine: &str) -> Option<String> {
    let version = parse(engine)?;
    (version >= OLDEST)
        .then(|| version.min(NEWEST))
        .map(|(major, minor)| format!("{major}.{minor}"))
}

/// True if the first API version is newer than the second.
pub fn is_newer(one: &str, other: &str) -> bool {
    parse(one) > parse(other)
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_older_of_both() {
        for (engine, agreed) in [
            ("1.41", Some("1.41")),
            ("1.54", Some("1.54")),
            ("1.60", Some("1.56")),
            ("2.0", Some("1.56")),
        ] {
            assert_eq!(agree(engine).as_deref(), agreed);
        }
        assert!(is_newer("1.54", "1.51") && !is_newer("1.51", "1.51") && !is_newer("1.9", "1.51"));
        for engine in ["1.40", "", "x", "1.x"] {
            assert_eq!(agree(engine), None, "{engine}");
        }
    }

    #[test]
    fn no_text_leaves_its_place_in_a_path() {
        assert_eq!(escape("a/../b?c=d#e%f g"), "a%2F..%2Fb%3Fc%3Dd%23e%25f%20g");
    }
}
