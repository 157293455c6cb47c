//! What holds for any text.

use pg_raw_parse::normalize::normalize;
use proptest::prelude::*;

use crate::cache::ShapeCache;
use crate::clock::has_clock_literal;
use crate::fingerprint::fingerprint;
use crate::fuzz_entry::{self, show};
use crate::grammar;
use crate::lexer::{Backslash, Kind, Lexer, Token};
use crate::pattern::Pattern;

/// Pieces that meet at every boundary the lexer knows.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "'", "''", "\"", "E'", "U&'", "$$", "$a$", "$1", "\\", "--", "/*", "*/", "\n", " ", ";", "::", "..", ".",
            "1", "1e", "0x", "_", "+-", "<>", "?", "@", "now", "select", "é", "a$b",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Pieces that have an end, so that most texts of them have a fingerprint.
fn whole_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        " ",
        " ",
        "\n",
        "a",
        "n",
        "e",
        "x",
        "$1",
        "\"q\"",
        ",",
        "(",
        ")",
        "[",
        ".",
        "..",
        ":",
        "::",
        "-",
        "+",
        "*",
        "<>",
        "@",
        "1",
        "22",
        "3.5",
        ".5",
        "1e",
        "0x1",
        "1_0",
        "'x'",
        "'a''b'",
        "''",
        "E'y\\''",
        "$$z$$",
        "b'1'",
        "U&'k'",
        "N'l'",
        "--c\n",
        "/*c*/",
        "set_config(",
        "language ",
        "'\\'",
        "é",
    ]);
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn tokens(text: &[u8], backslash: Backslash) -> Vec<Token> {
    Lexer::new(text, backslash).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Tokens are in order, not empty, within the text, and only spaces and comments lie between them.
    #[test]
    fn tokens_cover_the_text(text in text(), escape in any::<bool>()) {
        let backslash = if escape { Backslash::Escape } else { Backslash::Plain };
        let mut end = 0;
        for token in tokens(&text, backslash) {
            prop_assert!(end <= token.start && token.start < token.end && token.end <= text.len());
            let between = &text[end..token.start];
            let is_blank = between.iter().all(u8::is_ascii_whitespace) || between.windows(2).any(|p| p == b"--" || p == b"/*")
                || between.contains(&0x0b);
            prop_assert!(is_blank, "{:?}", between.escape_ascii().to_string());
            end = token.end;
        }
        let _ = has_clock_literal(&text, backslash);
    }

    #[test]
    fn any_bytes_have_a_shape(text in text()) {
        fuzz_entry::shape(&text);
    }

    /// What a pattern takes for a text of its fingerprint has that fingerprint, whatever stands where literals stood.
    #[test]
    fn a_pattern_takes_no_text_of_another_fingerprint(
        parts in prop::collection::vec((whole_pieces(), whole_pieces(), whole_pieces()), 1..5),
        escape in any::<bool>(),
    ) {
        let backslash = if escape { Backslash::Escape } else { Backslash::Plain };
        let one = parts.iter().map(|(part, literal, _)| part.clone() + literal).collect::<String>();
        let other = parts.iter().map(|(part, _, literal)| part.clone() + literal).collect::<String>();
        let (mut print, mut other_print) = (Vec::new(), Vec::new());
        prop_assume!(fingerprint(one.as_bytes(), backslash, &mut print));
        let Some(pattern) = Pattern::new(&print) else { return Ok(()) };
        for text in [&one, &other] {
            if pattern.is_of(&print, text.as_bytes(), backslash) {
                prop_assert!(fingerprint(text.as_bytes(), backslash, &mut other_print));
                prop_assert_eq!(&other_print, &print, "{} by {}", text, one);
            }
        }
    }

    /// A token read alone is the same token: nothing before it matters.
    #[test]
    fn a_token_stands_for_itself(text in text()) {
        for token in tokens(&text, Backslash::Plain) {
            if token.kind != Kind::Broken {
                let alone = tokens(&text[token.start..token.end], Backslash::Plain);
                prop_assert_eq!(alone, vec![Token { kind: token.kind, start: 0, end: token.end - token.start }]);
            }
        }
    }
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9]{1,12}", "[0-9]{1,3}\\.[0-9]{0,3}(e[0-9])?"]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        "'([a-z ]|''|--|/\\*){0,8}'",
        "E'([a-z]|\\\\'|\\\\n){0,8}'",
        "\\$\\$[a-z']{0,8}\\$\\$",
        "\\$q\\$[a-p$]{0,8}\\$q\\$",
        "'[a-z]{0,3}'\n '[a-z]{0,3}'",
    ]
}

/// Two literals that can stand for one another.
fn literals() -> impl Strategy<Value = (String, String)> {
    prop_oneof![(number(), number()), (string(), string())]
}

/// Statements with a place for literals at each `?`.
const TEMPLATES: [&str; 10] = [
    "select ?",
    "select * from t where a = ? and b in (?, ?) limit ?",
    "insert into t (a, b) values (?, ?), (f(?), -?)",
    "update t set a = ?, b = b || ? where c between ? and ? returning x::my_type",
    "delete from t where a = any(array[?, ?])",
    "select case a when ? then ? else g(?) end from t join u on t.x = u.x + ?",
    "with x as (select ?) select * from x, y where z > ?",
    "set app.a = ?; select nextval(?)",
    "select set_config('a.b', ?, true), ?",
    "copy (select ? from t) to stdout",
];

fn filled(template: &str, literals: &[String]) -> String {
    let mut literals = literals.iter().cycle();
    let mut text = String::new();
    for (at, part) in template.split('?').enumerate() {
        if at > 0 {
            text += literals.next().map_or("1", String::as_str);
        }
        text += part;
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Texts that differ in literals only are one entry of the cache and have one shape, by the grammar's own account.
    #[test]
    fn literals_are_no_part_of_a_shape(
        template in prop::sample::select(&TEMPLATES[..]),
        pairs in prop::collection::vec(literals(), 8),
    ) {
        let (some, others): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let texts = [filled(template, &some), filled(template, &others)];
        let [one, other] = texts.each_ref().map(|text| grammar::parse(text.as_bytes(), Backslash::Plain));
        prop_assert_eq!(fingerprint_of(&texts[0]), fingerprint_of(&texts[1]));
        prop_assume!(one.is_parsed && other.is_parsed);
        prop_assert_eq!(show(&one), show(&other));
        let mut cache = ShapeCache::new(64);
        for text in [&texts[0], &texts[1], &texts[0]] {
            prop_assert_eq!(show(&cache.shape(text.as_bytes(), Backslash::Plain)), show(&one));
        }
        prop_assert_eq!(cache.len(), 1);
        // libpg_query's own idea of what a literal is.
        let [one, other] = texts.each_ref().map(|text| normalize(text).ok());
        prop_assert_eq!(one, other);
    }

    /// Whatever the order in which texts come, the cache says what the grammar says.
    #[test]
    fn the_cache_answers_as_the_grammar_does(
        texts in prop::collection::vec((prop::sample::select(&TEMPLATES[..]), prop::collection::vec(literals(), 3)), 1..20),
    ) {
        let mut cache = ShapeCache::new(8);
        for (template, literals) in texts {
            let literals: Vec<_> = literals.into_iter().map(|(literal, _)| literal).collect();
            let text = filled(template, &literals);
            let parsed = grammar::parse(text.as_bytes(), Backslash::Plain);
            if parsed.is_parsed {
                prop_assert_eq!(show(&cache.shape(text.as_bytes(), Backslash::Plain)), show(&parsed), "{}", text);
            }
        }
    }
}

fn fingerprint_of(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fingerprint(text.as_bytes(), Backslash::Plain, &mut bytes).then_some(bytes)
}
