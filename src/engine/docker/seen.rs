//! What the Docker Engine shows, read into the seam's types. Pure.

use serde_json::Value;

use super::refusal::NOT_A_CONTAINER;
use crate::engine::json::{list, text};
use crate::engine::{Image, Kind, Life, Refusal, Seen, Whole};
use crate::names::{JOURNAL_FOLDER, LABEL_ACTION, LABEL_HANDOFF, LABEL_MADE_BY, LABEL_ROLE, Role};
use crate::retry::Retry;

/// Reads the answer to `GET /containers/{id}/json`.
///
/// # Errors
/// If the answer is not about a container: that is no answer.
pub fn container(document: Value) -> Result<Seen, Refusal> {
    let Some(id) = document["Id"].as_str().filter(|id| !id.is_empty()) else {
        return Err(Refusal::new(Kind::MayPass(Retry::UntilDeadline), NOT_A_CONTAINER));
    };
    let (config, labels) = (&document["Config"], &document["Config"]["Labels"]);
    let words = std::iter::once(&document["Path"]).chain(list(&document["Args"]));
    let role = Role::of(text(&labels[LABEL_ROLE]));
    Ok(Seen {
        id: id.to_owned(),
        name: text(&document["Name"]).trim_start_matches('/').to_owned(),
        role,
        action: text(&labels[LABEL_ACTION]).to_owned(),
        handoff: text(&labels[LABEL_HANDOFF]).to_owned(),
        made_by: text(&labels[LABEL_MADE_BY]).to_owned(),
        life: life(&document["State"]),
        folder: (role == Some(Role::Waiter)).then(|| JOURNAL_FOLDER.into()),
        log_removed: false,
        whole: Whole {
            image: text(&document["Image"]).to_owned(),
            command: words.map(|word| text(word).to_owned()).collect(),
            tty: config["Tty"] == true,
            // The agent removes its container whatever became of it.
            deleted_on_success: false,
            document,
        },
    })
}

/// Reads `State` (API 1.41, `ContainerState`). The only place where its words are read.
fn life(state: &Value) -> Life {
    match text(&state["Status"]) {
        "created" => Life::Created,
        "running" | "paused" | "restarting" => {
            let pid = state["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
            Life::Running { pid }
        }
        "exited" => {
            let said = text(&state["Error"]);
            let note = if state["OOMKilled"] == true { format!("out of memory {said}") } else { said.to_owned() };
            Life::Ended { code: state["ExitCode"].as_i64().unwrap_or(-1), note: note.trim().to_owned() }
        }
        "removing" | "dead" => Life::Leaving,
        other => Life::Unknown(format!("the engine calls its state {other:?}")),
    }
}

/// Reads the answer to `wait` (API 1.41, `ContainerWaitResponse`); `None` if it says nothing, as when the connection
/// is closed.
pub fn end(answer: &Value) -> Option<Life> {
    let code = answer["StatusCode"].as_i64()?;
    Some(Life::Ended { code, note: text(&answer["Error"]["Message"]).to_owned() })
}

/// Reads the answer to `GET /images/{name}/json`.
pub fn image(document: Value) -> Image {
    Image { id: text(&document["Id"]).to_owned(), config: document["Config"].clone(), document }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lives_are_read_from_state() {
        for (state, expected) in [
            (json!({"Status": "created", "ExitCode": 0, "Running": false}), Life::Created),
            (json!({"Status": "created", "ExitCode": 127, "Error": "exec: x"}), Life::Created),
            (json!({"Status": "running", "Pid": 42}), Life::Running { pid: Some(42) }),
            (json!({"Status": "paused", "Pid": 42}), Life::Running { pid: Some(42) }),
            (json!({"Status": "restarting", "Pid": 0}), Life::Running { pid: None }),
            (json!({"Status": "exited", "ExitCode": 0, "Error": ""}), Life::Ended { code: 0, note: String::new() }),
            (
                json!({"Status": "exited", "ExitCode": 137, "Error": "", "OOMKilled": true}),
                Life::Ended { code: 137, note: "out of memory".into() },
            ),
            (json!({"Status": "removing"}), Life::Leaving),
            (json!({"Status": "dead"}), Life::Leaving),
        ] {
            assert_eq!(life(&state), expected, "{state}");
        }
        for state in [Value::Null, json!([]), json!({"Status": "x"}), json!({"Running": true})] {
            assert!(matches!(life(&state), Life::Unknown(_)), "{state}");
        }
    }

    #[test]
    fn recorded_containers_are_read() {
        for text in [
            include_str!("../../../tests/fixtures/docker-debian.json"),
            include_str!("../../../tests/fixtures/docker-moby.json"),
        ] {
            let recording: Value = serde_json::from_str(text).unwrap();
            let seen = container(recording["container"].clone()).unwrap();
            assert_eq!((seen.name.as_str(), seen.role), ("action", None));
            assert_eq!(seen.whole.command, ["/waitdaemon", "reboot"]);
            assert_eq!(seen.whole.image, image(recording["image"].clone()).id);
        }
    }

    #[test]
    fn what_is_not_about_a_container_is_no_answer() {
        for document in [Value::Null, json!([]), json!({}), json!({"Id": ""}), json!({"Id": 1}), json!("x")] {
            assert_eq!(
                container(document.clone()).unwrap_err().kind,
                Kind::MayPass(Retry::UntilDeadline),
                "{document}"
            );
        }
        assert_eq!(end(&json!({"StatusCode": 0, "Error": null})), Some(Life::Ended { code: 0, note: String::new() }));
        assert_eq!(end(&Value::Null), None);
    }

    proptest::proptest! {
        #[test]
        fn any_json_is_read(value in crate::engine::json::any()) {
            let _ = container(value.clone());
            let _ = (life(&value), end(&value), image(value));
        }
    }
}
