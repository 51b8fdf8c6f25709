//! Like patterns: text with `%` and `_`, compiled once and matched without allocating.

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct LikePattern(Vec<Token>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    AnyText,
    AnyOne,
    This(char),
}

impl LikePattern {
    /// Compiles `pattern`. A backslash at its very end stands for itself.
    pub(crate) fn new(pattern: &str) -> Self {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let token = match character {
                '%' if tokens.last() == Some(&Token::AnyText) => continue,
                '%' => Token::AnyText,
                '_' => Token::AnyOne,
                '\\' => Token::This(characters.next().unwrap_or('\\')),
                other => Token::This(other),
            };
            tokens.push(token);
        }
        LikePattern(tokens)
    }

    /// Whether the whole of `text` matches. At worst the product of both lengths, never exponential: a mismatch only
    /// ever goes back to the newest `%`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let tokens = &self.0[..];
        let mut rest = text.chars();
        let mut position = 0;
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if tokens.get(position) == Some(&Token::AnyText) {
                position += 1;
                if position == tokens.len() {
                    return true;
                }
                retry = Some((position, rest.clone()));
                continue;
            }
            let Some(character) = rest.next() else {
                return position == tokens.len();
            };
            let fits = match tokens.get(position) {
                Some(Token::AnyOne) => true,
                Some(Token::This(wanted)) => *wanted == character,
                _ => false,
            };
            if fits {
                position += 1;
                continue;
            }
            let Some((after_any_text, from)) = &mut retry else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            position = *after_any_text;
            rest = from.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(LikePattern::new(pattern).matches(text), expected, "{pattern:?} on {text:?}");
    }

    #[test]
    fn patterns_match_from_end_to_end() {
        check("abc", "abc", true);
        check("abc", "abcd", false);
        check("abc", "ab", false);
        check("", "", true);
        check("", "a", false);
        check("a%", "abc", true);
        check("%c", "abc", true);
        check("%b%", "abc", true);
        check("%%", "", true);
        check("a%c%e", "abcdce", true);
        check("a%c%e", "abcdc", false);
        check("_", "é", true);
        check("_", "", false);
        check("_%", "a", true);
        check("Abc", "abc", false);
        check("é%", "été", true);
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        check(r"100\%", "100%", true);
        check(r"100\%", "1000", false);
        check(r"a\_b", "a_b", true);
        check(r"a\_b", "axb", false);
        check(r"a\\b", r"a\b", true);
        check("a\\", "a\\", true);
    }

    #[test]
    fn a_hostile_pattern_stays_fast() {
        let text = "a".repeat(2000);
        check(&format!("{}b", "%a".repeat(200)), &text, false);
    }

    fn plainly(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|taken| plainly(rest, &text[taken..])),
            ['\\', next, rest @ ..] => text.first() == Some(next) && plainly(rest, &text[1..]),
            ['_', rest @ ..] => !text.is_empty() && plainly(rest, &text[1..]),
            [this, rest @ ..] => text.first() == Some(this) && plainly(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn matching_agrees_with_the_plain_definition(pattern in r"[ab%_\\é]{0,6}", text in r"[ab%_\\é]{0,8}") {
            let characters: Vec<char> = text.chars().collect();
            let expected = plainly(&pattern.chars().collect::<Vec<_>>(), &characters);
            prop_assert_eq!(LikePattern::new(&pattern).matches(&text), expected);
        }
    }
}
