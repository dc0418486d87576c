//! The measurements, each on one machine. Ours, the floor and the peer take turns, so that a
//! disturbance affects all of them; the results are medians of [`RUNS`].

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::machine::output;
use lab::paths;
use lab::until::until;
use serde_json::{Value, json};

use crate::engines::{Bench, IMAGE, OURS};
use crate::rows::Row;

/// The runs of each, of which the median counts.
pub const RUNS: usize = 18;
/// The runs in one turn.
const TURN: usize = 3;
/// The action container's name.
const ACTION: &str = "tinkerbell_reboot_bench";
/// The wait whose processor time is measured.
const WAIT: Duration = Duration::from_secs(10);
/// The time limit for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// The images in bytes, as archives that are not packed: ours as `make image` writes it, which is
/// what `make test` compares with its budget; the peer's as `docker save` writes it.
pub fn image_size(bench: &Bench) -> Result<Vec<Row>> {
    let ours = fs::metadata(paths::root().join("dist/waitdaemon.tar"))?.len();
    let saved = |image: &str| -> Result<f64> {
        let archive = bench.machine().out().join("saved.tar");
        bench.run(&["save", "-o", &archive.to_string_lossy(), image])?;
        let bytes = fs::metadata(&archive)?.len();
        fs::remove_file(archive)?;
        Ok(bytes as f64 / 1e6)
    };
    let peer = bench.peer.as_deref().map(saved).transpose()?;
    Ok(vec![Row::of("image, not packed".into(), "MB", ours as f64 / 1e6, peer, 1.0)])
}

/// The handoff compared with `run --rm true` and `run -d sleep` with the same flags, timed by
/// hyperfine.
pub fn handoff(bench: &Bench, bar: f64) -> Result<Row> {
    let flags = bench.flags().join(" ");
    let of =
        |image: &str| format!("{} run --rm --name {ACTION} {flags} {image} true", bench.words());
    let mut commands = vec![floor(bench), of(OURS)];
    commands.extend(bench.peer.as_deref().map(of));
    let times = race(bench, &commands)?;
    let peer = times.get(2).map(|times| median(times));
    let what = format!("handoff / (run --rm true + run -d sleep), {}", bench.name);
    Ok(Row::ratio(what, "ms", (median(&times[1]), median(&times[0])), peer, Some(bar)))
}

/// The handoff of a reboot without IMAGE, against the same floor; and the least that a waiter in a
/// container can take: the action does nothing but have it made and started.
pub fn own_end(bench: &Bench, bar: f64) -> Result<Vec<Row>> {
    let flags = bench.flags().join(" ").replace("-e IMAGE=alpine ", "");
    let own = format!("{} run --rm --name {ACTION} {flags} {OURS} reboot", bench.words());
    let times = race(bench, &[floor(bench), own, least(bench)])?;
    let floor = median(&times[0]);
    let what = format!("handoff of reboot without IMAGE / the same, {}", bench.name);
    let bound = format!("run --rm true + make and start the waiter / the same, {}", bench.name);
    Ok(vec![
        Row::ratio(what, "ms", (median(&times[1]), floor), None, Some(bar)),
        Row::ratio(bound, "ms", (median(&times[2]), floor), None, None),
    ])
}

/// Runs an action that does nothing, and starts a container with the waiter's settings; on Docker
/// through the API itself.
fn least(bench: &Bench) -> String {
    let (engine, flags) = (bench.words(), bench.flags().join(" "));
    let action = format!("{engine} run --rm {flags} {IMAGE} true");
    if !bench.machine().is_docker() {
        return format!(
            "{action} && {engine} run -d {AS_THE_WAITER_OF_NERDCTL} {IMAGE} sleep 3600"
        );
    }
    let body = json!({"Image": IMAGE, "Cmd": ["sleep", "3600"], "HostConfig": {
        "NetworkMode": "none", "ReadonlyRootfs": true, "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Binds": ["/var/run/docker.sock:/var/run/docker.sock:ro", "/var/run:/run/engine:ro"],
    }});
    let socket = bench.machine().socket();
    let post = format!("curl -sf -o /dev/null --unix-socket {} -X POST", socket.display());
    format!(
        "{action} && {post} -H Content-Type:application/json -d '{body}' 'http://engine/containers/create?name=least' && {post} http://engine/containers/least/start"
    )
}

/// The least that one container for the action and one for later cost.
fn floor(bench: &Bench) -> String {
    let (engine, flags) = (bench.words(), bench.flags().join(" "));
    format!("{engine} run --rm {flags} {IMAGE} true && {engine} run -d {flags} {IMAGE} sleep 3600")
}

/// Times these commands in turns; returns the milliseconds of each run.
fn race(bench: &Bench, commands: &[String]) -> Result<Vec<Vec<f64>>> {
    let engine = bench.words();
    let clear = format!("ids=$({engine} ps -aq); [ -z \"$ids\" ] || {engine} rm -f $ids");
    let mut times = vec![Vec::new(); commands.len()];
    let results = bench.machine().out().join("hyperfine.json");
    // The first turn only warms up and is not counted.
    for turn in 0..=RUNS / TURN {
        let mut hyperfine = Command::new("hyperfine");
        hyperfine.args([
            "--style",
            "none",
            "--shell",
            "sh",
            "--runs",
            &if turn == 0 { 2 } else { TURN }.to_string(),
        ]);
        hyperfine.args(["--prepare", &clear, "--export-json"]).arg(&results).args(commands);
        let said = output(&mut hyperfine)?;
        ensure!(said.status.success(), "hyperfine: {}", String::from_utf8_lossy(&said.stderr));
        let found: Value = serde_json::from_str(&fs::read_to_string(&results)?)?;
        for (command, times) in times.iter_mut().enumerate().filter(|_| turn > 0) {
            let more =
                found["results"][command]["times"].as_array().context("hyperfine gave no times")?;
            times.extend(more.iter().filter_map(Value::as_f64).map(|seconds| seconds * 1e3));
        }
    }
    bench.clear()?;
    Ok(times)
}

/// The waiter's memory and threads while it waits.
pub fn memory(bench: &Bench) -> Result<Vec<Row>> {
    let of = |image: &str| -> Result<[f64; 3]> {
        act(bench, image, ACTION, &[])?;
        let mut sum = [0.0; 3];
        for process in bench.processes()? {
            let read = |file: &str| -> Result<String> {
                let said =
                    output(bench.machine().command("cat").arg(format!("/proc/{process}/{file}")))?;
                Ok(String::from_utf8(said.stdout)?)
            };
            let (maps, status) = (read("smaps_rollup")?, read("status")?);
            let figure = |text: &str, name: &str| -> Result<f64> {
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .with_context(|| format!("no {name}"))?;
                Ok(line.split_whitespace().next().context("no figure")?.parse()?)
            };
            sum[0] += figure(&maps, "Rss:")? / 1024.0;
            // Not "Private_Dirty": the engines keep their data in memory here, where every page of the
            // program counts as dirty.
            sum[1] += figure(&maps, "Anonymous:")? / 1024.0;
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
    let named = [("Rss", "MiB", 1.0), ("anonymous", "MiB", 0.4), ("threads", "", 1.0)];
    let row = |(at, (what, unit, bar)): (usize, (&str, &'static str, f64))| {
        Row::of(
            format!("waiter while waiting: {what}, {}", bench.name),
            unit,
            ours[at],
            peer.map(|peer| peer[at]),
            bar,
        )
    };
    Ok(named.into_iter().enumerate().map(row).collect())
}

/// The settings of a waiter on containerd, which runs the host's nerdctl in the host's namespaces.
const AS_THE_WAITER_OF_NERDCTL: &str =
    "--network=host --pid=host --read-only --cap-drop=ALL --cap-add=SYS_ADMIN --cap-add=SYS_CHROOT";

/// The settings with which the waiter's container is made. The runtime takes time for them, such as
/// 10 ms for the seccomp profile, which a privileged container does not have.
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

/// The processor time of the processes in the handoff's containers and of 10 s of waiting. The time
/// of two containers that are made in the same way and do nothing is subtracted: the runtime takes
/// it before it runs them.
pub fn processor(bench: &Bench) -> Result<Vec<Row>> {
    let floor_of = |run: usize| -> Result<f64> {
        let cgroup = format!("floor-{run}");
        let (parent, flags) =
            (format!("--cgroup-parent=/{}/{cgroup}", bench.machine().cgroup()), bench.flags());
        bench.run(&[&["run", "--rm", &parent], &flags[..], &[IMAGE, "true"]].concat())?;
        bench.run(
            &[&["run", "-d", &parent], &AS_THE_WAITER[..], &[IMAGE, "sleep", "3600"]].concat(),
        )?;
        bench.processor_time(&cgroup)
    };
    let start = |image: &str, cgroup: &str| -> Result<Instant> {
        let parent = format!("--cgroup-parent=/{}/{cgroup}", bench.machine().cgroup());
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
    (row.floor, row.result, row.peer_result) =
        (Some(floor), ours - floor, peer.map(|peer| peer - floor));
    Ok(vec![row])
}

/// The time from the action's end to the user container's start, less WAIT_SECONDS, compared with
/// the start of a created container through the engine's API.
pub fn start(bench: &Bench) -> Result<Row> {
    let machine = bench.machine();
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let user = format!("{ACTION}-user");
    let flags: Vec<&str> = bench
        .flags()
        .into_iter()
        .map(|flag| if flag == "WAIT_SECONDS=3600" { "WAIT_SECONDS=1" } else { flag })
        .collect();
    for run in 0..RUNS {
        let name = format!("floor{run}");
        bench
            .run(&[&["create", "--name", &name], &flags[..], &[IMAGE, "sleep", "3600"]].concat())?;
        let begin = Instant::now();
        let (status, said) = machine.ask("POST", &format!("/containers/{name}/start"), None)?;
        floors.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(status == 204, "cannot start: {said}");
        bench.clear()?;

        let seen = machine.events()?.len();
        bench.run(&[&["run", "--name", ACTION], &flags[..], &[OURS, "sleep", "3600"]].concat())?;
        let (end, start) = (bench.event("die", ACTION, seen)?, bench.event("start", &user, seen)?);
        ours.push((start - end - 1.0) * 1e3);
        bench.clear()?;
    }
    let what =
        format!("action's end to user container's start, less the wait / start, {}", bench.name);
    Ok(Row::ratio(what, "ms", (median(&ours), median(&floors)), None, Some(1.15)))
}

/// Runs one handoff of `image`; returns once its waiter waits and the action container has ended.
/// On Docker the container is then gone. On containerd a container that was run by hand must still
/// exist, because only it tells how it ended.
fn act(bench: &Bench, image: &str, name: &str, more: &[&str]) -> Result<()> {
    let run: &[&str] = if bench.name == "nerdctl" {
        &["run", "--name", name]
    } else {
        &["run", "--rm", "--name", name]
    };
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
