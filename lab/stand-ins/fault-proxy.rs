//! fault-proxy LISTEN TARGET LOG METHOD PATH NTH FAULT stands between a client and a real server,
//! which is a Docker Engine or an image registry; each side is an address or the path of a socket.
//! Each connection's request goes through untouched, except the NTHs (such as 1 or 1,2 or all, or
//! `next`: the first after LOG.next was made) whose method is METHOD (`*`: any) and whose path
//! contains PATH: there the FAULT happens. LOG gets a line for each request, and `fault` where it
//! happened. In both, a container's ID reads `{1}`, `{2}` and so on, in the order in which requests
//! first name them. If TARGET is an address, each request has a connection of its own.
//!
//! Before the server gets the request: `refuse` (close), a status such as `503`, `garbage` (not
//! HTTP), `not-json`, `empty` (status 200 and nothing), `not-object` (status 200 and `null`),
//! `stall` (no answer, for ever), `delay` (2 s), `hold` (until LOG.go exists). After the server has
//! done it: `lost` (close), `half` (half of the answer, then close), `half-closed` (the answer's
//! head, then no more), `stall-after`, `hold-after`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::until::until;

/// The longest time that a request is held.
const HOLD_LIMIT: Duration = Duration::from_secs(300);

/// What to do to which request.
struct Rule {
    method: String,
    path: String,
    nths: Option<Vec<usize>>,
    next: bool,
    fault: String,
    log: PathBuf,
    seen: AtomicUsize,
    /// The container IDs that requests have named.
    ids: Mutex<Vec<String>>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, log, method, path, nths, fault] = arguments.as_slice() else {
        bail!("usage: fault-proxy LISTEN TARGET LOG METHOD PATH NTH FAULT");
    };
    let numbers = || {
        nths.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>().context("NTH is numbers")
    };
    let (all, next) = (nths == "all", nths == "next");
    let nths = if all || next { None } else { Some(numbers()?) };
    let rule = Arc::new(Rule {
        method: method.clone(),
        path: path.clone(),
        nths,
        next,
        fault: fault.clone(),
        log: log.into(),
        seen: AtomicUsize::new(0),
        ids: Mutex::default(),
    });
    let spawn = |client| {
        let (target, rule) = (target.clone(), Arc::clone(&rule));
        std::thread::spawn(move || serve(client, &target, &rule));
    };
    if listen.starts_with('/') {
        let _ = std::fs::remove_file(listen);
        for client in UnixListener::bind(listen)?.incoming() {
            spawn(Stream::Unix(client?));
        }
    } else {
        for client in TcpListener::bind(listen)?.incoming() {
            spawn(Stream::Tcp(client?));
        }
    }
    Ok(())
}

/// A connection of either kind.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn connect(target: &str) -> std::io::Result<Self> {
        if target.starts_with('/') {
            UnixStream::connect(target).map(Self::Unix)
        } else {
            TcpStream::connect(target).map(Self::Tcp)
        }
    }

    fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Serves one connection, which has one request. If either side goes away, so does the other.
fn serve(mut client: Stream, target: &str, rule: &Rule) -> Result<()> {
    let head = head(&mut client)?;
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = rule.with_numbers(path);
    let hit = (rule.method == "*" || method == rule.method)
        && path.contains(&rule.path)
        && rule.is_meant(rule.seen.fetch_add(1, Ordering::SeqCst) + 1);
    rule.note(&format!("{method} {path}"))?;
    if hit {
        rule.note("fault")?;
    }
    let fault = if hit { rule.fault.as_str() } else { "" };
    let json = |status: &str| {
        let body = format!("{{\"message\":\"fault-proxy says {status}\"}}\n");
        format!(
            "HTTP/1.1 {status} Fault\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    match fault {
        "refuse" => return Ok(()),
        status if status.parse::<u16>().is_ok() => {
            return Ok(client.write_all(json(status).as_bytes())?);
        }
        "garbage" => return Ok(client.write_all(&[0xff, 0x00, b'\r', b'\n', 0x80])?),
        "not-json" => {
            return Ok(client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")?);
        }
        "empty" => return Ok(client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?),
        "not-object" => {
            return Ok(client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnull\n")?);
        }
        "stall" => return gone(client),
        "delay" => std::thread::sleep(Duration::from_secs(2)),
        "hold" => rule.hold()?,
        _ => {}
    }
    let mut server = Stream::connect(target)?;
    if let Stream::Tcp(_) = server {
        // The end of the connection is then the end of the answer.
        server.write_all(&[&head[..head.len() - 2], b"Connection: close\r\n\r\n"].concat())?;
    } else {
        server.write_all(&head)?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        // The client is gone, so the server's side must end.
        let _ = to_server.shutdown(Shutdown::Both);
    });
    match fault {
        "lost" | "half" | "half-closed" | "stall-after" | "hold-after" => {
            let answer = self::head(&mut server)?;
            match fault {
                "lost" => {}
                "half" => {
                    let mut piece = [0; 65536];
                    client.write_all(&answer)?;
                    let length = server.read(&mut piece)?;
                    client.write_all(&piece[..length / 2])?;
                }
                "half-closed" => {
                    client.write_all(&answer)?;
                    client.shutdown(Shutdown::Write)?;
                    return gone(client);
                }
                "stall-after" => return gone(client),
                _ => {
                    rule.hold()?;
                    client.write_all(&answer)?;
                    std::io::copy(&mut server, &mut client)?;
                }
            }
        }
        _ => drop(std::io::copy(&mut server, &mut client)),
    }
    let _ = client.shutdown(Shutdown::Both);
    Ok(())
}

impl Rule {
    /// The path with the container's number in place of its ID.
    fn with_numbers(&self, path: &str) -> String {
        let Some(id) = path.split_once("/containers/").and_then(|(_, rest)| rest.get(..64)) else {
            return path.into();
        };
        if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return path.into();
        }
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ids.iter().position(|known| known == id).unwrap_or_else(|| {
            ids.push(id.to_owned());
            ids.len() - 1
        });
        path.replacen(id, &format!("{{{}}}", known + 1), 1)
    }

    fn is_meant(&self, nth: usize) -> bool {
        if self.next {
            return std::fs::remove_file(self.log.with_extension("next")).is_ok();
        }
        self.nths.as_ref().is_none_or(|nths| nths.contains(&nth))
    }

    fn note(&self, line: &str) -> Result<()> {
        let mut log: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        Ok(log.write_all(format!("{line}\n").as_bytes())?)
    }

    fn hold(&self) -> Result<()> {
        self.note("held")?;
        let go = Path::new(&self.log).with_extension("go");
        until("the word to go on", HOLD_LIMIT, || Ok(go.exists().then_some(())))
    }
}

/// Reads to the end of an HTTP head and no further. Turns away a client that speaks TLS.
fn head(stream: &mut Stream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        if head.is_empty() && !byte[0].is_ascii_uppercase() {
            // Go's servers do the same: the client sees that this is not TLS, and may go on
            // without.
            stream.write_all(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request",
            )?;
            bail!("not HTTP");
        }
        head.push(byte[0]);
    }
    Ok(head)
}

/// Waits until the client is gone.
fn gone(mut client: Stream) -> Result<()> {
    let mut piece = [0; 4096];
    while client.read(&mut piece)? > 0 {}
    Ok(())
}
