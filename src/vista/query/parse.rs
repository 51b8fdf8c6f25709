//! Parse: a query's text read back, as people type it and as `text` writes it.
//!
//! Invariants: what `text` writes is read back with the same meaning (`what_is_written_is_read_back`); any text gives an
//! answer or an error, never a panic (`any_text_is_survived`).
//!
//! ```text
//! query      = [ "where" condition ] [ "search" text ] [ "order" "by" path [ "nocase" ] [ "asc" | "desc" ] { "," … } ]
//!              [ "limit" count [ "offset" count ] ]
//! condition  = both { "or" both }
//! both       = one { "and" one }
//! one        = "not" one | "(" condition ")" | "true" | "false" | path test
//! test       = ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
//!            | [ "not" ] ( "in" "(" [ value { "," value } ] ")" | "like" text | "between" value "and" value )
//!            | "is" [ "not" ] "null"
//! path       = word | "`" any text "`"
//! value      = "null" | "true" | "false" | number | text | "h'" hexadecimal digits "'" | [ "-" ] "inf" | "nan"
//!            | "decimal" "(" text ")" | "datetime" "(" text ")" | "tag" "(" count "," value ")"
//!            | "[" [ value { "," value } ] "]" | "{" [ value ":" value { "," … } ] "}"
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::value::Value;
use crate::vista::query::lexer::{Lexer, Token};
use crate::vista::query::text::{TAG_DATETIME, TAG_DECIMAL};
use crate::vista::{Collation, Condition, QueryDescriptor, SortBy, SortDir, Window};
use crate::{Error, Result};

/// How deep parentheses and `not` may nest, and within a clause its value: enough for every condition that
/// [`Condition::check`] lets pass, each level of which takes two at the most.
const MAX_NESTING: usize = 256;

/// Words that are no column where a column is expected, unless they stand between backticks.
const RESERVED: [&str; 12] =
    ["and", "between", "false", "in", "is", "like", "not", "null", "or", "order", "true", "where"];

impl Condition {
    /// Reads a condition from its text: what [`canonical`](Self::canonical) and `Display` write, and what people type.
    ///
    /// ```text
    /// price < 10 and state in ("TX", "OK")
    /// not (name like 'A%' or closed_at is not null)
    /// elevation between 0 and 1000.5 and `first name` != "O'Hare"
    /// paid = decimal("19.90") and since >= datetime("2026-01-01T00:00:00Z")
    /// ```
    ///
    /// `not` binds tighter than `and`, `and` tighter than `or`. Keywords may have either case, and spaces are free. Text
    /// stands between double or single quotation marks (a doubled mark is the mark itself; `\` escapes, as in `\n`,
    /// `\u{e9}`); columns with other characters than letters, digits, `_` and `.`, or that are named like a keyword, stand
    /// between backticks. Bytes are `h'01ff'`; arrays `[1, 2]`, maps `{"k": 1}`. `==` is `=`, and `<>` is `!=`.
    ///
    /// ```
    /// use diorama::vista::{Condition, col};
    ///
    /// let cheap = Condition::parse("PRICE<10 or price > 20 AND NOT state = 'TX'")?;
    /// assert_eq!(cheap, col("PRICE").lt(10).or(col("price").gt(20).and(!col("state").eq("TX"))));
    ///
    /// let error = Condition::parse("price < and state = 1").unwrap_err();
    /// assert_eq!(error.message(), "expected a value, found `and`");
    /// assert_eq!(error.context("character"), Some("9"));
    /// # Ok::<(), diorama::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid`, with what was expected, what was found, and where (`character`, from 1); also when parentheses,
    /// `not` or the values of one clause nest deeper than 256 levels.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser::new(text)?;
        let condition = parser.condition()?;
        parser.end("`and`, `or` or the end")?;
        Ok(condition)
    }
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl QueryDescriptor {
    /// Reads a query from its text, what [`canonical`](Self::canonical) writes: conditions as for [`Condition::parse`],
    /// search, order and window, each of which may be missing, in this order. An empty text is the query of all rows.
    ///
    /// ```
    /// use diorama::vista::{QueryDescriptor, SortDir, col};
    ///
    /// let saved = "where price < 10 and state = 'TX' search 'bell' order by price desc, name nocase limit 50 offset 100";
    /// let query = QueryDescriptor::parse(saved)?;
    /// assert_eq!(query.conditions, [col("price").lt(10), col("state").eq("TX")]);
    /// assert_eq!(query.sort[0].dir, SortDir::Desc);
    /// assert_eq!(QueryDescriptor::parse(&query.canonical())?, query);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Condition::parse`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut parser = Parser::new(text)?;
        let mut query = QueryDescriptor::new();
        let mut expected = "`where`, `search`, `order by`, `limit` or the end";
        if parser.took_word("where")? {
            query.conditions = match parser.condition()? {
                Condition::And(children) => children,
                other => vec![other],
            };
            expected = "`and`, `or`, `search`, `order by`, `limit` or the end";
        }
        if parser.took_word("search")? {
            query.search = Some(parser.text("the text to search for, between quotation marks")?);
            expected = "`order by`, `limit` or the end";
        }
        if parser.took_word("order")? {
            if !parser.took_word("by")? {
                return Err(parser.unexpected("`by`"));
            }
            loop {
                query.sort.push(parser.sort_column()?);
                if !parser.took_mark(",")? {
                    break;
                }
            }
            expected = "`asc`, `desc`, `,`, `limit` or the end";
        }
        if parser.took_word("limit")? {
            let limit = parser.count()?;
            let offset = if parser.took_word("offset")? { parser.count()? } else { 0 };
            query.window = Some(Window::new(offset, limit));
            expected = "`offset` or the end";
        }
        parser.end(expected)?;
        Ok(query)
    }
}

impl FromStr for QueryDescriptor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    token: Token<'t>,
    /// Where the token begins.
    at: usize,
    nesting: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Result<Self> {
        let mut lexer = Lexer::new(text);
        let (at, token) = lexer.next()?;
        Ok(Parser { lexer, token, at, nesting: 0 })
    }

    fn unexpected(&self, expected: impl fmt::Display) -> Error {
        self.lexer.error(self.at, expected, &self.token)
    }

    fn advance(&mut self) -> Result<Token<'t>> {
        let (at, token) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn took(&mut self, is_it: impl FnOnce(&Token<'t>) -> bool) -> Result<bool> {
        let found = is_it(&self.token);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn took_word(&mut self, keyword: &str) -> Result<bool> {
        self.took(|token| token.is_word(keyword))
    }

    fn took_mark(&mut self, mark: &'static str) -> Result<bool> {
        self.took(|token| *token == Token::Mark(mark))
    }

    fn expect_mark(&mut self, mark: &'static str, expected: &str) -> Result<()> {
        if self.took_mark(mark)? { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn end(&self, expected: &str) -> Result<()> {
        if self.token == Token::End { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= MAX_NESTING {
            return Err(self.unexpected(format_args!("at most {MAX_NESTING} levels of nesting")));
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    fn condition(&mut self) -> Result<Condition> {
        self.joined("or", Condition::Or, |parser| parser.joined("and", Condition::And, Self::one))
    }

    fn joined(
        &mut self,
        keyword: &str,
        join: fn(Vec<Condition>) -> Condition,
        part: fn(&mut Self) -> Result<Condition>,
    ) -> Result<Condition> {
        let first = part(self)?;
        if !self.token.is_word(keyword) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.took_word(keyword)? {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn one(&mut self) -> Result<Condition> {
        if self.took_word("not")? {
            return Ok(Condition::not(self.nested(Self::one)?));
        }
        if self.took_mark("(")? {
            let inner = self.nested(Self::condition)?;
            self.expect_mark(")", "`and`, `or` or `)`")?;
            return Ok(inner);
        }
        if self.took_word("true")? {
            return Ok(Condition::And(Vec::new()));
        }
        if self.took_word("false")? {
            return Ok(Condition::Or(Vec::new()));
        }
        let path = self.path("a column, `not` or `(`")?;
        self.test(path)
    }

    fn path(&mut self, expected: &str) -> Result<Arc<str>> {
        match &self.token {
            Token::Name(_) => {}
            Token::Word(word) if !RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(word)) => {}
            Token::Word(_) => {
                return Err(
                    self.unexpected(format_args!("{expected} (a column of that name stands between backticks)"))
                );
            }
            _ => return Err(self.unexpected(expected)),
        }
        match self.advance()? {
            Token::Name(name) => Ok(name.into()),
            Token::Word(word) => Ok(word.into()),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn test(&mut self, path: Arc<str>) -> Result<Condition> {
        let compare: Option<fn(Arc<str>, Value) -> Condition> = match &self.token {
            Token::Mark("=" | "==") => Some(Condition::Eq),
            Token::Mark("!=" | "<>") => Some(Condition::Ne),
            Token::Mark("<") => Some(Condition::Lt),
            Token::Mark("<=") => Some(Condition::Le),
            Token::Mark(">") => Some(Condition::Gt),
            Token::Mark(">=") => Some(Condition::Ge),
            _ => None,
        };
        if let Some(compare) = compare {
            self.advance()?;
            return Ok(compare(path, self.operand()?));
        }
        if self.took_word("is")? {
            let negated = self.took_word("not")?;
            if !self.took_word("null")? {
                return Err(self.unexpected(if negated { "`null`" } else { "`null` or `not null`" }));
            }
            return Ok(negated_if(negated, Condition::IsNull(path)));
        }
        let negated = self.took_word("not")?;
        if self.took_word("in")? {
            self.expect_mark("(", "`(` and a list of values")?;
            let values = self.list(")", Self::operand)?;
            return Ok(if negated { Condition::NotIn(path, values) } else { Condition::In(path, values) });
        }
        if self.took_word("like")? {
            return Ok(negated_if(negated, Condition::Like(path, self.text("a pattern between quotation marks")?)));
        }
        if self.took_word("between")? {
            let low = self.operand()?;
            if !self.took_word("and")? {
                return Err(self.unexpected("`and` and the upper bound"));
            }
            let high = self.operand()?;
            let both = vec![Condition::Ge(path.clone(), low), Condition::Le(path, high)];
            return Ok(negated_if(negated, Condition::And(both)));
        }
        Err(self.unexpected(if negated {
            "`in`, `like` or `between`"
        } else {
            "one of `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not`, `like`, `between`, `is`"
        }))
    }

    fn sort_column(&mut self) -> Result<SortBy> {
        let path = self.path("a column to order by")?;
        let collation = if self.took_word("nocase")? { Collation::CaseInsensitive } else { Collation::CodePoint };
        let dir = if self.took_word("desc")? {
            SortDir::Desc
        } else {
            self.took_word("asc")?;
            SortDir::Asc
        };
        Ok(SortBy { collation, ..SortBy::new(path, dir) })
    }

    fn text(&mut self, expected: &str) -> Result<String> {
        if !matches!(self.token, Token::Text(_)) {
            return Err(self.unexpected(expected));
        }
        match self.advance()? {
            Token::Text(text) => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn count<T: FromStr>(&mut self) -> Result<T> {
        let expected = "a whole number that is not negative";
        match &self.token {
            Token::Number(number) => {
                let count = number.parse().map_err(|_| self.unexpected(expected))?;
                self.advance()?;
                Ok(count)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    /// What stands before `close`, separated by commas; the opening mark is behind.
    fn list<T>(&mut self, close: &'static str, item: fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        if self.took_mark(close)? {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.took_mark(close)? {
                return Ok(items);
            }
            if !self.took_mark(",")? {
                return Err(self.unexpected(format_args!("`,` or `{close}`")));
            }
        }
    }

    /// A value that a column is compared with, whose levels count for themselves.
    fn operand(&mut self) -> Result<Value> {
        let around = std::mem::take(&mut self.nesting);
        let value = self.value();
        self.nesting = around;
        value
    }

    fn value(&mut self) -> Result<Value> {
        let at = self.at;
        match &self.token {
            Token::Number(number) => {
                let number = number_of(number).map_err(|expected| self.unexpected(expected))?;
                self.advance()?;
                Ok(number)
            }
            Token::Text(_) | Token::Bytes(_) => match self.advance()? {
                Token::Text(text) => Ok(Value::Text(text)),
                Token::Bytes(bytes) => Ok(Value::Bytes(bytes)),
                _ => Err(self.unexpected("a value")),
            },
            Token::Mark("-") => {
                self.advance()?;
                match &self.token {
                    Token::Word(word) if is_infinity(word) => {
                        self.advance()?;
                        Ok(Value::Float(f64::NEG_INFINITY))
                    }
                    _ => Err(self.unexpected("a number after `-`")),
                }
            }
            Token::Mark("[") => {
                self.advance()?;
                self.nested(|parser| parser.list("]", Self::value)).map(Value::Array)
            }
            Token::Mark("{") => {
                self.advance()?;
                self.nested(|parser| parser.list("}", Self::entry)).map(Value::Map)
            }
            Token::Word(word) => {
                let word = *word;
                let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
                let value = match () {
                    () if is("null") => Value::Null,
                    () if is("true") => Value::Bool(true),
                    () if is("false") => Value::Bool(false),
                    () if is("nan") => Value::Float(f64::NAN),
                    () if is_infinity(word) => Value::Float(f64::INFINITY),
                    () if is("tag") || is("decimal") || is("datetime") => return self.tagged(),
                    () if RESERVED.iter().any(|reserved| is(reserved)) => return Err(self.unexpected("a value")),
                    () => return Err(self.unexpected("a value (text stands between quotation marks)")),
                };
                self.advance()?;
                Ok(value)
            }
            _ => Err(self.lexer.error(at, "a value", &self.token)),
        }
    }

    fn entry(&mut self) -> Result<(Value, Value)> {
        let key = self.value()?;
        self.expect_mark(":", "`:` and the entry's value")?;
        Ok((key, self.value()?))
    }

    fn tagged(&mut self) -> Result<Value> {
        let word = self.advance()?;
        self.expect_mark("(", "`(`")?;
        let value = if word.is_word("datetime") {
            Value::Tag(TAG_DATETIME, Box::new(self.text("an instant as text")?.into()))
        } else if word.is_word("decimal") {
            let expected = "a decimal number as text, as in \"19.90\"";
            let Token::Text(text) = &self.token else { return Err(self.unexpected(expected)) };
            let decimal = decimal_of(text).ok_or_else(|| self.unexpected(expected))?;
            self.advance()?;
            decimal
        } else {
            let tag = self.count()?;
            self.expect_mark(",", "`,` and the tagged value")?;
            Value::Tag(tag, Box::new(self.nested(Self::value)?))
        };
        self.expect_mark(")", "`)`")?;
        Ok(value)
    }
}

fn negated_if(negated: bool, condition: Condition) -> Condition {
    if negated { Condition::not(condition) } else { condition }
}

fn is_infinity(word: &str) -> bool {
    word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("infinity")
}

/// An integer, or a float when there is a point or an exponent; otherwise what was expected.
fn number_of(text: &str) -> std::result::Result<Value, &'static str> {
    if text.contains(['.', 'e', 'E']) {
        let float: f64 = text.parse().map_err(|_| "a number")?;
        return if float.is_finite() { Ok(Value::Float(float)) } else { Err("a number that a float can hold") };
    }
    let integer: i128 = text.parse().map_err(|_| "an integer of at most 127 bits")?;
    Ok(Value::from(integer))
}

/// The decimal of a text such as `19.90` or `7e99`, its zeros kept.
fn decimal_of(text: &str) -> Option<Value> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i128>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let well_made = !digits.trim_start_matches(['-', '+']).is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
        && fraction.is_empty() != number.contains('.');
    let mantissa: i128 = digits.parse().ok().filter(|_| well_made)?;
    let exponent = exponent.checked_sub(fraction.len() as i128)?;
    let exponent = Value::Integer(exponent.try_into().ok()?);
    Some(Value::Tag(TAG_DECIMAL, Box::new(Value::Array(vec![exponent, Value::from(mantissa)]))))
}
