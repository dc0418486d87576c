//! Parses GRUB's script language, as far as grub.cfg uses it: words, commands, conditions, menus.
//! Pure.

/// How deep blocks may nest; a real file has three levels.
const MAX_DEPTH: usize = 32;

/// Parses a script; leaves out what cannot be parsed.
pub fn parse(text: &str) -> Vec<Statement> {
    let tokens = tokens(text);
    Parser { tokens: &tokens, at: 0 }.block(&[], 0)
}

/// Part of a word.
#[derive(Debug, Clone)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// A variable; in quotes, its value is not split at blanks.
    Variable { name: String, quoted: bool },
}

/// A word as written.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// True if the word has quotes: it is then no keyword, and it counts as a word even if empty.
    pub quoted: bool,
}

#[derive(Debug, Clone)]
enum Token {
    Word(Word),
    /// The end of a command.
    End,
    Open,
    Close,
}

impl Word {
    fn push(&mut self, letter: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(letter),
            _ => self.parts.push(Part::Text(letter.into())),
        }
    }

    /// Returns the word if it may be a keyword, else an empty text.
    pub fn keyword(&self) -> &str {
        match self.parts.as_slice() {
            [Part::Text(text)] if !self.quoted => text,
            _ => "",
        }
    }
}

fn tokens(config: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<Word> = None;
    let mut letters = config.chars().peekable();
    // The quotation mark that is open.
    let mut quote = None;
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default().quoted = true;
            }
            (None | Some('"'), '\\') => match letters.next() {
                Some('\n') | None => {}
                Some(next) => {
                    let word = word.get_or_insert_default();
                    if quote.is_some() && !matches!(next, '"' | '\\' | '$') {
                        word.push('\\');
                    }
                    word.push(next);
                }
            },
            (None | Some('"'), '$') => {
                let braced = letters.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(next) =
                    letters.next_if(|next| next.is_ascii_alphanumeric() || "_?@*#".contains(*next))
                {
                    name.push(next);
                }
                if braced {
                    letters.next_if_eq(&'}');
                }
                word.get_or_insert_default()
                    .parts
                    .push(Part::Variable { name, quoted: quote.is_some() });
            }
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '#') if word.is_none() => {
                while letters.next_if(|next| *next != '\n').is_some() {}
            }
            (None, ' ' | '\t' | '\r' | '\n' | ';') => {
                tokens.extend(word.take().map(Token::Word));
                if matches!(letter, '\n' | ';') {
                    tokens.push(Token::End);
                }
            }
            (None, '{') if word.is_none() => tokens.push(Token::Open),
            (None, '}') if word.is_none() => tokens.push(Token::Close),
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}

/// A statement of a script.
#[derive(Debug, Clone)]
pub enum Statement {
    /// A command and its arguments.
    Command(Vec<Word>),
    /// Each condition with its body; `else` has no condition.
    If(Vec<(Vec<Statement>, Vec<Statement>)>),
    /// `for`, `while` or `until`: what it may run. `for` begins with an assignment to its variable.
    Loop(Vec<Statement>),
    /// `menuentry` or `submenu`.
    Menu { words: Vec<Word>, is_sub: bool, body: Vec<Statement> },
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn keyword(&self) -> &str {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => word.keyword(),
            _ => "",
        }
    }

    /// Parses statements up to one of these words, a `}` or the end. A block that is nested too
    /// deep is parsed and left out.
    fn block(&mut self, ends: &[&str], depth: usize) -> Vec<Statement> {
        let mut statements = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Close if depth > 0 => break,
                Token::Word(_) if ends.contains(&self.keyword()) => break,
                Token::Word(_) if depth < MAX_DEPTH => statements.extend(self.statement(depth + 1)),
                _ => self.at += 1,
            }
        }
        statements
    }

    /// Skips this word if it is next; returns whether it was.
    fn pass(&mut self, word: &str) -> bool {
        let found = self.keyword() == word;
        self.at += usize::from(found);
        found
    }

    fn statement(&mut self, depth: usize) -> Option<Statement> {
        let keyword = self.keyword().to_owned();
        match keyword.as_str() {
            "if" => {
                self.at += 1;
                let mut branches = Vec::new();
                loop {
                    let condition = self.block(&["then", "fi"], depth);
                    self.pass("then");
                    branches.push((condition, self.block(&["elif", "else", "fi"], depth)));
                    if !self.pass("elif") {
                        break;
                    }
                }
                if self.pass("else") {
                    branches.push((Vec::new(), self.block(&["fi"], depth)));
                }
                self.pass("fi");
                Some(Statement::If(branches))
            }
            "for" | "while" | "until" => {
                self.at += 1;
                let mut body = self.block(&["do"], depth);
                if let ("for", Some(Statement::Command(words))) = (&*keyword, body.first_mut()) {
                    words.iter_mut().take(1).for_each(|variable| variable.push('='));
                }
                self.pass("do");
                body.extend(self.block(&["done"], depth));
                self.pass("done");
                Some(Statement::Loop(body))
            }
            _ => {
                let mut words = Vec::new();
                while let Some(Token::Word(word)) = self.tokens.get(self.at) {
                    words.push(word.clone());
                    self.at += 1;
                }
                if !matches!(self.tokens.get(self.at), Some(Token::Open)) {
                    return Some(Statement::Command(words));
                }
                self.at += 1;
                let body = self.block(&[], depth);
                self.at += 1;
                let is_sub = keyword == "submenu";
                (is_sub || keyword == "menuentry").then_some(Statement::Menu {
                    words,
                    is_sub,
                    body,
                })
            }
        }
    }
}
