//! The log: one JSON object per line, INFO and DEBUG on standard output, WARN and ERROR on standard
//! error.
//!
//! HookOS's syslog driver turns the stream into the severity, so the stream is part of the
//! interface. The fields `time`, `level`, `message`, `phase` and `action` come first, then those
//! of the event.

use std::io::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

use log::kv::{Error, Key, Value as Given, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::error::Failure;
use crate::names::HandoffId;
use crate::{console, syslog};

/// The action container announces this and listens for the echo to learn which container it is.
pub const STARTED: &str = "handoff started";
/// The waiter announces this; the handoff listens for it.
pub const ARMED: &str = "armed";

static ACTION: OnceLock<String> = OnceLock::new();
static PHASE: OnceLock<&'static str> = OnceLock::new();

/// Starts logging at `level` for the `phase`, which is `handoff` or `waiter`.
pub fn start(level: LevelFilter, phase: &'static str) {
    // Fails only if called twice; then the settings of the first call stand.
    if PHASE.set(phase).is_ok() && log::set_logger(&Lines).is_ok() {
        log::set_max_level(level);
    }
}

/// Names the action in all lines from now on. The first name stands.
pub fn set_action(name: &str) {
    let _ = ACTION.set(name.to_owned());
}

/// Writes a line that a process waits for, with the mark of its handoff, whatever the log level.
pub fn announce(message: &'static str, handoff: &HandoffId) {
    document(message, "handoff", handoff.as_str().into());
}

/// True if a complete line of `output` is the announcement of this message by this handoff.
pub fn announces(output: &str, message: &str, handoff: &HandoffId) -> bool {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.into_iter().any(|line| line["message"] == message && line["handoff"] == handoff.as_str())
}

/// Writes a line that contains a document, whatever the log level.
pub fn document(message: &str, field: &str, document: Value) {
    let fields = Fields { message: message.to_owned(), others: vec![(field.to_owned(), document)] };
    write_to(&mut std::io::stdout(), &fields.line(Level::Info));
}

/// Writes a line in one write, so that lines of several processes do not mix. A failure is ignored:
/// there is nowhere to report it.
fn write_to(stream: &mut impl Write, line: &[u8]) {
    let _ = stream.write_all(line).and_then(|()| stream.flush());
}

/// Logs a failure at ERROR with its causes, field and fix.
pub fn failure(failure: &Failure) {
    log_at(Level::Error, failure);
}

/// Logs what may be wrong at WARN, as a failure is logged.
pub fn warning(doubt: &Failure) {
    log_at(Level::Warn, doubt);
}

fn log_at(level: Level, failure: &Failure) {
    let (causes, field, fix) = (failure.causes(), failure.field, failure.fix.as_str());
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty());
    log::log!(level, error = some(&causes), field = some(field), fix = some(fix); "{}", failure.message);
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut fields = Fields { message: record.args().to_string(), others: Vec::new() };
        // No visitor here refuses a value.
        let _ = record.key_values().visit(&mut fields);
        let level = record.level();
        let line = fields.line(level);
        if level <= Level::Warn {
            write_to(&mut std::io::stderr(), &line);
            let action = ACTION.get().map(String::as_str);
            let severity = if level == Level::Error { 3 } else { 4 };
            syslog::send(severity, &now(), action, &line);
            // The kernel takes 10 records in 5 s, so lines of container output are not sent.
            if fields.text("output").is_none() {
                console::send(severity, action, &fields.message, fields.text("error"));
            }
        } else {
            write_to(&mut std::io::stdout(), &line);
        }
    }

    fn flush(&self) {}
}

/// Returns the wall clock as RFC 3339 in UTC with microseconds.
pub fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    /// Returns the text of the field with this name, if there is one.
    fn text(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(field, _)| field == name).and_then(|(_, value)| value.as_str())
    }

    fn line(&self, level: Level) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Writing to a Vec does not fail, and the serializer refuses no value here.
        let _ = self.write(&mut out, level);
        out.push(b'\n');
        out
    }

    fn write(&self, out: &mut Vec<u8>, level: Level) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Serializer::new(out);
        let mut map = json.serialize_map(None)?;
        map.serialize_entry("time", &now())?;
        map.serialize_entry("level", level.as_str())?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("phase", PHASE.get().unwrap_or(&""))?;
        if let Some(action) = ACTION.get() {
            map.serialize_entry("action", action)?;
        }
        for (name, value) in &self.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'a> VisitSource<'a> for Fields {
    fn visit_pair(&mut self, key: Key<'a>, value: Given<'a>) -> Result<(), Error> {
        let mut seen = FieldValue(Value::Null);
        value.visit(&mut seen)?;
        // A field without a value is left out.
        if !seen.0.is_null() {
            self.others.push((key.as_str().to_owned(), seen.0));
        }
        Ok(())
    }
}

/// A field's value, as it is logged.
struct FieldValue(Value);

impl<'a> VisitValue<'a> for FieldValue {
    // Not used: fields are text, numbers and booleans. Formatting any value would add 10 KB of code
    // that prints floating point.
    fn visit_any(&mut self, _: Given<'_>) -> Result<(), Error> {
        self.0 = "?".into();
        Ok(())
    }
    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn visit_str(&mut self, value: &str) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::kv::Source;

    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_the_documented_fields_first() {
        let fields = Fields {
            message: "a\n\u{1b}[31m\"b\"".into(),
            others: vec![("exit_code".to_owned(), 3.into())],
        };
        let line = String::from_utf8(fields.line(Level::Warn)).unwrap();
        assert!(
            !line.trim_end().contains(['\n', '\u{1b}']),
            "control characters must be escaped: {line}"
        );
        let order: Vec<usize> =
            ["\"time\"", "\"level\"", "\"message\"", "\"phase\"", "\"exit_code\""]
                .map(|key| line.find(key).unwrap())
                .into();
        assert!(order.is_sorted(), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["exit_code"]), (&"WARN".into(), &3.into()));
    }

    #[test]
    fn fields_are_text_numbers_and_truths() {
        let mut fields = Fields { message: String::new(), others: Vec::new() };
        let given = [
            ("text", Given::from("a")),
            ("number", Given::from(3_u64)),
            ("truth", Given::from(true)),
            ("none", Given::null()),
        ];
        given.as_slice().visit(&mut fields).unwrap();
        let expected = [("text", Value::from("a")), ("number", 3.into()), ("truth", true.into())];
        assert_eq!(fields.others, expected.map(|(name, value)| (name.to_owned(), value)));
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
