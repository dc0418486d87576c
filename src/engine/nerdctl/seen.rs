//! What nerdctl's native documents show, read into the seam's types. Pure.

use std::path::PathBuf;

use serde_json::Value;

use super::spec::made_by_nerdctl;
use crate::engine::json::{list, text};
use crate::engine::{Detail, Image, Kind, Life, Refusal, Seen, Whole};
use crate::names::{LABEL_ACTION, LABEL_HANDOFF, LABEL_MADE_BY, LABEL_ROLE, Role};
use crate::retry::Retry;

/// The template that prints what [`Detail::Life`] needs, which is little of a native document.
pub const LITTLE: &str = r#"{"ID":{{json .ID}},"Labels":{{json .Labels}},"Process":{{json .Process}}}"#;

/// Reads a native document, or what [`LITTLE`] left of it.
///
/// # Errors
/// If it is not about a container: that is no answer.
pub fn container(document: Value, detail: Detail) -> Result<Seen, Refusal> {
    let Some(id) = document["ID"].as_str().filter(|id| !id.is_empty()) else {
        return Err(Refusal::new(Kind::MayPass(Retry::UntilDeadline), "the answer is not about a container"));
    };
    let labels = &document["Labels"];
    let name = labels["nerdctl/name"].as_str().unwrap_or(id.get(..12).unwrap_or(id));
    let process = &document["Spec"]["process"];
    Ok(Seen {
        id: id.to_owned(),
        name: name.to_owned(),
        role: Role::of(text(&labels[LABEL_ROLE])),
        action: text(&labels[LABEL_ACTION]).to_owned(),
        handoff: text(&labels[LABEL_HANDOFF]).to_owned(),
        made_by: text(&labels[LABEL_MADE_BY]).to_owned(),
        life: life(&document["Process"]),
        folder: labels["nerdctl/state-dir"].as_str().map(PathBuf::from),
        log_removed: false,
        whole: match detail {
            Detail::Life => Whole::default(),
            Detail::Whole => Whole {
                image: text(&document["Image"]).to_owned(),
                command: list(&process["args"]).iter().map(|word| text(word).to_owned()).collect(),
                tty: process["terminal"] == true,
                deleted_on_success: !made_by_nerdctl(&document),
                document,
            },
        },
    })
}

/// Reads `Process` (containerd's `ProcessStatus`). The only place where its words are read.
fn life(process: &Value) -> Life {
    let pid = || process["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    match text(&process["Status"]["Status"]) {
        _ if process.is_null() => Life::Created,
        "created" => Life::Starting { pid: pid() },
        "running" | "pausing" | "paused" => Life::Running { pid: pid() },
        "stopped" => match process["Status"]["ExitStatus"].as_i64() {
            Some(code) => Life::Ended { code, note: String::new() },
            None => Life::Unknown("containerd does not say how it ended".into()),
        },
        other => Life::Unknown(format!("containerd calls its state {other:?}")),
    }
}

/// Reads a native image document.
pub fn image(document: Value) -> Image {
    Image {
        id: text(&document["Image"]["Target"]["digest"]).to_owned(),
        config: document["ImageConfig"]["config"].clone(),
        document,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lives_are_read_from_the_process() {
        for (process, expected) in [
            (Value::Null, Life::Created),
            (json!({"Pid": 7, "Status": {"Status": "created"}}), Life::Starting { pid: Some(7) }),
            (json!({"Pid": 7, "Status": {"Status": "running", "ExitStatus": 0}}), Life::Running { pid: Some(7) }),
            (json!({"Pid": 7, "Status": {"Status": "paused"}}), Life::Running { pid: Some(7) }),
            (
                json!({"Pid": 7, "Status": {"Status": "stopped", "ExitStatus": 3}}),
                Life::Ended { code: 3, note: String::new() },
            ),
        ] {
            assert_eq!(life(&process), expected, "{process}");
        }
        for process in [json!({}), json!({"Status": {"Status": "unknown"}}), json!({"Status": {"Status": "stopped"}})] {
            assert!(matches!(life(&process), Life::Unknown(_)), "{process}");
        }
    }

    #[test]
    fn recorded_containers_are_read() {
        let agents: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json")).unwrap();
        assert!(container(agents, Detail::Whole).unwrap().whole.deleted_on_success);
        let by_hand: Value = serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native.json")).unwrap();
        let seen = container(by_hand["container"].clone(), Detail::Whole).unwrap();
        assert_eq!((seen.name.as_str(), seen.life, seen.whole.deleted_on_success), ("action", Life::Created, false));
        assert_eq!(image(by_hand["image"].clone()).config["Entrypoint"], json!(["/waitdaemon"]));
    }

    #[test]
    fn what_is_not_about_a_container_is_no_answer() {
        for document in [json!({}), json!({"ID": ""}), json!({"ID": 1}), Value::Null, json!([1])] {
            let kind = container(document.clone(), Detail::Life).unwrap_err().kind;
            assert_eq!(kind, Kind::MayPass(Retry::UntilDeadline), "{document}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_json_is_read(value in crate::engine::json::any()) {
            let _ = container(value.clone(), Detail::Whole);
            let _ = (life(&value), image(value));
        }
    }
}
