//! GRUB's variables, some of which have values that are not known. Pure.

use super::script::{Part, Word};

/// The most that variables add to the words of one command, in bytes: each line of a file could
/// double what the line before it set.
const MAX_EXPANSION: usize = 16 * 1024;
/// Stands for a variable whose value is not known, before and after its name.
const UNKNOWN: char = '\0';

/// Returns what stands for a variable whose value is not known.
pub fn unknown(name: &str) -> String {
    format!("{UNKNOWN}{name}{UNKNOWN}")
}

/// Returns the name of a variable in this text whose value is not known.
pub fn unknown_in(text: &str) -> Option<&str> {
    text.split(UNKNOWN).nth(1)
}

/// Names and values; a variable may be known not to be set.
#[derive(Debug, Default)]
pub struct Variables(Vec<(String, Option<String>)>);

impl Variables {
    /// Returns a variable's value, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name)?.1.as_deref()
    }

    /// Sets variables from `name=value` pairs. A variable whose value is that of one that is not
    /// set is not set either.
    pub fn set<'b>(&mut self, pairs: impl IntoIterator<Item = &'b str>) {
        for (name, value) in pairs.into_iter().filter_map(|pair| pair.split_once('=')) {
            self.assign(name, (!self.is_unset(value)).then(|| value.to_owned()));
        }
    }

    /// True if a value is nothing but variables that are not set.
    fn is_unset(&self, value: &str) -> bool {
        let is_empty = |(at, part): (usize, &str)| match at % 2 {
            0 => part.trim().is_empty(),
            _ => self.get(part).is_none(),
        };
        value.contains(UNKNOWN) && value.split(UNKNOWN).enumerate().all(is_empty)
    }

    /// Sets a variable, or unsets it.
    pub fn assign(&mut self, name: &str, value: Option<String>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Expands words into what the command receives. A variable that is not set is empty if it is
    /// all of a word, as `$vt_handoff`, or part of a condition or a title; in any other word its
    /// value is not known: a command found it that is not run.
    pub fn expand(&self, words: &[Word]) -> Vec<String> {
        let (mut expanded, mut room) = (Vec::new(), MAX_EXPANSION);
        let command = words.first().map_or("", Word::keyword);
        let may_be_empty = ["[", "test", "!", "menuentry", "submenu"].contains(&command);
        let mut variable = |name: &str, alone: bool| {
            let value = match self.get(name) {
                // What is not known looks like what is not set.
                Some(value) if may_be_empty && unknown_in(value).is_some() => String::new(),
                Some(value) => value.to_owned(),
                None if alone => String::new(),
                None => unknown(name),
            };
            let value = Some(value).filter(|value| value.len() <= room).unwrap_or_default();
            room -= value.len();
            value
        };
        for word in words {
            let is_text = |part: &Part| matches!(part, Part::Text(_));
            let alone = may_be_empty || !word.parts.iter().any(is_text);
            // Quoted text counts as a word even if it is empty.
            let mut text = word.quoted.then(String::new);
            for part in &word.parts {
                match part {
                    Part::Text(part) => text.get_or_insert_default().push_str(part),
                    Part::Variable { name, quoted: true } => {
                        text.get_or_insert_default().push_str(&variable(name, alone))
                    }
                    Part::Variable { name, quoted: false } => {
                        let value = variable(name, alone);
                        let mut pieces = value.split_ascii_whitespace();
                        if let Some(first) = pieces.next() {
                            text.get_or_insert_default().push_str(first);
                        }
                        for piece in pieces {
                            expanded.extend(text.take());
                            text = Some(piece.to_owned());
                        }
                    }
                }
            }
            expanded.extend(text);
        }
        expanded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_grow_without_end() {
        let mut variables = Variables::default();
        variables.set(["a=xxxxxxxx"]);
        let part = || Part::Variable { name: "a".into(), quoted: true };
        let double = Word { parts: vec![part(), part()], quoted: true };
        for _ in 0..60 {
            let value = variables.expand(std::slice::from_ref(&double)).concat();
            variables.assign("a", Some(value));
        }
        assert!(variables.get("a").is_some_and(|value| value.len() <= MAX_EXPANSION));
    }

    #[test]
    fn a_value_that_is_not_known_is_none() {
        let mut variables = Variables::default();
        variables.set([
            "a=1",
            "b=",
            &format!("c={}", unknown("x")),
            &format!("d=1{}", unknown("y")),
        ]);
        assert_eq!((variables.get("a"), variables.get("b")), (Some("1"), Some("")));
        assert_eq!((variables.get("c"), variables.get("e")), (None, None));
        assert_eq!(variables.get("d").and_then(unknown_in), Some("y"));
        variables.assign("a", None);
        assert_eq!(variables.get("a"), None);
    }
}
