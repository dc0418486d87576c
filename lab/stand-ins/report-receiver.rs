//! report-receiver ADDRESS FOLDER stands in for the server that WAITDAEMON_REPORT_URL names. Takes
//! every POST, answers with the status in the file FOLDER/status (204 if there is none), and adds
//! the body as a line to FOLDER/reports.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder] = arguments.as_slice() else {
        bail!("usage: report-receiver ADDRESS FOLDER")
    };
    let folder = PathBuf::from(folder);
    for client in TcpListener::bind(address).context("cannot listen")?.incoming() {
        if let Err(error) = take(client?, &folder) {
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

fn take(mut client: TcpStream, folder: &Path) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the request's head has no end");
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    ensure!(head.first().is_some_and(|line| line.starts_with("post ")), "{head:?}");
    ensure!(head.iter().any(|line| line == "content-type: application/json"), "{head:?}");
    let length =
        head.iter().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    let mut body = vec![0; length.parse()?];
    reader.read_exact(&mut body)?;
    body.push(b'\n');
    let status = fs::read_to_string(folder.join("status")).unwrap_or_else(|_| "204".to_owned());
    if status.starts_with('2') {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("reports"))?
            .write_all(&body)?;
    }
    client.write_all(
        format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status.trim())
            .as_bytes(),
    )?;
    Ok(())
}
