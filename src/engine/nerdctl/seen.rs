//! Reads nerdctl's native documents into the seam's types. Pure.

use std::path::PathBuf;

use serde_json::Value;

use super::spec::{has_namespace, made_by_nerdctl};
use crate::engine::json::{list, short, text, texts};
use crate::engine::platform::Platform;
use crate::engine::{Detail, Image, Life, NOT_A_CONTAINER, Refusal, Seen, Whole};
use crate::names::{
    LABEL_ACTION, LABEL_HANDOFF, LABEL_MADE_BY, LABEL_REQUEST, LABEL_ROLE, RequestMark, Role,
};
use crate::reference::Reference;

/// The template that prints what [`Detail::Life`] needs, a small part of a native document.
pub const LITTLE: &str =
    r#"{"ID":{{json .ID}},"Labels":{{json .Labels}},"Process":{{json .Process}}}"#;

/// Reads a native document, or the part of it that [`LITTLE`] prints.
///
/// # Errors
/// If it is not about a container; that counts as no answer.
pub fn container(document: Value, detail: Detail) -> Result<Seen, Refusal> {
    let Some(id) = document["ID"].as_str().filter(|id| !id.is_empty()) else {
        return Err(Refusal::passing(NOT_A_CONTAINER));
    };
    let labels = &document["Labels"];
    let name = labels["nerdctl/name"].as_str().unwrap_or(short(id));
    let process = &document["Spec"]["process"];
    let has_own_pids = has_namespace(&document["Spec"], "pid");
    Ok(Seen {
        id: id.to_owned(),
        name: name.to_owned(),
        role: Role::from_label(text(&labels[LABEL_ROLE])),
        action: text(&labels[LABEL_ACTION]).to_owned(),
        handoff: text(&labels[LABEL_HANDOFF]).to_owned(),
        made_by: text(&labels[LABEL_MADE_BY]).to_owned(),
        request: RequestMark(text(&labels[LABEL_REQUEST]).to_owned()),
        life: life(&document["Process"]),
        folder: labels["nerdctl/state-dir"].as_str().map(PathBuf::from),
        log_removed: false,
        whole: match detail {
            Detail::Life => Whole::default(),
            Detail::Whole => Whole {
                image: text(&document["Image"]).to_owned(),
                command: texts(&process["args"]),
                tty: process["terminal"] == true,
                has_host_pids: !has_own_pids,
                deleted_on_success: !made_by_nerdctl(&document),
                document,
            },
        },
    })
}

/// Interprets `Process` (containerd's `ProcessStatus`). Only this function reads its words.
fn life(process: &Value) -> Life {
    let pid =
        || process["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
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

/// Chooses the native document of the image that was asked for. nerdctl shows all images of the
/// same content and, for an unknown name, those whose digest begins with it (2.2.1,
/// `inspectIdentifier`). With a digest, only the content counts, under whatever name it is here.
pub fn image(asked: &Reference, documents: Vec<Value>) -> Option<Image> {
    let is_named = |document: &Value| asked.is_named(text(&document["Image"]["Name"]));
    let has_digest = |document: &Value| {
        asked.digest().is_some_and(|digest| document["Image"]["Target"]["digest"] == digest)
    };
    let mut documents: Vec<Value> =
        documents.into_iter().filter(|one| is_named(one) || has_digest(one)).collect();
    let index = documents.iter().position(is_named).unwrap_or(0);
    let document = (index < documents.len()).then(|| documents.swap_remove(index))?;
    Some(Image {
        id: text(&document["Image"]["Target"]["digest"]).to_owned(),
        name: text(&document["Image"]["Name"]).to_owned(),
        platform: Platform::read(&document["ImageConfig"], "os", "architecture"),
        config: document["ImageConfig"]["config"].clone(),
        document,
    })
}

/// Returns the platforms for which a registry has an image, from its manifests: an index lists
/// them, a single manifest does not.
pub fn platforms(manifests: &[Value]) -> Vec<Platform> {
    let of_index = manifests.iter().flat_map(|manifest| list(&manifest["manifests"]));
    of_index.filter_map(|entry| Platform::read(&entry["platform"], "os", "architecture")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Kind;
    use crate::retry::Retry;

    #[test]
    fn lives_are_read_from_the_process() {
        for (process, expected) in [
            (Value::Null, Life::Created),
            (json!({"Pid": 7, "Status": {"Status": "created"}}), Life::Starting { pid: Some(7) }),
            (
                json!({"Pid": 7, "Status": {"Status": "running", "ExitStatus": 0}}),
                Life::Running { pid: Some(7) },
            ),
            (json!({"Pid": 7, "Status": {"Status": "paused"}}), Life::Running { pid: Some(7) }),
            (
                json!({"Pid": 7, "Status": {"Status": "stopped", "ExitStatus": 3}}),
                Life::Ended { code: 3, note: String::new() },
            ),
        ] {
            assert_eq!(life(&process), expected, "{process}");
        }
        for process in [
            json!({}),
            json!({"Status": {"Status": "unknown"}}),
            json!({"Status": {"Status": "stopped"}}),
        ] {
            assert!(matches!(life(&process), Life::Unknown(_)), "{process}");
        }
    }

    #[test]
    fn recorded_containers_are_read() {
        let agents: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native-agent.json"))
                .unwrap();
        assert!(container(agents, Detail::Whole).unwrap().whole.deleted_on_success);
        let by_hand: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/nerdctl-native.json"))
                .unwrap();
        let seen = container(by_hand["container"].clone(), Detail::Whole).unwrap();
        assert_eq!(
            (seen.name.as_str(), seen.life, seen.whole.deleted_on_success),
            ("action", Life::Created, false)
        );
        let name = by_hand["container"]["Image"].as_str().unwrap();
        let own = image(&Reference::parse(name).unwrap(), vec![by_hand["image"].clone()]).unwrap();
        assert_eq!((own.name.as_str(), &own.config["Entrypoint"]), (name, &json!(["/waitdaemon"])));
        assert!(own.platform.is_some());
    }

    #[test]
    fn an_image_is_the_one_that_was_asked_for() {
        let digest = format!("sha256:{}", "cafe".repeat(16));
        let named = |name: &str| json!({"Image": {"Name": name, "Target": {"digest": digest}}});
        let all =
            || vec![named("docker.io/library/copy:1"), named("docker.io/library/alpine:latest")];
        let chosen =
            |asked: &str| image(&Reference::parse(asked).unwrap(), all()).map(|image| image.name);
        for (asked, name) in [
            ("alpine".to_owned(), Some("docker.io/library/alpine:latest")),
            (format!("alpine:latest@{digest}"), Some("docker.io/library/copy:1")),
            (format!("mirror.example.org/x@{digest}"), Some("docker.io/library/copy:1")),
            (format!("alpine@sha256:{}", "0a".repeat(32)), None),
            ("cafe".to_owned(), None),
            ("alpine:3".to_owned(), None),
        ] {
            assert_eq!(chosen(&asked).as_deref(), name, "{asked}");
        }
    }

    #[test]
    fn what_is_not_about_a_container_is_no_answer() {
        for document in [json!({}), json!({"ID": ""}), json!({"ID": 1}), Value::Null, json!([1])] {
            let kind = container(document.clone(), Detail::Life).unwrap_err().kind;
            assert_eq!(kind, Kind::MayPass(Retry::UntilDeadline), "{document}");
        }
    }

    #[test]
    fn an_index_tells_its_platforms() {
        let entry =
            |architecture: &str| json!({"platform": {"os": "linux", "architecture": architecture}});
        let index = json!({"manifests": [entry("arm64"), entry("unknown"), {}, 1]});
        assert_eq!(platforms(&[index]).len(), 1);
        assert!(platforms(&[json!({"layers": []})]).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_json_is_read(value in crate::engine::json::any()) {
            let _ = container(value.clone(), Detail::Whole);
            let _ = (life(&value), image(&Reference::parse("alpine").unwrap(), vec![value]));
        }
    }
}
