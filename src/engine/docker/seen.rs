//! Reads what the Docker Engine shows into the seam's types. Pure.

use serde_json::Value;

use crate::engine::json::{list, text};
use crate::engine::platform::Platform;
use crate::engine::{Image, Life, NOT_A_CONTAINER, Refusal, Seen, Whole};
use crate::names::{
    JOURNAL_FOLDER, LABEL_ACTION, LABEL_HANDOFF, LABEL_MADE_BY, LABEL_REQUEST, LABEL_ROLE,
    RequestMark, Role,
};
use crate::reference::Reference;

/// Reads the answer to `GET /containers/{id}/json`.
///
/// # Errors
/// If the answer is not about a container; that counts as no answer.
pub fn container(document: Value) -> Result<Seen, Refusal> {
    let Some(id) = document["Id"].as_str().filter(|id| !id.is_empty()) else {
        return Err(Refusal::passing(NOT_A_CONTAINER));
    };
    let (config, labels) = (&document["Config"], &document["Config"]["Labels"]);
    let words = std::iter::once(&document["Path"]).chain(list(&document["Args"]));
    let role = Role::from_label(text(&labels[LABEL_ROLE]));
    Ok(Seen {
        id: id.to_owned(),
        name: text(&document["Name"]).trim_start_matches('/').to_owned(),
        role,
        action: text(&labels[LABEL_ACTION]).to_owned(),
        handoff: text(&labels[LABEL_HANDOFF]).to_owned(),
        made_by: text(&labels[LABEL_MADE_BY]).to_owned(),
        request: RequestMark(text(&labels[LABEL_REQUEST]).to_owned()),
        life: life(&document["State"]),
        folder: (role == Some(Role::Waiter)).then(|| JOURNAL_FOLDER.into()),
        log_removed: false,
        whole: Whole {
            image: text(&document["Image"]).to_owned(),
            command: words.map(|word| text(word).to_owned()).collect(),
            tty: config["Tty"] == true,
            has_host_pids: document["HostConfig"]["PidMode"] == "host",
            // The agent removes its container whatever the outcome.
            deleted_on_success: false,
            document,
        },
    })
}

/// Interprets `State` (API 1.41, `ContainerState`). Only this function reads its words.
fn life(state: &Value) -> Life {
    match text(&state["Status"]) {
        "created" => Life::Created,
        "running" | "paused" | "restarting" => {
            let pid = state["Pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0);
            Life::Running { pid }
        }
        "exited" => {
            let said = text(&state["Error"]);
            let note = if state["OOMKilled"] == true {
                format!("out of memory {said}")
            } else {
                said.to_owned()
            };
            Life::Ended {
                code: state["ExitCode"].as_i64().unwrap_or(-1),
                note: note.trim().to_owned(),
            }
        }
        "removing" | "dead" => Life::Removing,
        other => Life::Unknown(format!("the engine calls its state {other:?}")),
    }
}

/// Returns the MAC address that a container has on its own network, no matter who chose it.
pub fn network_address(document: &Value) -> Value {
    let mode = text(&document["HostConfig"]["NetworkMode"]);
    let name = if mode == "default" { "bridge" } else { mode };
    document["NetworkSettings"]["Networks"][name]["MacAddress"].clone()
}

/// Returns the MAC address that somebody chose, as API 1.51 and older show it.
pub fn chosen_address(document: &Value) -> Value {
    document["Config"]["MacAddress"].clone()
}

/// Reads the answer to `wait` (API 1.41, `ContainerWaitResponse`); returns `None` if it says
/// nothing, as when the connection is closed, or if the wait itself failed (-1; moby, `State.Wait`).
pub fn end(answer: &Value) -> Option<Life> {
    let code = answer["StatusCode"].as_i64().filter(|code| *code >= 0)?;
    Some(Life::Ended { code, note: text(&answer["Error"]["Message"]).to_owned() })
}

/// Reads the answer to `GET /images/{name}/json`. Returns `None` if it is about another image: the
/// engine takes an unknown name for the beginning of an ID (moby, `GetImage`).
pub fn image(asked: &str, document: Value) -> Option<Image> {
    let id = text(&document["Id"]).to_owned();
    let by_id = id == asked || id.strip_prefix("sha256:") == Some(asked);
    let by_name = Reference::parse(asked).is_ok_and(|reference| {
        // Another digest is another image; the engine compares digests in full.
        reference.digest().is_some()
            || list(&document["RepoTags"]).iter().any(|name| reference.is_named(text(name)))
    });
    (by_id || by_name).then(|| Image {
        id,
        name: asked.to_owned(),
        platform: Platform::read(&document, "Os", "Architecture"),
        config: document["Config"].clone(),
        document,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Kind;
    use crate::retry::Retry;

    #[test]
    fn lives_are_read_from_state() {
        for (state, expected) in [
            (json!({"Status": "created", "ExitCode": 0, "Running": false}), Life::Created),
            (json!({"Status": "created", "ExitCode": 127, "Error": "exec: x"}), Life::Created),
            (json!({"Status": "running", "Pid": 42}), Life::Running { pid: Some(42) }),
            (json!({"Status": "paused", "Pid": 42}), Life::Running { pid: Some(42) }),
            (json!({"Status": "restarting", "Pid": 0}), Life::Running { pid: None }),
            (
                json!({"Status": "exited", "ExitCode": 0, "Error": ""}),
                Life::Ended { code: 0, note: String::new() },
            ),
            (
                json!({"Status": "exited", "ExitCode": 137, "Error": "", "OOMKilled": true}),
                Life::Ended { code: 137, note: "out of memory".into() },
            ),
            (json!({"Status": "removing"}), Life::Removing),
            (json!({"Status": "dead"}), Life::Removing),
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
            let by_id = image(&seen.whole.image, recording["image"].clone()).unwrap();
            assert_eq!(
                (seen.whole.image.as_str(), by_id.architecture()),
                (by_id.id.as_str(), "amd64")
            );
        }
    }

    #[test]
    fn an_image_is_the_one_that_was_asked_for() {
        let id = format!("sha256:{}", "cafe".repeat(16));
        let document =
            json!({"Id": id, "RepoTags": ["alpine:latest", "r.example.org/a:1"], "Os": "linux"});
        let digest = format!("mirror.example.org/alpine@{id}");
        for asked in [
            "alpine",
            "docker.io/library/alpine:latest",
            "r.example.org/a:1",
            &id,
            &id[7..],
            &digest,
        ] {
            assert!(image(asked, document.clone()).is_some(), "{asked}");
        }
        for asked in ["cafe", "cafecafecafe", "alpine:3", "r.example.org/a", "sha256:cafe"] {
            assert!(image(asked, document.clone()).is_none(), "{asked}");
        }
    }

    #[test]
    fn what_is_not_about_a_container_is_no_answer() {
        for document in
            [Value::Null, json!([]), json!({}), json!({"Id": ""}), json!({"Id": 1}), json!("x")]
        {
            assert_eq!(
                container(document.clone()).unwrap_err().kind,
                Kind::MayPass(Retry::UntilDeadline),
                "{document}"
            );
        }
        assert_eq!(
            end(&json!({"StatusCode": 0, "Error": null})),
            Some(Life::Ended { code: 0, note: String::new() })
        );
        let broken = json!({"StatusCode": -1, "Error": {"Message": "context canceled"}});
        assert_eq!((end(&Value::Null), end(&broken)), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn any_json_is_read(value in crate::engine::json::any()) {
            let _ = container(value.clone());
            let _ = (life(&value), end(&value), network_address(&value), chosen_address(&value));
            let _ = image("alpine", value);
        }
    }
}
