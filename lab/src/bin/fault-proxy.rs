//! fault-proxy LISTEN TARGET LOG METHOD PATH NTH FAULT: stands between a client and the socket of a real
//! Docker Engine. Each connection's request goes through untouched, but for the NTHs (such as 1 or 1,2)
//! whose method is METHOD and whose path contains PATH: there the FAULT happens. LOG gets a line for each
//! request, and `fault` where it happened.
//!
//! Before the engine gets the request: `refuse` (close), `500`, `503`, `garbage` (no HTTP), `not-json`,
//! `stall` (no answer, for ever), `delay` (2 s), `hold` (until LOG.go exists).
//! After the engine has done it: `lost` (close), `half` (half of the answer, then close), `half-closed` (the
//! answer's head, then no more), `stall-after`, `hold-after`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::until::until;

/// How long a held request is held at most.
const HOLD_LIMIT: Duration = Duration::from_secs(300);

/// What to do to which request.
struct Rule {
    method: String,
    path: String,
    nths: Vec<usize>,
    fault: String,
    log: PathBuf,
    seen: AtomicUsize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, log, method, path, nths, fault] = arguments.as_slice() else {
        bail!("usage: fault-proxy LISTEN TARGET LOG METHOD PATH NTH FAULT");
    };
    let nths = nths.split(',').map(str::parse).collect::<Result<_, _>>().context("NTH is numbers")?;
    let rule = Arc::new(Rule {
        method: method.clone(),
        path: path.clone(),
        nths,
        fault: fault.clone(),
        log: log.into(),
        seen: AtomicUsize::new(0),
    });
    let _ = std::fs::remove_file(listen);
    for client in UnixListener::bind(listen)?.incoming() {
        let (client, target, rule) = (client?, target.clone(), Arc::clone(&rule));
        std::thread::spawn(move || serve(client, &target, &rule));
    }
    Ok(())
}

/// One connection, which holds one request. Where either side goes away, so does the other.
fn serve(mut client: UnixStream, target: &str, rule: &Rule) -> Result<()> {
    let head = head(&mut client)?;
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let hit = method == rule.method
        && path.contains(&rule.path)
        && rule.nths.contains(&(rule.seen.fetch_add(1, Ordering::SeqCst) + 1));
    rule.note(&format!("{method} {path}"))?;
    if hit {
        rule.note("fault")?;
    }
    let fault = if hit { rule.fault.as_str() } else { "" };
    let json = |status: &str| {
        let body = format!("{{\"message\":\"fault-proxy says {status}\"}}\n");
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    match fault {
        "refuse" => return Ok(()),
        "500" => return Ok(client.write_all(json("500 Internal Server Error").as_bytes())?),
        "503" => return Ok(client.write_all(json("503 Service Unavailable").as_bytes())?),
        "garbage" => return Ok(client.write_all(&[0xff, 0x00, b'\r', b'\n', 0x80])?),
        "not-json" => return Ok(client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")?),
        "stall" => return gone(client),
        "delay" => std::thread::sleep(Duration::from_secs(2)),
        "hold" => rule.hold()?,
        _ => {}
    }
    let mut engine = UnixStream::connect(target)?;
    engine.write_all(&head)?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_engine);
        // The client is gone: what listens shall end.
        let _ = to_engine.shutdown(Shutdown::Both);
    });
    match fault {
        "lost" | "half" | "half-closed" | "stall-after" | "hold-after" => {
            let answer = self::head(&mut engine)?;
            match fault {
                "lost" => {}
                "half" => {
                    let mut piece = [0; 65536];
                    client.write_all(&answer)?;
                    let length = engine.read(&mut piece)?;
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
                    std::io::copy(&mut engine, &mut client)?;
                }
            }
        }
        _ => drop(std::io::copy(&mut engine, &mut client)),
    }
    let _ = client.shutdown(Shutdown::Both);
    Ok(())
}

impl Rule {
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

/// Reads to the end of an HTTP head and no further.
fn head(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// Waits until the client is gone.
fn gone(mut client: UnixStream) -> Result<()> {
    let mut piece = [0; 4096];
    while client.read(&mut piece)? > 0 {}
    Ok(())
}
