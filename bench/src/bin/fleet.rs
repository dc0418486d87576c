//! `make fleet`: many machines wait for the real Smee at once, and netboot is switched off for all
//! of them at the same moment. Prints the load on the server, and how far apart the starts are.
//!
//! The pollers are waitdaemon's own code, all in one process; the server has its own network.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::tinkerbell::{SMEE, Server};
use lab::until::until;
use lab::watch::Watch;
use waitdaemon::machine::clock::Clock;
use waitdaemon::safe_moment::{self, AwaitedSignal, Waited};
use waitdaemon::settings::Expired;

const MACHINES: usize = 1000;
/// All machines end their action within this time.
const WITHIN: Duration = Duration::from_secs(1);
/// The time from the first end until netboot is switched off.
const OFF_AFTER: Duration = Duration::from_secs(45);
/// From then until all have started; the whole is bounded by 60 s.
const START_LIMIT: Duration = Duration::from_secs(15);
/// The time by which all pollers have reached their longest pause.
const STEADY_AFTER: usize = 10;
const MAC: &str = "02:00:00:00:00:aa";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first() {
        Some(url) => poll(url),
        None => simulate(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the simulation failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the pollers; prints a line when each may start.
fn poll(url: &str) -> Result<()> {
    let signal = AwaitedSignal {
        name: "netboot to be switched off".into(),
        url: url.to_owned(),
        status: 404,
        times: 3,
        max_seconds: 60,
        expired: Expired::Abort,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let mut pollers = tokio::task::JoinSet::new();
        for number in 0..MACHINES {
            let (signal, begin) =
                (signal.clone(), WITHIN * u32::try_from(number)? / u32::try_from(MACHINES)?);
            pollers.spawn_local(async move {
                tokio::time::sleep(begin).await;
                safe_moment::wait_until_safe(
                    Clock::SinceBoot,
                    Clock::SinceBoot.now(),
                    Duration::ZERO,
                    Some(&signal),
                )
                .await
            });
        }
        while let Some(waited) = pollers.join_next().await {
            ensure!(waited?.is_ok_and(|waited| waited == Waited::Safe), "a wait expired");
            println!("start");
        }
        Ok(())
    }))
}

fn simulate() -> Result<()> {
    let server = Server::start()?;
    server.create_hardware("fleet", MAC)?;
    let url = format!("{SMEE}/ipxe/script/{MAC}/auto.ipxe");
    until("Smee to serve the boot script", START_LIMIT, || {
        let curl =
            server.network_command("curl").args(["-sf", "-o", "/dev/null", &url]).status()?;
        Ok(curl.success().then_some(()))
    })?;
    println!(
        "{MACHINES} machines wait for netboot to be switched off; all ended their action within {} s.",
        WITHIN.as_secs()
    );
    let begin = Instant::now();
    let (questions_before, time_before) = (questions(&server)?, processor_time(&server)?);
    let pollers = Watch::of(server.network_command(std::env::current_exe()?).arg(&url))?;
    let mut rates = Vec::new();
    let mut last = questions_before;
    while begin.elapsed() < OFF_AFTER {
        let next = begin + Duration::from_secs(1) * u32::try_from(rates.len() + 1)?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = questions(&server)?;
        rates.push(now - last);
        last = now;
        ensure!(pollers.lines().is_empty(), "a machine started although netboot is on");
    }
    let time = processor_time(&server)? - time_before;
    let off = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    server.switch_netboot_off("fleet")?;
    until("every machine to start", START_LIMIT, || {
        Ok((pollers.lines().len() == MACHINES).then_some(()))
    })?;
    let mut starts: Vec<f64> = pollers.lines().iter().map(|(time, _)| time - off).collect();
    starts.sort_by(f64::total_cmp);

    let steady = &rates[STEADY_AFTER..];
    let mean = steady.iter().sum::<u64>() as f64 / steady.len() as f64;
    let asked: u64 = rates.iter().sum();
    println!("  questions a second, in the first {STEADY_AFTER} s  {:?}", &rates[..STEADY_AFTER]);
    println!(
        "  after that                            {mean:.0} on average, {} at most",
        steady.iter().max().unwrap_or(&0)
    );
    println!(
        "  the server's processor time           {:.2} ms a question",
        time * 1000.0 / asked as f64
    );
    println!("  the server's memory                   {} MiB", server.resident()?);
    let at = |part: f64| starts[((starts.len() - 1) as f64 * part) as usize];
    println!(
        "  starts after netboot was switched off: first {:.2} s, half {:.2} s, 99 of 100 {:.2} s, last {:.2} s",
        at(0.0),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    println!("Done after {:.0} s.", begin.elapsed().as_secs_f64());
    Ok(())
}

/// How many connections were opened in the server's network (proc_pid_net(5), snmp, ActiveOpens):
/// each question is one.
fn questions(server: &Server) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/net/snmp", server.init()))?;
    let mut rows = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (rows.next().context("no Tcp")?, rows.next().context("no Tcp")?);
    let value = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ActiveOpens");
    Ok(value.context("no ActiveOpens")?.1.parse()?)
}

/// The processor time that the server has used, in seconds (proc_pid_stat(5); 100 ticks a second on
/// Linux).
fn processor_time(server: &Server) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/stat", server.init()))?;
    let fields: Vec<&str> =
        text.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
