//! netboot-watch HOST:PORT PATH asks an HTTP server every 20 ms and prints the status whenever it
//! changes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, path] = arguments.as_slice() else { bail!("usage: netboot-watch HOST:PORT PATH") };
    let mut last = String::new();
    loop {
        let status = ask(server, path).unwrap_or_else(|error| error.to_string());
        if status != last {
            println!("{status}");
            last = status;
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask(server: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[9..]).into_owned())
}
