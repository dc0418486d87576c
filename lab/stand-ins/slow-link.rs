//! slow-link LISTEN TARGET BYTES_PER_SECOND forwards TCP connections, but slows down what the
//! target sends. Stands in for a thin line to a far registry.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, rate] = arguments.as_slice() else {
        bail!("usage: slow-link LISTEN TARGET BYTES_PER_SECOND")
    };
    let rate: u32 = rate.parse().context("BYTES_PER_SECOND is a number")?;
    for client in TcpListener::bind(listen)?.incoming() {
        let client = client?;
        let server = TcpStream::connect(target)?;
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || copy(from_client, to_server, u32::MAX));
        std::thread::spawn(move || copy(server, client, rate));
    }
    Ok(())
}

/// Copies to the end; at any time, no more bytes have passed than the rate allows.
fn copy(mut from: TcpStream, mut to: TcpStream, rate: u32) {
    let (begin, mut passed) = (Instant::now(), 0_u64);
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
        passed += length as u64;
        let due = Duration::from_secs_f64(passed as f64 / f64::from(rate));
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
