//! Conditions and queries as text, written and read back.

use super::*;

fn parsed(text: &str) -> Condition {
    Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn conditions_are_made_as_they_are_read() {
    let check = |condition: Condition, expected: &str| {
        assert_eq!(condition.to_string(), expected);
        assert_eq!(parsed(expected), condition);
    };
    check(col("price").lt(10).and(col("state").is_in(["TX", "OK"])), r#"price < 10 and state in ("TX", "OK")"#);
    let (a, b, c) = (|| col("a").eq(1), || col("b").ne(2), || col("c").ge(3.5));
    check(a().and(b()).and(c()), "a = 1 and b != 2 and c >= 3.5");
    check(a().or(b()).or(c()), "a = 1 or b != 2 or c >= 3.5");
    check(a().or(b()).and(c()), "(a = 1 or b != 2) and c >= 3.5");
    check(a().or(b().and(c())), "a = 1 or (b != 2 and c >= 3.5)");
    check(!a().or(b()), "not (a = 1 or b != 2)");
    check(!!a(), "not (not (a = 1))");
    check(a().not(), "not (a = 1)");
    check(col("a").between(1, 2), "a >= 1 and a <= 2");
    check(col("a").between(1, 2).and(col("b").between(3, 4)), "a >= 1 and a <= 2 and b >= 3 and b <= 4");
    check(a().and(b().and(c())), "a = 1 and b != 2 and c >= 3.5");
    check(a().or(b().or(c())), "a = 1 or b != 2 or c >= 3.5");
    check(col("a").gt(1).and(col("a.b").le(2)), "a > 1 and a.b <= 2");
    check(col("a").not_in([1, 2]), "a not in (1, 2)");
    check(col("a").is_in(Vec::<Value>::new()), "a in ()");
    check(col("a").is_not_null(), "a is not null");
    check(!col("a").like("x%"), r#"a not like "x%""#);
    check(col("a").starts_with("10%_\\"), r#"a like "10\\%\\_\\\\%""#);
    check(col("a").ends_with("x"), r#"a like "%x""#);
    check(col("a").contains("x"), r#"a like "%x%""#);
    check(Condition::any([]).and(Condition::all([])), "false and true");
    check(Condition::all([]).or(Condition::any([])), "true or false");
}

#[test]
fn groups_of_one_stay_apart_from_their_neighbours() {
    let either = || Condition::any([col("a").eq(1), col("b").eq(2)]);
    let hidden = Condition::all([col("c").eq(3), Condition::all([either()])]);
    assert_eq!(hidden.to_string(), "c = 3 and (a = 1 or b = 2)");
    assert_eq!(hidden.canonical(), "(a = 1 or b = 2) and c = 3");
    assert_eq!(Condition::any([Condition::all([either()]), col("a").eq(1)]).canonical(), "a = 1 or b = 2");
    let twice = |condition: Condition| Condition::all([condition.clone(), condition]);
    assert_eq!(twice(col("a").is_null()).not().canonical(), "a is not null");
    assert_eq!(twice(col("a").like("x")).not().canonical(), r#"a not like "x""#);
    assert_eq!(twice(twice(col("a").eq(1))).not().canonical(), "not (a = 1)");
    assert_eq!(QueryDescriptor::new().filtered(either()).canonical(), "where a = 1 or b = 2");
    let both = QueryDescriptor::new().filtered(either()).filtered(col("c").eq(3));
    assert_eq!(both.canonical(), "where (a = 1 or b = 2) and c = 3");
}

#[test]
fn people_may_type_it_their_way() {
    let check = |typed: &str, written: &str| assert_eq!(parsed(typed).to_string(), written, "{typed}");
    check("price<10", "price < 10");
    check("  price\n<\t10 ", "price < 10");
    check("a == 1 AND b <> 2", "a = 1 and b != 2");
    check("a=1 or b=2 and c=3", "a = 1 or (b = 2 and c = 3)");
    check("a=1 and b=2 or c=3", "(a = 1 and b = 2) or c = 3");
    check("not a=1 and b=2", "not (a = 1) and b = 2");
    check("NOT NOT a=1", "not (not (a = 1))");
    check("not (a=1 and b=2)", "not (a = 1 and b = 2)");
    check("((((a=1))))", "a = 1");
    check("a In(1,2)", "a in (1, 2)");
    check("a between 1 and 2 and b = 3", "(a >= 1 and a <= 2) and b = 3");
    check("a not between 1 and 2", "not (a >= 1 and a <= 2)");
    check("a IS NOT NULL or a Is Null", "a is not null or a is null");
    check("a = 'it''s' and b = \"say \"\"hi\"\"\"", r#"a = "it's" and b = "say \"hi\"""#);
    check(r#"a = '\'\"\n\t\r\u{e9}\\'"#, "a = \"'\\\"\\u{a}\\u{9}\\u{d}é\\\\\"");
    check("`first name` = 1 and `a``b` = 2 and `Not` = 3", r"`first name` = 1 and `a\`b` = 2 and `Not` = 3");
    check("größe > 1", "`größe` > 1");
    check("limit = 1 and search = 2 and tag = 3", "`limit` = 1 and `search` = 2 and tag = 3");
    check("a = +5 and b = -5 and c = -0", "a = 5 and b = -5 and c = 0");
    check("a = -0.0 and b = 1e3 and c = 2.5E-2", "a = -0.0 and b = 1000.0 and c = 0.025");
    check("a in (NULL, True, FALSE, nan, INF, -Infinity)", "a in (null, true, false, NaN, inf, -inf)");
    check("a = 36893488147419103232", "a = tag(2, h'020000000000000000')");
    check("a = H\"01fF\" and b = h''", "a = h'01ff' and b = h''");
    check("a = [1, [], {'k': {}}]", r#"a = [1, [], {"k": {}}]"#);
    check("a = Decimal('19.90') or a = decimal('-0.05')", r#"a = decimal("19.90") or a = decimal("-0.05")"#);
    check("a = decimal('1.5e3') or a = decimal('7e-99')", r#"a = decimal("15e2") or a = decimal("7e-99")"#);
    check("a >= DateTime('2026-01-01T00:00:00Z')", r#"a >= datetime("2026-01-01T00:00:00Z")"#);
    check("a = tag(99, null)", "a = tag(99, null)");
    check("true and not false", "true and not (false)");
}

#[test]
fn a_whole_query_is_read_back() {
    let check = |typed: &str, canonical: &str| {
        let query: QueryDescriptor = typed.parse().unwrap();
        assert_eq!(query.canonical(), canonical, "{typed}");
        assert_eq!(QueryDescriptor::parse(canonical).unwrap().canonical(), canonical);
    };
    check("", "");
    check("  ", "");
    check("where true", "");
    check("WHERE false", "where false");
    check("where (b = 2 and a = 1)", "where a = 1 and b = 2");
    check("search 'Ü'", r#"search "ü""#);
    check("order by a, b DESC, `a b` asc", "order by a, b desc, `a b`");
    check("limit 5", "limit 5 offset 0");
    check(
        "where a=1 search 'x' order by desc desc, limit limit 5 offset 9",
        r#"where a = 1 search "x" order by `desc` desc, `limit` limit 5 offset 9"#,
    );
}

#[test]
fn an_error_says_where_what_was_found_and_what_was_expected() {
    let check_error = |error: Error, message: &str, character: &str| {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!((error.message(), error.context("character")), (message, Some(character)), "{error}");
    };
    let check = |text: &str, message: &str, character: usize| {
        check_error(Condition::parse(text).unwrap_err(), message, &character.to_string());
    };
    let operators = "one of `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not`, `like`, `between`, `is`";
    check("", "expected a column, `not` or `(`, found the end", 1);
    check("price", &format!("expected {operators}, found the end"), 6);
    check("price ~ 1", "expected a column, a value or an operator, found `~`", 7);
    check("price 10", &format!("expected {operators}, found the number 10"), 7);
    check("price < ", "expected a value, found the end", 9);
    check("price < and a = 1", "expected a value, found `and`", 9);
    check("state = TX", "expected a value (text stands between quotation marks), found `TX`", 9);
    check("state = `TX`", "expected a value, found the name `TX`", 9);
    check("state = 'TX", "expected a closing ', found none", 9);
    check("state = 'é' x", "expected `and`, `or` or the end, found `x`", 13);
    check("'state' = 1", "expected a column, `not` or `(`, found the text \"state\"", 1);
    let named = "(a column of that name stands between backticks)";
    check("Order = 1", &format!("expected a column, `not` or `(` {named}, found `Order`"), 1);
    check("a = 1 and", "expected a column, `not` or `(`, found the end", 10);
    check("(a = 1", "expected `and`, `or` or `)`, found the end", 7);
    check("a = 1)", "expected `and`, `or` or the end, found `)`", 6);
    check("a in 1", "expected `(` and a list of values, found the number 1", 6);
    check("a in (1 2)", "expected `,` or `)`, found the number 2", 9);
    check("a in (1,)", "expected a value, found `)`", 9);
    check("a is 1", "expected `null` or `not null`, found the number 1", 6);
    check("a is not 1", "expected `null`, found the number 1", 10);
    check("a not = 1", "expected `in`, `like` or `between`, found `=`", 7);
    check("a like 1", "expected a pattern between quotation marks, found the number 1", 8);
    check("a between 1 or 2", "expected `and` and the upper bound, found `or`", 13);
    check("a = 12abc", "expected the end of the number, found `a`", 7);
    check("a = - 1", "expected a number after `-`, found the number 1", 7);
    check("a = 1e999", "expected a number that a float can hold, found the number 1e999", 5);
    let wide = "9".repeat(50);
    let shown = &wide[..40];
    check(&format!("a = {wide}"), &format!("expected an integer of at most 127 bits, found the number {shown}"), 5);
    check(r"a = '\x'", r#"expected one of \\ \" \' \` \n \r \t \u{…}, found `\x`"#, 6);
    check(r"a = '\u{110000}'", r"expected a character's number, as in `\u{e9}`, found another `\u`", 6);
    check("a = h'0'", "expected an even number of hexadecimal digits after `h`, found something else", 5);
    check("a = {1 2}", "expected `:` and the entry's value, found the number 2", 8);
    check("a = decimal(1)", "expected a decimal number as text, as in \"19.90\", found the number 1", 13);
    check("a = decimal('1.')", "expected a decimal number as text, as in \"19.90\", found the text \"1.\"", 13);
    check("a = datetime(1)", "expected an instant as text, found the number 1", 14);
    check("a = tag(-1, 1)", "expected a whole number that is not negative, found the number -1", 9);
    check("a = tag(1)", "expected `,` and the tagged value, found `)`", 10);

    let check = |text: &str, message: &str, character: usize| {
        check_error(QueryDescriptor::parse(text).unwrap_err(), message, &character.to_string());
    };
    check("a = 1", "expected `where`, `search`, `order by`, `limit` or the end, found `a`", 1);
    check("where a = 1 b", "expected `and`, `or`, `search`, `order by`, `limit` or the end, found `b`", 13);
    check("search x", "expected the text to search for, between quotation marks, found `x`", 8);
    check("order a", "expected `by`, found `a`", 7);
    check("order by 1", "expected a column to order by, found the number 1", 10);
    check("order by a b", "expected `asc`, `desc`, `,`, `limit` or the end, found `b`", 12);
    check("limit -1", "expected a whole number that is not negative, found the number -1", 7);
    check("limit 1 search 'x'", "expected `offset` or the end, found `search`", 9);

    let long = format!("a in ({}) ?", vec!["1"; 1000].join(", "));
    let error = Condition::parse(&long).unwrap_err();
    assert_eq!(error.context("text").map(|text| text.chars().count()), Some(42), "{error}");
}

#[test]
fn hostile_nesting_is_refused() {
    for (open, inner, close) in
        [("(", "a = 1", ")"), ("not ", "a = 1", ""), ("a = [", "", ""), ("a = tag(1, ", "", ""), ("a = {1: ", "", "")]
    {
        let first = open.strip_prefix("a = ").unwrap_or(open);
        let start = open.strip_suffix(first).unwrap_or("");
        let text = format!("{start}{}{inner}{}", first.repeat(100_000), close.repeat(100_000));
        let error = Condition::parse(&text).unwrap_err();
        assert!(error.message().starts_with("expected at most 256 levels of nesting"), "{error}");
    }
    let deepest = format!("{}a = {}1{}{}", "(".repeat(256), "[".repeat(256), "]".repeat(256), ")".repeat(256));
    assert!(parsed(&deepest).check(&Schema::open("id")).is_err());
}

#[test]
fn what_a_check_lets_pass_is_read_back_and_what_is_deeper_is_refused() {
    let schema = Schema::open("id");
    let value = |levels: usize| (0..levels).fold(Value::from(1), |inner, _| Value::Array(vec![inner]));
    let clause = || Condition::eq("a", value(MAX_DEPTH));
    let negated = |levels: usize| (0..levels).fold(clause(), |inner, _| !inner);
    let grouped = |levels: usize| {
        let alternate = |inner: Condition, level: usize| {
            if level.is_multiple_of(2) { inner.and(col("b").eq(1)) } else { inner.or(col("c").eq(1)) }
        };
        (0..levels).fold(clause(), alternate)
    };
    for deep in [negated(MAX_LEVELS), grouped(MAX_LEVELS)] {
        assert!(deep.check(&schema).is_ok());
        assert_eq!(parsed(&deep.to_string()), deep);
        assert_eq!(parsed(&deep.canonical()).canonical(), deep.canonical());
    }
    let refused = |condition: Condition| {
        let error = condition.check(&schema).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    for deeper in [negated(MAX_LEVELS + 1), grouped(MAX_LEVELS + 1), negated(2_000)] {
        assert!(refused(deeper).contains("nests deeper than 128 levels; make it flatter"));
    }
    let error = refused(Condition::is_in("a", [value(0), value(MAX_DEPTH + 1)]).not());
    assert!(error.contains("the value nests deeper than 128 levels"), "{error}");
}

#[test]
fn a_long_chain_stays_flat_at_both_ends() {
    let clauses = || (0..2_000).map(|n| col("n").eq(n));
    let any = Condition::any(clauses());
    assert_eq!(clauses().reduce(Condition::or), Some(any.clone()));
    assert_eq!(clauses().rev().reduce(|chain, clause| clause.or(chain)), Some(any.clone()));
    let all = Condition::all(clauses());
    assert_eq!(clauses().reduce(Condition::and), Some(all.clone()));
    assert_eq!(clauses().rev().reduce(|chain, clause| clause.and(chain)), Some(all.clone()));
    assert_eq!(all.clone().and(all.clone()).check(&Schema::open("id")).ok(), Some(()));
    assert_eq!(parsed(&any.to_string()), any);
}

/// Groups of one opened, as their text doesn't show them.
fn opened(condition: &Condition) -> Condition {
    match condition {
        Condition::And(children) | Condition::Or(children) if children.len() == 1 => opened(&children[0]),
        Condition::And(children) => Condition::all(children.iter().map(opened)),
        Condition::Or(children) => Condition::any(children.iter().map(opened)),
        Condition::Not(child) => Condition::not(opened(child)),
        leaf => leaf.clone(),
    }
}

/// Any value at all, also such as no source would have.
fn wild_value() -> impl Strategy<Value = Value> {
    let integer = || prop_oneof![any::<i64>().prop_map(i128::from), any::<u64>().prop_map(i128::from), -9..9_i128];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        integer().prop_map(Value::from),
        integer().prop_map(|value| Value::from(-value)),
        any::<i128>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        (-1000..1000_i32).prop_map(|tenths| Value::Float(f64::from(tenths) / 10.0)),
        prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MAX, 5e-324])
            .prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
        "[\"'`\\\\nu{}a\n\t\u{85}\u{202e}]{0,6}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        any::<String>().prop_map(|text| datetime(&text)),
        (prop_oneof![-45..45_i64, any::<i64>()], integer()).prop_map(|(exponent, mantissa)| Value::Tag(
            4,
            Box::new(Value::Array(vec![exponent.into(), mantissa.into()]))
        )),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(Value::Map),
            (prop_oneof![0..6_u64, any::<u64>()], inner).prop_map(|(tag, inner)| Value::Tag(tag, Box::new(inner))),
        ]
    })
}

fn wild_path() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![
        any::<String>(),
        "[a-cA-C_.0 `\\\\é]{0,5}",
        prop::sample::select(vec!["AND", "or", "Not", "true", "h", "limit", "tag", "nan", "a.b", "a.", "é"])
            .prop_map(str::to_owned),
    ]
    .prop_map(Arc::from)
}

fn wild_condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        4 => (0..6_usize, wild_path(), wild_value()).prop_map(|(operator, path, value)| match operator {
            0 => Condition::Eq(path, value),
            1 => Condition::Ne(path, value),
            2 => Condition::Lt(path, value),
            3 => Condition::Le(path, value),
            4 => Condition::Gt(path, value),
            _ => Condition::Ge(path, value),
        }),
        1 => (wild_path(), prop::collection::vec(wild_value(), 0..4)).prop_map(|(path, list)| Condition::In(path, list)),
        1 => (wild_path(), prop::collection::vec(wild_value(), 0..4))
            .prop_map(|(path, list)| Condition::NotIn(path, list)),
        1 => (wild_path(), any::<String>()).prop_map(|(path, pattern)| Condition::Like(path, pattern)),
        1 => wild_path().prop_map(Condition::IsNull),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Condition::Or),
            inner.prop_map(Condition::not),
        ]
    })
}

/// Pieces that queries are made of, in any order.
fn word_soup() -> impl Strategy<Value = String> {
    let pieces = vec![
        "a",
        "b.c",
        "and",
        "OR",
        "not",
        "in",
        "is",
        "null",
        "like",
        "between",
        "where",
        "search",
        "order",
        "by",
        "limit",
        "offset",
        "desc",
        "true",
        "nan",
        "inf",
        "-",
        "decimal",
        "datetime",
        "tag",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "=",
        "<",
        "<=",
        "<>",
        "!=",
        "'x'",
        "'",
        "\"",
        "`",
        "`a b`",
        "\\",
        "\\u{",
        "h'",
        "h'00'",
        "1",
        "-2.5e3",
        "1e",
        "0x",
        "99999999999999999999",
        "é",
        "\u{0}",
        "decimal('1.5')",
    ];
    let space = prop::sample::select(vec!["", " ", "\n"]);
    prop::collection::vec((prop::sample::select(pieces), space), 0..24)
        .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, space)| [piece, space]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_is_read_back(condition in wild_condition()) {
        let text = condition.to_string();
        let back = Condition::parse(&text);
        prop_assert!(back.is_ok(), "{}: {:?}", text, back);
        prop_assert!(same_bits(&back.unwrap(), &opened(&condition)), "{}", text);

        let canonical = condition.canonical();
        let back = Condition::parse(&canonical);
        prop_assert!(back.is_ok(), "{}: {:?}", canonical, back);
        prop_assert_eq!(back.unwrap().canonical(), canonical);
    }

    #[test]
    fn a_sort_is_written_and_read_back(query in any_query()) {
        prop_assert_eq!(QueryDescriptor::parse(&query.canonical()).unwrap().sort, query.sort);
    }

    #[test]
    fn a_canonical_text_means_the_same(query in any_query(), rows in any_rows()) {
        let back = QueryDescriptor::parse(&query.canonical()).unwrap();
        prop_assert_eq!(back.canonical(), query.canonical());
        prop_assert_eq!(plain_answer(&back, &rows), plain_answer(&query, &rows), "{}", query.canonical());
    }

    #[test]
    fn any_text_is_survived(text in any::<String>(), soup in word_soup(), bytes in any::<Vec<u8>>()) {
        for text in [text.as_str(), &soup, &format!("where {soup}"), &String::from_utf8_lossy(&bytes)] {
            if let Ok(condition) = Condition::parse(text) {
                let back = Condition::parse(&condition.to_string()).unwrap();
                prop_assert!(same_bits(&back, &condition), "{}", text);
            }
            if let Ok(query) = QueryDescriptor::parse(text) {
                prop_assert_eq!(QueryDescriptor::parse(&query.canonical()).unwrap().canonical(), query.canonical());
            }
        }
    }

    #[test]
    fn a_text_with_one_slip_is_survived(condition in wild_condition(), at in any::<prop::sample::Index>(), slip in any::<char>()) {
        let mut characters: Vec<char> = condition.to_string().chars().collect();
        let position = at.index(characters.len());
        characters[position] = slip;
        let text: String = characters.iter().collect();
        if let Ok(other) = Condition::parse(&text) {
            prop_assert!(same_bits(&Condition::parse(&other.to_string()).unwrap(), &other), "{}", text);
        }
    }
}
