//! Finds where two documents of an engine differ; pure.

use serde_json::Value;

/// One place where two documents differ: its JSON pointer and what each has there.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub at: String,
    pub user: Value,
    pub expected: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
        write!(f, "{}: {} instead of {}", self.at, short(&self.user), short(&self.expected))
    }
}

/// Every place in which `user` differs from `expected`. Missing and null are the same.
pub fn differences(user: &Value, expected: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(String::new(), user, expected, &mut found);
    found
}

fn walk(at: String, user: &Value, expected: &Value, found: &mut Vec<Difference>) {
    match (user, expected) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<&String> =
                one.keys().chain(other.keys()).collect();
            for key in keys {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                walk(format!("{at}/{escaped}"), &user[key], &expected[key], found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (user, expected)) in one.iter().zip(other).enumerate() {
                walk(format!("{at}/{index}"), user, expected, found);
            }
        }
        _ if user == expected => {}
        _ => found.push(Difference { at, user: user.clone(), expected: expected.clone() }),
    }
}

/// The document, with the container's own ID, long and short, replaced by a word.
pub fn without_id(document: &Value, id: &str) -> Value {
    let text = document.to_string().replace(id, "ID").replace(&id[..12], "ID12");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Adds `more` to `base`: objects are merged, lists are joined, anything else is replaced.
pub fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(more)) => base.extend(more.iter().cloned()),
        (base, more) => *base = more.clone(),
    }
}
