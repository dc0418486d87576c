//! The Docker Engine API over HTTP/1.1: requests, answers, streams. Bodies are passed through as
//! JSON values, so that what we do not know we do not lose.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
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

use crate::http::{self, Transport};
use crate::retry::{Retry, Transient, retry_within};
use crate::settings::DockerHost;

/// The newest API version whose behaviour is tested; a newer engine is spoken to in this one.
const NEWEST: (u32, u32) = (1, 54);
/// The oldest one: Docker 20.10.
const OLDEST: (u32, u32) = (1, 41);
/// Bounds connecting and the first answer, where a healthy engine needs milliseconds.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// How long an engine that does not answer at first is asked again.
const REACH_LIMIT: Duration = Duration::from_secs(12);
/// Bounds a question, which can be asked again.
const QUESTION_LIMIT: Duration = Duration::from_secs(15);
/// Bounds one that changes something, whose fate is looked for then. Creating and starting take under a
/// second on a quiet machine; a machine that unpacks an image at the same time is not quiet.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Keeps what may stand in one part of a path or query: RFC 3986 `unreserved`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the API listens, and which version is spoken. Each request is made once.
#[derive(Debug, Clone)]
pub struct Api {
    host: DockerHost,
    version: String,
    socket_after_restart: Option<PathBuf>,
}

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No connection.
    #[error("cannot connect to {host}")]
    Connect {
        /// The address.
        host: String,
        /// What connect(2) says.
        source: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("{request}: the connection broke")]
    Broken {
        /// Method and path.
        request: String,
        /// What HTTP says.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("{request}: no answer within {seconds} s")]
    Late {
        /// Method and path.
        request: String,
        /// The limit.
        seconds: u64,
    },
    /// The engine refused; this is its own word.
    #[error("{message}")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The engine's message.
        message: String,
    },
    /// The answer is not what the API promises.
    #[error("{request}: the answer is not JSON")]
    NotJson {
        /// Method and path.
        request: String,
        /// Where the JSON is wrong.
        source: serde_json::Error,
    },
    /// The answer says nothing of what was asked.
    #[error("{request}: the answer is empty")]
    Empty {
        /// Method and path.
        request: String,
    },
    /// The engine is older than Docker 20.10.
    #[error("the engine's API version {0:?} is older than 1.41 (Docker 20.10)")]
    TooOld(String),
}

impl Transient for ApiError {
    fn retry(&self) -> Retry {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock,
        };
        match self {
            // WouldBlock: the engine's queue of connections is full (connect(2), EAGAIN).
            Self::Connect { source, .. } => match source.kind() {
                ConnectionRefused | ConnectionReset | TimedOut | BrokenPipe | WouldBlock | HostUnreachable
                | NetworkUnreachable => Retry::UntilDeadline,
                _ => Retry::Never,
            },
            Self::Broken { .. } | Self::Late { .. } | Self::NotJson { .. } | Self::Empty { .. } => Retry::UntilDeadline,
            Self::Refused { status: 502..=504 | 429, .. } => Retry::UntilDeadline,
            // The engine says it of much: of what it cannot do at this moment, and of what it never can.
            Self::Refused { status: 500, .. } => Retry::AFewTimes,
            Self::Refused { .. } | Self::TooOld(_) => Retry::Never,
        }
    }
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
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`ApiError::Broken`] if the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(ApiError::Broken { request: self.request.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole rest as JSON; `null` if it is empty.
    ///
    /// # Errors
    /// [`ApiError::Broken`], [`ApiError::NotJson`].
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

/// An answer that has arrived.
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

/// Turns a status of 400 and above into the engine's own word.
async fn accepted(request: &str, answer: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    let status = answer.status();
    if status.as_u16() < 400 {
        return Ok(answer);
    }
    let body = Stream { request: request.to_owned(), status, body: answer.into_body() };
    let said = match body.json().await {
        Ok(value) => value["message"].as_str().map(str::to_owned),
        // Half a refusal may be any: what the status alone says is not enough (a 404 is of a container or of an image).
        Err(error @ ApiError::Broken { .. }) => return Err(error),
        Err(_) => None,
    };
    let message = said.unwrap_or_else(|| format!("{request}: HTTP status {status}"));
    Err(ApiError::Refused { request: request.to_owned(), status: status.as_u16(), message })
}

impl Api {
    /// Asks the engine for its API version and agrees on one.
    ///
    /// # Errors
    /// If no engine answers at `host`, or one that is too old.
    pub async fn reach(host: &DockerHost) -> Result<Self, ApiError> {
        let api = Self::with_version(host.clone(), String::new());
        let version = retry_within(REACH_LIMIT, "reaching the engine", || api.ping()).await?;
        Ok(Self { version, ..api })
    }

    /// Asks which API version to speak.
    async fn ping(&self) -> Result<String, ApiError> {
        let request = "GET /_ping".to_owned();
        let late = ApiError::Late { request: request.clone(), seconds: PING_LIMIT.as_secs() };
        let ping =
            async { accepted(&request, self.send(Method::GET, "/_ping", &request, Payload::default()).await?).await };
        let answer = timeout(PING_LIMIT, ping).await.unwrap_or(Err(late))?;
        let header = answer.headers().get("api-version").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if header.is_empty() {
            return Err(ApiError::Empty { request });
        }
        agree(header).ok_or_else(|| ApiError::TooOld(header.to_owned()))
    }

    /// The engine at `host`, with the version that was agreed on before.
    pub fn with_version(host: DockerHost, version: String) -> Self {
        Self { host, version, socket_after_restart: None }
    }

    /// The same engine, which may make a new socket here when it restarts.
    pub fn socket_after_restart(self, socket_after_restart: Option<PathBuf>) -> Self {
        Self { socket_after_restart, ..self }
    }

    /// The same engine, spoken to in an older version.
    pub fn speaking(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
    }

    /// Where the API listens.
    pub fn host(&self) -> &DockerHost {
        &self.host
    }

    /// The agreed API version, such as `1.41`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// GET; the answer is a JSON object.
    ///
    /// # Errors
    /// Every [`ApiError`]; [`ApiError::Empty`] if the answer is anything else.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.get_as(path, None).await
    }

    /// As [`Api::get`], with a registry's login (X-Registry-Auth).
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn get_as(&self, path: &str, auth: Option<&str>) -> Result<Value, ApiError> {
        let answer = self.exchange(QUESTION_LIMIT, Method::GET, path, Payload { body: None, auth }).await?.json()?;
        if answer.is_object() { Ok(answer) } else { Err(ApiError::Empty { request: describe(&Method::GET, path) }) }
    }

    /// GET; the answer is a JSON array.
    ///
    /// # Errors
    /// Every [`ApiError`]; [`ApiError::Empty`] if the answer is anything else.
    pub async fn get_list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        match self.exchange(QUESTION_LIMIT, Method::GET, path, Payload::default()).await?.json()? {
            Value::Array(list) => Ok(list),
            _ => Err(ApiError::Empty { request: describe(&Method::GET, path) }),
        }
    }

    /// GET; every document of an answer that has one per line.
    ///
    /// # Errors
    /// Every [`ApiError`].
    pub async fn get_lines(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        self.exchange(QUESTION_LIMIT, Method::GET, path, Payload::default()).await?.json_lines()
    }

    /// POST with an optional JSON body; the answer as JSON, `null` if it is empty.
    ///
    /// # Errors
    /// Every [`ApiError`].
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        self.exchange(CHANGE_LIMIT, Method::POST, path, Payload { body, auth: None }).await?.json()
    }

    /// POST that starts a container: the engine says with its status that it did (204), or had done so (304).
    ///
    /// # Errors
    /// Every [`ApiError`]; [`ApiError::Empty`] if the status is another one: nobody can tell what was done then.
    pub async fn post_start(&self, path: &str) -> Result<(), ApiError> {
        let answer = self.exchange(CHANGE_LIMIT, Method::POST, path, Payload::default()).await?;
        let done = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&answer.status);
        if done { Ok(()) } else { Err(ApiError::Empty { request: answer.request }) }
    }

    /// POST with an optional JSON body; the answer is a JSON object.
    ///
    /// # Errors
    /// Every [`ApiError`]; [`ApiError::Empty`] if the answer is anything else.
    pub async fn post_for_object(&self, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let answer = self.post(path, body).await?;
        if answer.is_object() { Ok(answer) } else { Err(ApiError::Empty { request: describe(&Method::POST, path) }) }
    }

    /// DELETE.
    ///
    /// # Errors
    /// Every [`ApiError`].
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.exchange(CHANGE_LIMIT, Method::DELETE, path, Payload::default()).await?.json().map(drop)
    }

    /// POST that listens or waits and changes nothing; its answer is read piece by piece and may take for
    /// ever. Returns when its head is there.
    ///
    /// # Errors
    /// Every [`ApiError`].
    pub async fn listen(&self, path: &str) -> Result<Stream, ApiError> {
        let late = ApiError::Late { request: describe(&Method::POST, path), seconds: QUESTION_LIMIT.as_secs() };
        timeout(QUESTION_LIMIT, self.open(Method::POST, path, Payload::default())).await.unwrap_or(Err(late))
    }

    /// POST whose answer begins when the engine has something to say and is read piece by piece; without a
    /// limit. `auth` is a registry's login (X-Registry-Auth).
    ///
    /// # Errors
    /// Every [`ApiError`].
    pub async fn post_stream(&self, path: &str, auth: Option<&str>) -> Result<Stream, ApiError> {
        self.open(Method::POST, path, Payload { body: None, auth }).await
    }

    /// The whole answer, within the limit.
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

    /// Sends a request of the agreed version; returns when the answer's head is there.
    async fn open(&self, method: Method, path: &str, payload: Payload<'_>) -> Result<Stream, ApiError> {
        let request = describe(&method, path);
        let versioned = format!("/v{}{path}", self.version);
        let answer = accepted(&request, self.send(method, &versioned, &request, payload).await?).await?;
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
        // `to_vec` fails on maps with keys that are no strings; a Value has none.
        let body = body.map(|value| Bytes::from(serde_json::to_vec(value).unwrap_or_default()));
        let mut message = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "docker")
            .header("Content-Type", "application/json");
        if let Some(auth) = auth {
            message = message.header("X-Registry-Auth", auth);
        }
        let message = message.body(Full::new(body.unwrap_or_default())).map_err(|error| ApiError::Connect {
            host: self.host.to_string(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        let begin = Instant::now();
        let connect = |source| ApiError::Connect { host: self.host.to_string(), source };
        let transport = self.connect().await.map_err(connect)?;
        let answer = http::exchange(transport, message).await.map_err(broken)?;
        let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(request, status = u64::from(answer.status().as_u16()), milliseconds, "asked the engine");
        Ok(answer)
    }

    /// A connection to the engine.
    async fn connect(&self) -> io::Result<Pin<Box<dyn Transport>>> {
        Ok(match &self.host {
            DockerHost::Unix(path) => {
                let socket = match (UnixStream::connect(path).await, &self.socket_after_restart) {
                    // The kernel refuses a folder just as it refuses a socket on which nothing is listening (connect(2)); only
                    // the latter can change.
                    (Err(error), _) if std::fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) => {
                        Err(io::Error::new(io::ErrorKind::InvalidInput, error))
                    }
                    // If it has not made a new one yet, the old one's refusal stands.
                    (Err(error), Some(socket)) if error.kind() == io::ErrorKind::ConnectionRefused => {
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

/// One part of a path or query, escaped so that no text can leave its place.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Method and path without the query, as errors and the debug log show it.
fn describe(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

/// The newest version that both sides speak, or `None`.
fn agree(engine: &str) -> Option<String> {
    let version = parse(engine)?;
    (version >= OLDEST).then(|| version.min(NEWEST)).map(|(major, minor)| format!("{major}.{minor}"))
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
        for (engine, agreed) in
            [("1.41", Some("1.41")), ("1.54", Some("1.54")), ("1.60", Some("1.54")), ("2.0", Some("1.54"))]
        {
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
