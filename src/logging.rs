//! One JSON object a line: INFO and DEBUG on standard output, WARN and ERROR on standard error.
//!
//! HookOS's syslog driver turns the stream into the severity, so the stream is part of the
//! interface. The fields `time`, `level`, `message`, `phase` and `action` come first, then those
//! of the event.

use std::fmt::Debug;
use std::io::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::Failure;
use crate::names::HandoffId;
use crate::{console, syslog};

/// Events of this target are written whatever the level: a process waits for the line.
const ANNOUNCE: &str = "announce";
/// Announced by the action container, which listens for the echo to know which container it is.
pub const STARTED: &str = "handoff started";
/// Announced by the waiter; the handoff listens for it.
pub const ARMED: &str = "armed";

static ACTION: OnceLock<String> = OnceLock::new();

/// Starts logging at `level` for the `phase`, which is `handoff` or `waiter`.
pub fn start(level: Level, phase: &'static str) {
    // Fails only when called twice, and then the first one's settings stand.
    let _ = tracing::subscriber::set_global_default(Lines { level, phase });
}

/// Names the action in all lines from now on. The first name stands.
pub fn set_action(name: &str) {
    let _ = ACTION.set(name.to_owned());
}

/// Writes a line that a process waits for, with the mark of its handoff.
pub fn announce(message: &'static str, handoff: &HandoffId) {
    tracing::info!(target: ANNOUNCE, handoff = handoff.as_str(), "{message}");
}

/// True if a complete line of `output` is the announcement of this message by this handoff.
pub fn announces(output: &str, message: &str, handoff: &HandoffId) -> bool {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().any(|line| line["message"] == message && line["handoff"] == handoff.as_str())
}

/// Writes a line of the handoff with a document in it, at every level.
pub fn document(message: &str, field: &'static str, document: Value) {
    let lines = Lines { level: Level::INFO, phase: "handoff" };
    let fields = Fields { message: message.to_owned(), others: vec![(field, document)] };
    write_to(&mut std::io::stdout(), &lines.line(Level::INFO, &fields));
}

/// One write per line, so that lines of several processes do not mix. There is nobody to tell when the log itself
/// cannot be written.
fn write_to(stream: &mut impl Write, line: &[u8]) {
    let _ = stream.write_all(line).and_then(|()| stream.flush());
}

/// Logs a failure at ERROR with its causes, field and fix.
pub fn failure(failure: &Failure) {
    let (causes, field, fix) = (failure.causes(), failure.field, failure.fix.as_str());
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    tracing::error!(error = some(&causes), field = some(field), fix = some(fix), "{}", failure.message);
}

struct Lines {
    level: Level,
    phase: &'static str,
}

/// Events are all that is logged here; spans are not used.
impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        metadata.target() == ANNOUNCE || (own && *metadata.level() <= self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = self.line(*metadata.level(), &fields);
        if *metadata.level() <= Level::WARN {
            write_to(&mut std::io::stderr(), &line);
            let action = ACTION.get().map(String::as_str);
            syslog::send(*metadata.level(), &now(), action, &line);
            // The kernel takes 10 records in 5 s: none for each line of somebody's output.
            if fields.text("output").is_none() {
                console::send(*metadata.level(), action, &fields.message, fields.text("error"));
            }
        } else {
            write_to(&mut std::io::stdout(), &line);
        }
    }
}

impl Lines {
    fn line(&self, level: Level, fields: &Fields) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Writing to a Vec does not fail, and no value here can be refused by the serializer.
        let _ = self.write(&mut out, level, fields);
        out.push(b'\n');
        out
    }

    fn write(&self, out: &mut Vec<u8>, level: Level, fields: &Fields) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Serializer::new(out);
        let mut map = json.serialize_map(None)?;
        map.serialize_entry("time", &now())?;
        map.serialize_entry("level", level.as_str())?;
        map.serialize_entry("message", &fields.message)?;
        map.serialize_entry("phase", self.phase)?;
        if let Some(action) = ACTION.get() {
            map.serialize_entry("action", action)?;
        }
        for (name, value) in &fields.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The wall clock as RFC 3339 in UTC with microseconds.
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    /// The text of a field, if there is one of this name.
    fn text(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(field, _)| *field == name).and_then(|(_, value)| value.as_str())
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, Value::String(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::String(value.to_owned()));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
    // Not used here; the trait's own way brings 10 KB that print floating point.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_the_documented_fields_first() {
        let lines = Lines { level: Level::INFO, phase: "handoff" };
        let fields = Fields { message: "a\n\u{1b}[31m\"b\"".into(), others: vec![("exit_code", 3.into())] };
        let line = String::from_utf8(lines.line(Level::WARN, &fields)).unwrap();
        assert!(!line.trim_end().contains(['\n', '\u{1b}']), "control characters must be escaped: {line}");
        let order: Vec<usize> = ["\"time\"", "\"level\"", "\"message\"", "\"phase\"", "\"exit_code\""]
            .map(|key| line.find(key).unwrap())
            .into();
        assert!(order.is_sorted(), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["exit_code"]), (&"WARN".into(), &3.into()));
    }

    #[test]
    fn only_this_handoffs_own_announcement_counts() {
        let (handoff, other) = (HandoffId::random().unwrap(), HandoffId::random().unwrap());
        let line = |message: &str, handoff: &HandoffId| {
            format!("{{\"message\":\"{message}\",\"handoff\":\"{}\"}}\n", handoff.as_str())
        };
        assert!(announces(&format!("noise\n{}", line("armed", &handoff)), ARMED, &handoff));
        assert!(!announces(&line("armed", &other), ARMED, &handoff));
        assert!(!announces(&line("disarmed", &handoff), ARMED, &handoff));
        assert!(!announces("{\"message\":\"arm", ARMED, &handoff));
    }

    #[test]
    fn time_is_rfc_3339_in_utc() {
        let text = now();
        assert_eq!(text.len(), "2026-11-22T17:24:01.000000Z".len(), "{text}");
        assert!(text.ends_with('Z') && text.as_bytes()[10] == b'T');
    }
}
