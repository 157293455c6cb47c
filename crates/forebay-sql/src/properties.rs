//! What holds for any text.

use proptest::prelude::*;

use crate::clock::has_clock_literal;
use crate::lexer::{Backslash, Kind, Lexer, Token};

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
