//! The shapes asked for lately, by how their texts begin: most texts are one of these but for their literals.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use crate::cache::Entry;
use crate::lexer::Backslash;

/// Sets, a power of two, and the places in each. Texts that begin alike are in one set.
const SETS: usize = 256;
const WAYS: usize = 4;

/// Longer ones are not kept here, so that all are 1 MB at most.
const KEY_BYTES_MAX: usize = 1024;

/// Bytes of a text's beginning, up to its first literal, that name its set.
const WORDS: usize = 4;
const WORD_BYTES: usize = 8;

/// How a text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning(u64);

impl Beginning {
    #[inline]
    pub(crate) fn of(text: &[u8]) -> Beginning {
        let mut hasher = FxHasher::default();
        let words = text.chunks_exact(WORD_BYTES).take(WORDS);
        for chunk in words {
            let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
            let before = before_literal(word);
            hasher.write_u64(before);
            if before != word {
                break;
            }
        }
        Beginning(hasher.finish())
    }
}

/// The bytes of `word` in front of its first digit or quote; the others are zero.
#[inline]
fn before_literal(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    // Sets the top bit of bytes below `n`; of bytes above one that is, perhaps, too.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & TOPS;
    let found = below(word ^ (ONES * u64::from(b'0')), 10) | below(word ^ (ONES * u64::from(b'\'')), 1);
    if found == 0 { word } else { word & ((1 << (found.trailing_zeros() - 7)) - 1) }
}

/// An entry, and how the text began that it was kept for.
type Place = Option<(Beginning, Arc<Entry>)>;

/// See the module's text.
pub(crate) struct Recent {
    sets: Box<[[Place; WAYS]]>,
}

impl Recent {
    pub(crate) fn new() -> Recent {
        Recent { sets: (0..SETS).map(|_| Default::default()).collect() }
    }

    /// The entry that `text` is one of.
    #[inline]
    pub(crate) fn find(&mut self, beginning: Beginning, text: &[u8], backslash: Backslash) -> Option<&Entry> {
        let set = self.set(beginning);
        let is_it = |place: &Place| {
            place.as_ref().is_some_and(|(begins, entry)| *begins == beginning && entry.is_of(text, backslash))
        };
        let mut way = set.iter().position(is_it)?;
        if way > 0 {
            // Who is asked for again and again comes first; who is not is driven out.
            set.swap(way, way - 1);
            way -= 1;
        }
        set[way].as_ref().map(|(_, entry)| &**entry)
    }

    /// Keeps an entry whose text begins like that, in the place that was asked for least.
    pub(crate) fn keep(&mut self, beginning: Beginning, entry: &Arc<Entry>) {
        if entry.pattern_bytes().is_some_and(|bytes| bytes <= KEY_BYTES_MAX) {
            self.set(beginning)[WAYS - 1] = Some((beginning, entry.clone()));
        }
    }

    fn set(&mut self, beginning: Beginning) -> &mut [Place; WAYS] {
        // The upper bits of a hash that ends in a multiplication are the better ones.
        &mut self.sets[(beginning.0 >> 32) as usize % SETS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_ends_with_the_first_literal() {
        let same = |a: &str, b: &str| Beginning::of(a.as_bytes()) == Beginning::of(b.as_bytes());
        assert!(same("select 1234 from t", "select 5 from u"));
        assert!(same("insert into t values ('a', 2)", "insert into t values ('bcdef')"));
        assert!(same("select name from orders where id = 9", "select name from orders where id = 17 limit 1"));
        assert!(!same("select name from orders", "select name from customers"));
        assert!(same("", "short") && same("short", "'"));
    }

    #[test]
    fn a_literal_is_found_at_any_byte_of_a_word() {
        for at in 0..8 {
            for literal in [b'0', b'9', b'\''] {
                let mut bytes = *b"ab_(/:&z";
                bytes[at] = literal;
                let mut expected = bytes;
                expected[at..].fill(0);
                assert_eq!(before_literal(u64::from_le_bytes(bytes)), u64::from_le_bytes(expected), "{at} {literal}");
            }
        }
        let other = u64::from_le_bytes(*b"/:(&\xb0\xa7\x80\xff");
        assert_eq!(before_literal(other), other);
    }
}
