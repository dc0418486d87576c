//! waitdaemon on real engines: each case on the systems on which it can differ, in a machine of its
//! own.
//!
//! Needs root, `make cache` and `make image`; `make test ONE=captain::again` takes care of that and
//! runs a selection.

mod action;
mod after_success;
mod again;
mod agents;
mod bad_input;
mod by_agent;
mod cases;
mod demo;
mod docs;
mod dry_run;
mod ends;
mod evidence;
mod faults;
mod fidelity;
mod goes_down;
mod identity;
mod images;
mod kexec;
mod login;
mod lossless;
mod memory;
mod networks;
mod own_image;
mod pull;
mod registries;
mod release;
mod remembers;
mod safe_moment;
mod security;
mod syslog;
mod verdict;
mod watch;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use lab::suite::{self, Case};
use libtest_mimic::Arguments;

/// How long each case took, in seconds.
static TIMES: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    // A case spends most of its time waiting, so more of them run than there are cores.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    if let Err(error) = world::make_images()
        .and_then(|()| fidelity::make_images())
        .and_then(|()| own_image::make_images())
    {
        eprintln!("cannot make the images: {error:#}");
        return std::process::ExitCode::FAILURE;
    }
    let cases: Vec<_> = cases::all().into_iter().map(timed).collect();
    let conclusion = suite::run(&arguments, &cases);
    world::end_spare_machines();
    if arguments.filter.is_none() {
        println!("slowest: {}", slowest(5));
    }
    conclusion.exit_code()
}

/// The case, recording how long it took.
fn timed(case: Case) -> Case {
    let Case { name, run } = case;
    let kept = name.clone();
    let run = Arc::new(move || {
        let start = Instant::now();
        let result = run();
        if let Ok(mut times) = TIMES.lock() {
            times.push((start.elapsed().as_secs(), kept.clone()));
        }
        result
    });
    Case { name, run }
}

/// The slowest cases with their seconds.
fn slowest(count: usize) -> String {
    let mut times = TIMES.lock().map(|times| times.clone()).unwrap_or_default();
    times.sort_unstable_by(|one, other| other.cmp(one));
    times
        .iter()
        .take(count)
        .map(|(seconds, name)| format!("{name} {seconds} s"))
        .collect::<Vec<_>>()
        .join(", ")
}
