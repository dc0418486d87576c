//! GRUB's menu, and which of its lines is the default. Pure.

use super::bls::Item;
use super::script::Statement;

/// A line of a menu.
pub enum Line<'a> {
    /// `menuentry` or `submenu`.
    Menu { title: String, id: String, is_sub: bool, body: &'a [Statement] },
    /// An entry of the Boot Loader Specification.
    Bls(&'a Item),
    /// Entries that a loop or another file adds; there may be any number of them.
    Unsure,
}

impl Line<'_> {
    fn is_called(&self, name: &str) -> bool {
        match self {
            Self::Menu { title, id, .. } => title == name || id == name,
            Self::Bls(item) => item.title == name || item.id == name.trim_end_matches(".conf"),
            Self::Unsure => false,
        }
    }
}

/// Returns the line that `default` names: by number, title or ID, and after `>` one of its submenu.
/// Lines of which nothing is known may be the one, if they come first or no other has that name.
pub fn choose<'b, 'a>(menu: &'b [Line<'a>], wanted: &str) -> Option<&'b Line<'a>> {
    let find = |name: &str| {
        if name.is_empty() {
            return None;
        }
        let by_number = name.parse::<usize>().ok().and_then(|number| {
            let unsure = menu.iter().take(number).find(|line| matches!(line, Line::Unsure));
            unsure.or_else(|| menu.get(number))
        });
        by_number.or_else(|| menu.iter().find(|line| line.is_called(name)))
    };
    let head = wanted.split_once('>').map(|(head, _)| head);
    let unsure = || menu.iter().find(|line| matches!(line, Line::Unsure) && !wanted.is_empty());
    find(wanted).or_else(|| head.and_then(find)).or_else(unsure).or_else(|| menu.first())
}

/// Returns title and ID of a menu entry, from the words of its command.
pub fn named(words: &[String]) -> (String, String) {
    let (mut title, mut id) = (None, String::new());
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--id" => id = words.next().cloned().unwrap_or_default(),
            "--class" | "--users" | "--hotkey" | "--source" => drop(words.next()),
            word if word.starts_with("--") => {}
            word if title.is_none() => title = Some(word.to_owned()),
            _ => {}
        }
    }
    let title = title.unwrap_or_default();
    // GRUB's own default for the ID.
    let id = if id.is_empty() { title.clone() } else { id };
    (title, id)
}
