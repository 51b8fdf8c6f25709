//! Lexer: the words, marks and values that a query's text is made of.
//!
//! Invariants: any text is survived; what `text` writes is read back as the same token.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// One piece of a query's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'t> {
    /// A bare word: a keyword or a column.
    Word(&'t str),
    /// A name between backticks.
    Name(String),
    /// Text between quotation marks.
    Text(String),
    Bytes(Vec<u8>),
    /// Digits with a sign, a point or an exponent.
    Number(&'t str),
    Mark(&'static str),
    End,
}

/// Longer ones first.
const MARKS: [&str; 17] = ["==", "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", "{", "}", ",", ":", "-"];

/// How much of a text an error shows of the place where it went wrong.
const SHOWN_CHARACTERS: usize = 40;

impl Token<'_> {
    pub(super) fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "`{}`", beginning(word)),
            Token::Name(name) => write!(f, "the name `{}`", beginning(name)),
            Token::Text(text) => write!(f, "the text {:?}", beginning(text)),
            Token::Bytes(_) => f.write_str("bytes"),
            Token::Number(number) => write!(f, "the number {}", beginning(number)),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => f.write_str("the end"),
        }
    }
}

fn beginning(text: &str) -> &str {
    text.char_indices().nth(SHOWN_CHARACTERS).map_or(text, |(end, _)| &text[..end])
}

/// A text that is being taken apart.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Lexer { text, at: 0 }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// The next token and where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'t>)> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let token = match first {
            '"' | '\'' => Token::Text(self.quoted(first)?),
            '`' => Token::Name(self.quoted(first)?),
            'h' | 'H' if rest[1..].starts_with(['"', '\'']) => {
                self.at += 1;
                let mark = if rest[1..].starts_with('"') { '"' } else { '\'' };
                let digits = self.quoted(mark)?;
                Token::Bytes(bytes_of(&digits).ok_or_else(|| {
                    self.error(start, "an even number of hexadecimal digits after `h`", "something else")
                })?)
            }
            _ if first.is_alphabetic() || first == '_' => {
                let end = rest.find(|next: char| !(next.is_alphanumeric() || next == '_' || next == '.'));
                self.take(end.unwrap_or(rest.len()), Token::Word)
            }
            _ if starts_number(rest) => {
                let length = number_length(rest);
                if let Some(next) = rest[length..].chars().next().filter(|next| next.is_alphanumeric() || *next == '_')
                {
                    return Err(self.error(start + length, "the end of the number", format!("`{next}`")));
                }
                self.take(length, Token::Number)
            }
            _ => match MARKS.iter().find(|mark| rest.starts_with(**mark)) {
                Some(mark) => {
                    self.at += mark.len();
                    Token::Mark(mark)
                }
                None => return Err(self.error(start, "a column, a value or an operator", format!("`{first}`"))),
            },
        };
        Ok((start, token))
    }

    fn take(&mut self, length: usize, token: impl FnOnce(&'t str) -> Token<'t>) -> Token<'t> {
        let taken = &self.rest()[..length];
        self.at += length;
        token(taken)
    }

    /// What stands between two marks: a backslash escapes, and a doubled mark is the mark itself.
    fn quoted(&mut self, mark: char) -> Result<String> {
        let start = self.at;
        let rest = self.rest();
        let mut characters = rest.char_indices().skip(1).peekable();
        let mut text = String::new();
        while let Some((position, character)) = characters.next() {
            let at = start + position;
            if character == mark {
                if characters.next_if(|(_, next)| *next == mark).is_none() {
                    self.at = at + mark.len_utf8();
                    return Ok(text);
                }
                text.push(mark);
            } else if character == '\\' {
                let escaped = characters.next().map(|(_, escaped)| escaped);
                text.push(match escaped {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('\\' | '"' | '\'' | '`') => escaped.unwrap_or('\\'),
                    Some('u') => {
                        let inner = rest[position + 2..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
                        let code = inner.filter(|(digits, _)| (1..=6).contains(&digits.len()));
                        let code = code.and_then(|(digits, _)| u32::from_str_radix(digits, 16).ok());
                        let Some((code, digits)) = code.and_then(char::from_u32).zip(inner.map(|(digits, _)| digits))
                        else {
                            return Err(self.error(at, r"a character's number, as in `\u{e9}`", r"another `\u`"));
                        };
                        // The digits and both braces.
                        let _ = characters.nth(digits.len() + 1);
                        code
                    }
                    other => {
                        let found = other.map_or("the end".to_owned(), |other| format!(r"`\{other}`"));
                        return Err(self.error(at, r#"one of \\ \" \' \` \n \r \t \u{…}"#, found));
                    }
                });
            } else {
                text.push(character);
            }
        }
        Err(self.error(start, format!("a closing {mark}"), "none"))
    }

    /// `expected` something else at a position, with the text around it.
    pub(super) fn error(&self, at: usize, expected: impl fmt::Display, found: impl fmt::Display) -> Error {
        let (before, after) = self.text.split_at(at);
        let number = before.chars().count() + 1;
        let begin = before.char_indices().rev().nth(SHOWN_CHARACTERS - 1).map_or(0, |(begin, _)| begin);
        let end = after.char_indices().nth(SHOWN_CHARACTERS).map_or(self.text.len(), |(end, _)| at + end);
        let lead = if begin > 0 { "…" } else { "" };
        let trail = if end < self.text.len() { "…" } else { "" };
        Error::new(ErrorKind::Invalid, format!("expected {expected}, found {found}"))
            .with("character", number.to_string())
            .with("text", format!("{lead}{}{trail}", &self.text[begin..end]))
    }
}

fn starts_number(rest: &str) -> bool {
    let digits = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    digits.starts_with(|first: char| first.is_ascii_digit())
}

/// The length of the number that a text begins with. A point or an exponent counts when a digit follows.
fn number_length(text: &str) -> usize {
    let digits = |from: usize| text.as_bytes()[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = usize::from(text.starts_with(['-', '+']));
    end += digits(end);
    if text[end..].starts_with('.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['-', '+']));
        if digits(end + 1 + sign) > 0 {
            end += 1 + sign + digits(end + 1 + sign);
        }
    }
    end
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some((nibble(*high)? << 4 | nibble(*low)?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}
