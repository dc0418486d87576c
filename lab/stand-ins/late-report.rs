//! late-report LISTEN TARGET WORKFLOW AGENT NTH SECONDS forwards TCP connections between a Tink
//! Agent and its server. Stands in for a server that is slow to accept a report: the NTH report
//! comes SECONDS late, with everything that follows on its connection. If the client is gone before
//! that, the report never comes. Data from a client that contains the Workflow's name is a report;
//! data with only the agent's ID is a question for work (protobuf writes both as they are). Prints
//! a line for each: `report` or `question`, then `late`, and `lost` if the report never came.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

struct Rule {
    workflow: Vec<u8>,
    agent: Vec<u8>,
    nth: usize,
    late: Duration,
    seen: AtomicUsize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, workflow, agent, nth, seconds] = arguments.as_slice() else {
        bail!("usage: late-report LISTEN TARGET WORKFLOW AGENT NTH SECONDS");
    };
    let rule = Arc::new(Rule {
        workflow: workflow.clone().into_bytes(),
        agent: agent.clone().into_bytes(),
        nth: nth.parse().context("NTH is a number")?,
        late: Duration::from_secs(seconds.parse().context("SECONDS is a number")?),
        seen: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind(listen)?;
    println!("LISTENING");
    for client in listener.incoming() {
        let client = client?;
        let server = TcpStream::connect(target)?;
        let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
        let rule = Arc::clone(&rule);
        std::thread::spawn(move || copy(from_server, to_client));
        std::thread::spawn(move || {
            let _ = forward(&client, &server, &rule);
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn forward(mut client: &TcpStream, mut server: &TcpStream, rule: &Rule) -> std::io::Result<()> {
    let mut piece = [0; 16 * 1024];
    loop {
        let length = client.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        let holds = |text: &[u8]| piece[..length].windows(text.len()).any(|part| part == text);
        let report = holds(&rule.workflow);
        if report {
            println!("report");
        } else if holds(&rule.agent) {
            println!("question");
        }
        if report
            && rule.seen.fetch_add(1, Ordering::Relaxed) + 1 == rule.nth
            && !rule.late.is_zero()
        {
            println!("late");
            let Some(more) = held(client, rule.late)? else {
                println!("lost");
                return Ok(());
            };
            server.write_all(&piece[..length])?;
            server.write_all(&more)?;
        } else {
            server.write_all(&piece[..length])?;
        }
    }
}

/// What a client sends in the meantime; `None` if it goes away.
fn held(mut client: &TcpStream, late: Duration) -> std::io::Result<Option<Vec<u8>>> {
    let (end, mut more, mut piece) = (Instant::now() + late, Vec::new(), [0; 4096]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            client.set_read_timeout(None)?;
            return Ok(Some(more));
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(length) => more.extend_from_slice(&piece[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return Ok(None),
        }
    }
}
