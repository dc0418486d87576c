//! waitdaemon on real engines: each case on each generation of Docker, in a machine of its own.
//!
//! Needs root, `make cache` and `make image`; `make test` sees to that. One case:
//! `cargo test --test integration -- docker-moby::cancel`.

mod again;
mod bad_input;
mod by_agent;
mod captain;
mod captain_again;
mod captain_identity;
mod captain_watch;
mod demo;
mod docs;
mod dry_run;
mod faults;
mod fidelity;
mod identity;
mod login;
mod own_image;
mod pull;
mod release;
mod remembers;
mod safe_moment;
mod syslog;
mod verdict;
mod watch;
mod world;

use std::sync::Mutex;
use std::time::Instant;

use lab::machine::Engine;
use libtest_mimic::{Arguments, Failed, Trial};

/// A case: its name and what it does on an engine.
type Case = (String, Box<dyn Fn(Engine) -> anyhow::Result<()> + Send + Sync>);

/// A case that chooses its engine itself.
type Plain = fn() -> anyhow::Result<()>;

/// How many seconds each case took.
static TIMES: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

fn main() -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of a case is waiting: more of them than cores.
    arguments.test_threads = arguments.test_threads.or(Some(6));
    if let Err(error) =
        world::make_images().and_then(|()| fidelity::make_images()).and_then(|()| own_image::make_images())
    {
        eprintln!("cannot make the images: {error:#}");
        return std::process::ExitCode::FAILURE;
    }
    let on_no_engine: [(&str, Plain); 8] = [
        ("fidelity::page_is_the_rows", fidelity::page_is_the_rows),
        ("faults::page_is_the_cases", faults::page::page_is_the_cases),
        ("docs::yaml_is_the_examples", docs::yaml_is_the_examples),
        ("docs::links_lead_somewhere", docs::links_lead_somewhere),
        ("demo::reboots_a_machine", demo::reboots_a_machine),
        ("demo::reboots_a_captain", demo::reboots_a_captain),
        ("demo::prints_without_root", demo::prints_without_root),
        ("demo::push_reaches_a_registry", demo::push_reaches_a_registry),
    ];
    let mut trials: Vec<Trial> = on_no_engine
        .into_iter()
        .chain(captain::cases())
        .chain(captain_watch::cases())
        .chain(captain_again::cases())
        .chain(own_image::captain_cases())
        .chain(bad_input::captain_cases())
        .chain(pull::captain_cases())
        .chain(dry_run::captain_cases())
        .chain(release::captain_cases())
        .chain(remembers::captain_cases())
        .chain(safe_moment::captain_cases())
        .chain(login::captain_cases())
        .chain(syslog::captain_cases())
        .map(|(name, case)| trial(name.to_owned(), case))
        .collect();
    for (name, case) in
        fidelity::nerdctl_cases().into_iter().chain(captain_identity::cases()).chain(faults::captain_cases())
    {
        trials.push(trial(name, case));
    }
    for engine in Engine::ALL {
        let modules = [
            again::cases(),
            bad_input::cases(),
            by_agent::cases(),
            dry_run::cases(),
            faults::cases(),
            fidelity::cases(),
            identity::cases(),
            pull::cases(),
            release::cases(),
            remembers::cases(),
            safe_moment::cases(),
            login::cases(),
            own_image::cases(),
            syslog::cases(),
            verdict::cases(),
            watch::cases(),
        ];
        for (name, case) in modules.into_iter().flatten() {
            trials.push(trial(format!("{}::{name}", engine.name()), move || case(engine)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.num_passed > 20 {
        println!("slowest: {}", slowest(5));
    }
    conclusion.exit_code()
}

/// A trial that keeps the time that it took.
fn trial(name: String, case: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    let kept = name.clone();
    Trial::test(name, move || {
        let start = Instant::now();
        let result = case().map_err(|error| Failed::from(format!("{error:#}")));
        if let Ok(mut times) = TIMES.lock() {
            times.push((start.elapsed().as_secs(), kept));
        }
        result
    })
}

/// The slowest cases with their seconds.
fn slowest(count: usize) -> String {
    let mut times = TIMES.lock().map(|times| times.clone()).unwrap_or_default();
    times.sort_unstable_by(|one, other| other.cmp(one));
    times.iter().take(count).map(|(seconds, name)| format!("{name} {seconds} s")).collect::<Vec<_>>().join(", ")
}

/// Names cases by their module and function.
#[macro_export]
macro_rules! cases {
    ($($function:ident),+ $(,)?) => {
        vec![$((
            format!("{}::{}", module_path!().rsplit("::").next().unwrap_or_default(), stringify!($function)),
            Box::new($function) as Box<dyn Fn(lab::machine::Engine) -> anyhow::Result<()> + Send + Sync>,
        )),+]
    };
}
