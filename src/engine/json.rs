//! Reads the engines' documents: a value that is missing or of another type reads as empty. Pure.

use serde_json::{Map, Value, json};

/// Returns the elements of an array.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the text of a string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the texts of an array's elements.
pub fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|element| text(element).to_owned()).collect()
}

/// Returns the first twelve digits of an ID, which the engines use as hostname, alias or name.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Returns a path as the engines keep it, however the user wrote it (moby, nerdctl:
/// `filepath.Clean`).
pub fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// True for null, and for a value without content.
pub fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Adds to `found` where the user container's document differs from the action's: `field`, and what
/// each has there that the other lacks. Missing, null and empty are the same.
pub fn differences(field: &str, action: &Value, user: &Value, found: &mut Vec<Value>) {
    let nothing = Map::new();
    let (of_action, of_user) = match (action, user) {
        _ if action == user || (empty(action) && empty(user)) => return,
        (Value::Array(one), Value::Array(other)) => {
            let less = |whole: &[Value], part: &[Value]| -> Value {
                whole.iter().filter(|entry| !part.contains(entry)).cloned().collect()
            };
            (less(one, other), less(other, one))
        }
        (Value::Object(_), Value::Object(_) | Value::Null) | (Value::Null, Value::Object(_)) => {
            let (one, other) =
                (action.as_object().unwrap_or(&nothing), user.as_object().unwrap_or(&nothing));
            for key in one.keys().chain(other.keys().filter(|key| !one.contains_key(*key))) {
                let field = if field.is_empty() { key.clone() } else { format!("{field}.{key}") };
                differences(&field, &action[key], &user[key], found);
            }
            return;
        }
        _ => (action.clone(), user.clone()),
    };
    found.push(json!({"field": field, "action": of_action, "user": of_user}));
}

/// Returns any JSON value, for tests of the code that reads it.
#[cfg(test)]
pub fn any() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    const KEYS: &str = "Id|ID|State|Status|Pid|Config|Labels|Args|Process|Spec|process|args|Image|ImageConfig|config|Path|mounts|x";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "created|running|exited|stopped|\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((KEYS, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_place() {
        let action = json!({"Image": "own", "Env": ["A=1", "OWN=1"], "Labels": {"x": "1"}, "Host": {"AutoRemove": true}, "Cmd": null});
        let user = json!({"Image": "alpine", "Env": ["A=1"], "Labels": {"x": "1", "y": "2"}, "Host": {"AutoRemove": false}, "Cmd": []});
        let mut found = Vec::new();
        differences("", &action, &user, &mut found);
        let expected = [
            json!({"field": "Env", "action": ["OWN=1"], "user": []}),
            json!({"field": "Host.AutoRemove", "action": true, "user": false}),
            json!({"field": "Image", "action": "own", "user": "alpine"}),
            json!({"field": "Labels.y", "action": null, "user": "2"}),
        ];
        assert_eq!(found, expected);
    }
}
