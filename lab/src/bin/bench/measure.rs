//! What is measured, each on one machine. Ours, the floor and the peer take turns, so that what disturbs one disturbs
//! all; medians of [`RUNS`].

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::machine::output;
use lab::until::until;
use serde_json::Value;

use crate::engines::{Bench, IMAGE, OURS};
use crate::rows::Row;

/// Runs of each, of which the median counts.
pub const RUNS: usize = 18;
/// Runs in one turn.
const TURN: usize = 3;
/// The action container's name.
const ACTION: &str = "tinkerbell_reboot_bench";
/// The wait whose processor time is counted.
const WAIT: Duration = Duration::from_secs(10);
/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The images, in bytes, as `docker save` writes them: not packed.
pub fn image_size(bench: &Bench) -> Result<Vec<Row>> {
    let size = |image: &str| -> Result<f64> {
        let archive = bench.nest().out().join("saved.tar");
        bench.run(&["save", "-o", &archive.to_string_lossy(), image])?;
        let bytes = fs::metadata(&archive)?.len();
        fs::remove_file(archive)?;
        Ok(bytes as f64 / 1e6)
    };
    let peer = bench.peer.as_deref().map(size).transpose()?;
    Ok(vec![Row::of("image, not packed".into(), "MB", size(OURS)?, peer, 1.0)])
}

/// The handoff against `run --rm true` and `run -d sleep` with the same flags, timed by hyperfine.
pub fn handoff(bench: &Bench, bar: f64) -> Result<Vec<Row>> {
    let (engine, flags) = (bench.words(), bench.flags().join(" "));
    let floor = format!("{engine} run --rm {flags} {IMAGE} true && {engine} run -d {flags} {IMAGE} sleep 3600");
    let of = |image: &str| format!("{engine} run --rm --name {ACTION} {flags} {image} true");
    let mut commands = vec![floor, of(OURS)];
    commands.extend(bench.peer.as_deref().map(of));
    let clear = format!("ids=$({engine} ps -aq); [ -z \"$ids\" ] || {engine} rm -f $ids");
    let mut times = vec![Vec::new(); commands.len()];
    let results = bench.nest().out().join("hyperfine.json");
    // The first of each is warmer work, and not counted.
    for turn in 0..=RUNS / TURN {
        let mut hyperfine = Command::new("hyperfine");
        hyperfine.args(["--style", "none", "--shell", "sh", "--runs", &if turn == 0 { 2 } else { TURN }.to_string()]);
        hyperfine.args(["--prepare", &clear, "--export-json"]).arg(&results).args(&commands);
        let said = output(&mut hyperfine)?;
        ensure!(said.status.success(), "hyperfine: {}", String::from_utf8_lossy(&said.stderr));
        let found: Value = serde_json::from_str(&fs::read_to_string(&results)?)?;
        for (command, times) in times.iter_mut().enumerate().filter(|_| turn > 0) {
            let more = found["results"][command]["times"].as_array().context("hyperfine gave no times")?;
            times.extend(more.iter().filter_map(Value::as_f64).map(|seconds| seconds * 1e3));
        }
    }
    bench.clear()?;
    let peer = times.get(2).map(|times| median(times));
    let what = format!("handoff / (run --rm true + run -d sleep), {}", bench.name);
    Ok(vec![Row::ratio(what, "ms", (median(&times[1]), median(&times[0])), peer, bar)])
}

/// The waiter's memory and threads while it waits.
pub fn memory(bench: &Bench) -> Result<Vec<Row>> {
    let of = |image: &str| -> Result<[f64; 3]> {
        act(bench, image, ACTION, &[])?;
        let mut sum = [0.0; 3];
        for process in bench.processes()? {
            let read = |file: &str| -> Result<String> {
                let said = output(bench.nest().command("cat").arg(format!("/proc/{process}/{file}")))?;
                Ok(String::from_utf8(said.stdout)?)
            };
            let (maps, status) = (read("smaps_rollup")?, read("status")?);
            let figure = |text: &str, name: &str| -> Result<f64> {
                let line =
                    text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
                Ok(line.split_whitespace().next().context("no figure")?.parse()?)
            };
            sum[0] += figure(&maps, "Rss:")? / 1024.0;
            sum[1] += figure(&maps, "Private_Dirty:")? / 1024.0;
            sum[2] += figure(&status, "Threads:")?;
        }
        bench.clear()?;
        Ok(sum)
    };
    let each = |image: &str| -> Result<[f64; 3]> {
        let runs = (0..RUNS).map(|_| of(image)).collect::<Result<Vec<_>>>()?;
        Ok([0, 1, 2].map(|at| median(&runs.iter().map(|run| run[at]).collect::<Vec<_>>())))
    };
    let ours = each(OURS)?;
    let peer = bench.peer.as_deref().map(each).transpose()?;
    let named = [("Rss", "MiB", 1.0), ("private dirty", "MiB", 0.4), ("threads", "", 1.0)];
    let row = |(at, (what, unit, bar)): (usize, (&str, &'static str, f64))| {
        Row::of(format!("waiter while waiting: {what}, {}", bench.name), unit, ours[at], peer.map(|peer| peer[at]), bar)
    };
    Ok(named.into_iter().enumerate().map(row).collect())
}

/// What the waiter's container is made with: the runtime takes time of its own for it, such as 10 ms for the seccomp
/// profile that a privileged container has not.
const AS_THE_WAITER: [&str; 8] = [
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "-v",
    "/var/run/docker.sock:/var/run/docker.sock:ro",
    "-v",
    "/var/run:/run/engine:ro",
];

/// The processor time of the processes in the containers of the handoff and of 10 s of waiting, less that of two
/// containers which are made in the same way and do nothing: what the runtime takes before it runs them.
pub fn processor(bench: &Bench) -> Result<Vec<Row>> {
    let floor_of = |run: usize| -> Result<f64> {
        let cgroup = format!("floor-{run}");
        let (parent, flags) = (format!("--cgroup-parent=/{}/{cgroup}", bench.nest().cgroup()), bench.flags());
        bench.run(&[&["run", "--rm", &parent], &flags[..], &[IMAGE, "true"]].concat())?;
        bench.run(&[&["run", "-d", &parent], &AS_THE_WAITER[..], &[IMAGE, "sleep", "3600"]].concat())?;
        bench.processor_time(&cgroup)
    };
    let start = |image: &str, cgroup: &str| -> Result<Instant> {
        let parent = format!("--cgroup-parent=/{}/{cgroup}", bench.nest().cgroup());
        act(bench, image, &format!("tinkerbell_{cgroup}"), &[&parent])?;
        Ok(Instant::now())
    };
    let images: Vec<&str> = std::iter::once(OURS).chain(bench.peer.as_deref()).collect();
    let (mut floors, mut times) = (Vec::new(), vec![Vec::new(); images.len()]);
    for turn in 0..RUNS / TURN {
        let mut waiting = Vec::new();
        for run in turn * TURN..(turn + 1) * TURN {
            floors.push(floor_of(run)?);
            for (which, image) in images.iter().enumerate() {
                let cgroup = format!("bench-{which}-{run}");
                waiting.push((which, start(image, &cgroup)?, cgroup));
            }
        }
        for (which, begin, cgroup) in waiting {
            let over = || Ok((begin.elapsed() >= WAIT).then_some(()));
            until("10 s of waiting", LIMIT, over)?;
            times[which].push(bench.processor_time(&cgroup)?);
        }
        bench.clear()?;
    }
    let (floor, ours) = (median(&floors), median(&times[0]));
    let peer = times.get(1).map(|times| median(times));
    let what = format!("processor time, handoff + 10 s wait, less the runtime's, {}", bench.name);
    let mut row = Row::of(what, "ms", ours, peer, 15.0);
    (row.floor, row.result, row.peer_result) = (Some(floor), ours - floor, peer.map(|peer| peer - floor));
    Ok(vec![row])
}

/// From the action's end to the user container's start, less WAIT_SECONDS, against the start of a created container
/// by the engine's API.
pub fn start(bench: &Bench) -> Result<Row> {
    let machine = bench.machine().context("not a Docker")?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let user = format!("{ACTION}-user");
    let flags: Vec<&str> = bench
        .flags()
        .into_iter()
        .map(|flag| if flag == "WAIT_SECONDS=3600" { "WAIT_SECONDS=1" } else { flag })
        .collect();
    for run in 0..RUNS {
        let name = format!("floor{run}");
        bench.run(&[&["create", "--name", &name], &flags[..], &[IMAGE, "sleep", "3600"]].concat())?;
        let begin = Instant::now();
        let (status, said) = machine.ask("POST", &format!("/containers/{name}/start"), None)?;
        floors.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(status == 204, "cannot start: {said}");
        bench.clear()?;

        let seen = machine.events()?.len();
        bench.run(&[&["run", "--name", ACTION], &flags[..], &[OURS, "sleep", "3600"]].concat())?;
        let time = |action: &str, name: &str| {
            until(&format!("{action} of {name}"), LIMIT, || {
                let events = machine.events()?;
                let mut events = events.iter().skip(seen);
                Ok(events.find(|event| event.action == action && event.name == name).map(|event| event.time))
            })
        };
        ours.push((time("start", &user)? - time("die", ACTION)? - 1.0) * 1e3);
        bench.clear()?;
    }
    let what = format!("action's end to user container's start, less the wait / start, {}", bench.name);
    Ok(Row::ratio(what, "ms", (median(&ours), median(&floors)), None, 1.15))
}

/// One handoff of `image`; returns when its waiter waits and the action container has ended. On Docker it is gone then; on
/// containerd a container that somebody ran by hand tells how it ended only as long as it is there.
fn act(bench: &Bench, image: &str, name: &str, more: &[&str]) -> Result<()> {
    let run: &[&str] =
        if bench.name == "nerdctl" { &["run", "--name", name] } else { &["run", "--rm", "--name", name] };
    bench.run(&[run, more, &bench.flags(), &[image, "true"]].concat()).map(drop)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}
