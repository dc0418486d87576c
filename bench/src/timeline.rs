//! docs/timeline.svg: the steps of one handoff, wait and start as bars, from a real run.

use std::fmt::Write;

use anyhow::Result;
use serde_json::Value;

use crate::engines::{Bench, IMAGE, OURS};

const ACTION: &str = "tinkerbell_reboot_timeline";
/// The wait, in seconds.
const WAIT: f64 = 2.0;

/// The length of a day, in milliseconds.
const DAY: f64 = 86_400_000.0;

/// One bar of the picture.
#[derive(Debug)]
pub struct Step {
    container: Container,
    what: String,
    /// The start, in milliseconds since the action container was started.
    from: f64,
    to: f64,
}

/// The program that takes the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Action,
    Waiter,
    User,
}

impl Container {
    fn colour(self) -> &'static str {
        match self {
            Self::Action => "#4269d0",
            Self::Waiter => "#3ca951",
            Self::User => "#ff725c",
        }
    }
}

/// Runs one action and reads the times of its steps from the engine's events and the logs.
pub fn record(bench: &Bench) -> Result<Vec<Step>> {
    let machine = bench.machine();
    let seen = machine.events()?.len();
    let (waiter, user) = (format!("{ACTION}-waiter"), format!("{ACTION}-user"));
    let socket = "/var/run/docker.sock:/var/run/docker.sock";
    let wait = format!("WAIT_SECONDS={WAIT}");
    let image = format!("IMAGE={IMAGE}");
    bench.run(&[
        "run",
        "--name",
        ACTION,
        "--pid",
        "host",
        "-v",
        socket,
        "-e",
        &image,
        "-e",
        &wait,
        "-e",
        "WAITDAEMON_LOG=debug",
        OURS,
        "sleep",
        "3600",
    ])?;
    let time = |action: &str, name: &str| {
        Ok::<_, anyhow::Error>(bench.event(action, name, seen)? * 1e3 % DAY)
    };
    let begin = time("start", ACTION)?;
    let (action_end, waiter_start, user_start) =
        (time("die", ACTION)?, time("start", &waiter)?, time("start", &user)?);
    let mut steps = Vec::new();
    let mut bar = |container, what: &str, from: f64, to: f64| {
        steps.push(Step { container, what: what.to_owned(), from: from - begin, to: to - begin });
    };
    bar(Container::Action, "action container runs", begin, action_end);
    for line in said(bench, ACTION)? {
        if let Some((what, from, to)) = request(&line) {
            bar(Container::Action, &what, from, to);
        }
    }
    bar(Container::Waiter, "waiter runs", waiter_start, user_start + 200.0);
    let requests: Vec<_> = said(bench, &waiter)?.iter().filter_map(request).collect();
    let waits = |from: f64| from > action_end + WAIT * 1e3 - 50.0;
    for (what, from, to) in requests.iter().filter(|(_, from, _)| !waits(*from)) {
        bar(Container::Waiter, what, *from, *to);
    }
    bar(Container::Waiter, &format!("waits {WAIT} s"), action_end, action_end + WAIT * 1e3);
    for (what, from, to) in requests.iter().filter(|(_, from, _)| waits(*from)) {
        bar(Container::Waiter, what, *from, *to);
    }
    bar(Container::User, "user container runs", user_start, user_start + 200.0);
    bench.clear()?;
    Ok(steps)
}

/// The lines of a container's log.
fn said(bench: &Bench, container: &str) -> Result<Vec<Value>> {
    let log = bench.run(&["logs", container])?;
    Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A request to the engine: its purpose, its start and its end in milliseconds since 1970.
fn request(line: &Value) -> Option<(String, f64, f64)> {
    let request = line["request"].as_str()?;
    let to = milliseconds(line["time"].as_str()?)?;
    let from = to - line["milliseconds"].as_f64()?;
    let (method, path) = request.split_once(' ')?;
    let words = match (method, path.rsplit('/').next()?) {
        (_, "_ping") => "is an engine there? which API?",
        (_, "attach") => "listen to output",
        ("POST", "create") => "create a container",
        ("POST", "start") => "start a container",
        ("POST", "wait") => "listen for the action's end",
        ("GET", "json") if path.contains("/images/") => "look at an image",
        ("GET", "json") if path == "/containers/json" => "look for an earlier attempt",
        ("GET", "json") => "look at a container",
        _ => request,
    };
    Some((words.to_owned(), from, to))
}

/// The milliseconds of the day of a time in RFC 3339 and UTC.
fn milliseconds(time: &str) -> Option<f64> {
    let (_, time) = time.trim_end_matches('Z').split_once('T')?;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1e3)
}

/// The sizes of the picture's parts, in pixels.
mod size {
    pub const LABELS: f64 = 250.0;
    pub const BARS: f64 = 600.0;
    pub const RIGHT: f64 = 80.0;
    pub const ROW: f64 = 19.0;
    pub const TOP: f64 = 62.0;
    pub const BREAK: f64 = 40.0;
}

/// The time axis of the picture; most of the wait is left out.
struct Axis {
    /// The part of the wait that is left out, in milliseconds.
    left_out: (f64, f64),
    scale: f64,
}

impl Axis {
    fn of(steps: &[Step]) -> Self {
        let wait = steps
            .iter()
            .find(|step| step.what.starts_with("waits"))
            .map_or((0.0, 0.0), |wait| (wait.from, wait.to));
        let left_out = (wait.0 + 60.0, wait.1 - 40.0);
        let last = steps.iter().map(|step| step.to).fold(0.0, f64::max);
        let shown = last - (left_out.1 - left_out.0);
        Self { left_out, scale: (size::BARS - size::BREAK) / shown }
    }

    fn x(&self, time: f64) -> f64 {
        let (from, to) = self.left_out;
        let bars = if time <= from {
            time * self.scale
        } else if time < to {
            from * self.scale + size::BREAK * (time - from) / (to - from)
        } else {
            (from + time - to) * self.scale + size::BREAK
        };
        size::LABELS + bars
    }
}

/// Draws the steps as an SVG.
///
/// # Errors
/// None: writing to a String does not fail.
pub fn draw(steps: &[Step]) -> Result<String> {
    let axis = Axis::of(steps);
    let (width, height) = (
        size::LABELS + size::BARS + size::RIGHT,
        size::TOP + size::ROW * steps.len() as f64 + 34.0,
    );
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(svg, "<title>One handoff, wait and start, step by step</title>")?;
    writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>")?;
    writeln!(
        svg,
        "<text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">One handoff, wait and start, step by step</text>"
    )?;
    let mut legend = 10.0;
    for (container, name) in [
        (Container::Action, "action container"),
        (Container::Waiter, "waiter"),
        (Container::User, "user container"),
    ] {
        writeln!(
            svg,
            "<rect x=\"{legend:.0}\" y=\"32\" width=\"11\" height=\"11\" fill=\"{}\"/>",
            container.colour()
        )?;
        writeln!(svg, "<text x=\"{:.0}\" y=\"42\">{name}</text>", legend + 16.0)?;
        legend += 40.0 + name.len() as f64 * 6.5;
    }
    let bottom = size::TOP + size::ROW * steps.len() as f64;
    for time in ticks(steps, &axis) {
        let x = axis.x(time);
        writeln!(svg, "<path d=\"M{x:.1} {:.0}V{bottom:.0}\" stroke=\"#ddd\"/>", size::TOP - 4.0)?;
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{time:.0}</text>",
            bottom + 16.0
        )?;
    }
    for (index, step) in steps.iter().enumerate() {
        let y = size::TOP + size::ROW * index as f64;
        let (from, to) = (axis.x(step.from), axis.x(step.to));
        let whole = step.what.ends_with("runs") || step.what.starts_with("waits");
        let opacity = if whole { 0.35 } else { 1.0 };
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            size::LABELS - 8.0,
            y + 13.0,
            step.what
        )?;
        writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"13\" fill=\"{}\" fill-opacity=\"{opacity}\"/>",
            y + 2.0,
            (to - from).max(1.0),
            step.container.colour()
        )?;
        if !whole {
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#555\">{:.0}</text>",
                to + 4.0,
                y + 13.0,
                step.to - step.from
            )?;
        }
    }
    let middle = axis.x(f64::midpoint(axis.left_out.0, axis.left_out.1));
    writeln!(svg, "<path d=\"M{:.1} {bottom:.0}l6 -8m2 8l6 -8\" stroke=\"#555\"/>", middle - 7.0)?;
    writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"#555\">ms</text>",
        width - size::RIGHT + 24.0,
        bottom + 16.0
    )?;
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

/// The ticks: every 100 ms, on both sides of the part that is left out.
fn ticks(steps: &[Step], axis: &Axis) -> Vec<f64> {
    let last = steps.iter().map(|step| step.to).fold(0.0, f64::max);
    let all = (0..).map(|count| f64::from(count) * 100.0).take_while(|time| *time <= last);
    all.filter(|time| *time <= axis.left_out.0 || *time >= axis.left_out.1).collect()
}
