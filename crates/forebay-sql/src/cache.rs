//! A bounded cache of shapes, so that a statement is parsed once and not each time it is run.
//!
//! A text is held against those that were asked for lately ([`crate::recent`]), then looked for as it is, then by its
//! fingerprint. Identity is content: the bytes are kept and compared, their hash only says where. The table is made of
//! sets of [`WAYS`] places; texts of one set drive out one another, so that no choice of texts makes a lookup long.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHasher;

use crate::fingerprint::fingerprint;
use crate::grammar;
use crate::lexer::Backslash;
use crate::pattern::Pattern;
use crate::recent::{Beginning, Recent};
use crate::shape::Shape;
use crate::shorten::shortened;

/// Places in a set.
const WAYS: usize = 8;

/// Bytes that the keys may have together, for each entry that the cache may have.
const KEY_BYTES_PER_ENTRY: usize = 1024;

/// What the key of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Fingerprint,
}

/// A shape, with what tells its texts.
pub(crate) struct Entry {
    form: Form,
    backslash: Backslash,
    key: Box<[u8]>,
    pattern: Option<Pattern>,
    shape: Arc<Shape>,
}

impl Entry {
    /// Whether `text` is known to be one of its texts, without being lexed.
    #[inline]
    pub(crate) fn is_of(&self, text: &[u8], backslash: Backslash) -> bool {
        let is_of = |pattern: &Pattern| pattern.is_of(&self.key, text, backslash);
        self.backslash == backslash && self.pattern.as_ref().is_some_and(is_of)
    }

    /// Bytes of its key, if texts can be held against it.
    pub(crate) fn pattern_bytes(&self) -> Option<usize> {
        self.pattern.as_ref().map(|_| self.key.len())
    }
}

#[derive(Default)]
struct Set {
    hashes: [u64; WAYS],
    entries: [Option<Arc<Entry>>; WAYS],
    /// A bit for each place that was asked for since the hand went by.
    recent: u8,
    /// The place that is looked at first when one must go.
    hand: u8,
}

/// Shapes by text.
pub struct ShapeCache {
    recent: Recent,
    sets: Box<[Set]>,
    /// The set that gives way first when the keys are too many bytes.
    hand: usize,
    key_bytes: usize,
    key_bytes_max: usize,
    /// The fingerprint at hand; kept for its allocation.
    scratch: Vec<u8>,
    /// The shape of what is too long to be looked at, or can't be read.
    unread: Arc<Shape>,
}

impl ShapeCache {
    /// A cache of at most `entries_max` shapes, rounded up to a power of two, at least 8.
    ///
    /// The texts that it keeps have 1 kB for each entry at most, together.
    pub fn new(entries_max: usize) -> ShapeCache {
        let sets = entries_max.div_ceil(WAYS).next_power_of_two();
        ShapeCache {
            recent: Recent::new(),
            sets: (0..sets).map(|_| Set::default()).collect(),
            hand: 0,
            key_bytes: 0,
            key_bytes_max: sets * WAYS * KEY_BYTES_PER_ENTRY,
            scratch: Vec::new(),
            unread: Arc::new(grammar::unknown()),
        }
    }

    /// The shape of `text`, parsed if it is not known.
    pub fn shape(&mut self, text: &[u8], backslash: Backslash) -> Arc<Shape> {
        if backslash == Backslash::Unknown {
            return self.unread.clone();
        }
        if text.len() > grammar::TEXT_BYTES_MAX {
            return self.shape_of_long(text, backslash);
        }
        let beginning = Beginning::of(text);
        if let Some(entry) = self.recent.find(beginning, text, backslash) {
            return entry.shape.clone();
        }
        self.shape_of_older(beginning, text, backslash)
    }

    #[inline(never)]
    fn shape_of_older(&mut self, beginning: Beginning, text: &[u8], backslash: Backslash) -> Arc<Shape> {
        let hash = hash_of(Form::Text, backslash, text);
        let entry = self.find(hash, Form::Text, backslash, text).unwrap_or_else(|| {
            let mut scratch = std::mem::take(&mut self.scratch);
            let entry = self.by_fingerprint(text, hash, backslash, &mut scratch);
            self.scratch = scratch;
            entry
        });
        self.recent.keep(beginning, &entry);
        entry.shape.clone()
    }

    /// A text too long for the grammar has the shape of what is left without its repetitions, if that is short enough.
    #[cold]
    fn shape_of_long(&mut self, text: &[u8], backslash: Backslash) -> Arc<Shape> {
        match shortened(text, backslash) {
            Some(left) => self.shape(&left, backslash),
            None => self.unread.clone(),
        }
    }

    /// How many shapes it holds.
    pub fn len(&self) -> usize {
        self.sets.iter().map(|set| set.entries.iter().flatten().count()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.key_bytes == 0
    }

    fn by_fingerprint(
        &mut self,
        text: &[u8],
        text_hash: u64,
        backslash: Backslash,
        scratch: &mut Vec<u8>,
    ) -> Arc<Entry> {
        let has_fingerprint = fingerprint(text, backslash, scratch);
        // A text without literals and comments is its own fingerprint, and was looked for.
        let is_shorter = has_fingerprint && scratch.as_slice() != text;
        let hash = if is_shorter { hash_of(Form::Fingerprint, backslash, scratch) } else { text_hash };
        if is_shorter && let Some(entry) = self.find(hash, Form::Fingerprint, backslash, scratch) {
            return entry;
        }
        let shape = Arc::new(grammar::parse(text, backslash));
        // A text may be refused for its literals; others of its fingerprint need not be.
        let (hash, form, key) = match is_shorter && shape.is_parsed {
            true => (hash, Form::Fingerprint, scratch.as_slice()),
            false => (text_hash, Form::Text, text),
        };
        let is_fingerprint = has_fingerprint && (form == Form::Fingerprint || !is_shorter);
        let pattern = is_fingerprint.then(|| Pattern::new(key)).flatten();
        let entry = Arc::new(Entry { form, backslash, key: key.into(), pattern, shape });
        self.keep(hash, entry.clone());
        entry
    }

    #[inline]
    fn find(&mut self, hash: u64, form: Form, backslash: Backslash, key: &[u8]) -> Option<Arc<Entry>> {
        let at = self.set_of(hash);
        let set = &mut self.sets[at];
        for way in 0..WAYS {
            if set.hashes[way] == hash
                && let Some(entry) = &set.entries[way]
                && *entry.key == *key
                && entry.form == form
                && entry.backslash == backslash
            {
                set.recent |= 1 << way;
                return Some(entry.clone());
            }
        }
        None
    }

    fn keep(&mut self, hash: u64, entry: Arc<Entry>) {
        let at = self.set_of(hash);
        let set = &mut self.sets[at];
        let way = set.entries.iter().position(Option::is_none).unwrap_or_else(|| set.oldest());
        self.key_bytes += entry.key.len();
        set.hashes[way] = hash;
        // New ones have to be asked for once more, or else texts that come but once would drive out the others.
        set.recent &= !(1 << way);
        let driven_out = set.entries[way].replace(entry);
        self.key_bytes -= driven_out.map_or(0, |entry| entry.key.len());
        while self.key_bytes > self.key_bytes_max {
            self.empty_a_set();
        }
    }

    /// Drops a set, the sets in turn.
    fn empty_a_set(&mut self) {
        let set = std::mem::take(&mut self.sets[self.hand]);
        self.key_bytes -= set.entries.iter().flatten().map(|entry| entry.key.len()).sum::<usize>();
        self.hand = (self.hand + 1) % self.sets.len();
    }

    fn set_of(&self, hash: u64) -> usize {
        // A power of two.
        hash as usize & (self.sets.len() - 1)
    }
}

impl Set {
    /// The place that was not asked for since the hand went by it; the hand goes on behind it.
    fn oldest(&mut self) -> usize {
        loop {
            let way = usize::from(self.hand);
            self.hand = (self.hand + 1) % WAYS as u8;
            if self.recent & 1 << way == 0 {
                return way;
            }
            self.recent &= !(1 << way);
        }
    }
}

fn hash_of(form: Form, backslash: Backslash, key: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u8((form == Form::Text) as u8 * 2 + (backslash == Backslash::Plain) as u8);
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cache: &mut ShapeCache, text: impl AsRef<[u8]>) -> Arc<Shape> {
        cache.shape(text.as_ref(), Backslash::Plain)
    }

    #[test]
    fn texts_that_differ_in_literals_and_comments_are_one_entry() {
        let mut cache = ShapeCache::new(64);
        let first = shape(&mut cache, "select * from t where a = 1 and b = 'x' -- trace 1");
        for text in [
            "select * from t where a = 1 and b = 'x' -- trace 2",
            "select * from t where a = 2.5e3 and b = $$y$$",
            "select * from /* from */ t where a = 0x1f and b = E'\\n'",
        ] {
            assert!(Arc::ptr_eq(&first, &shape(&mut cache, text)), "{text}");
        }
        assert_eq!(cache.len(), 1);
    }

    /// The name of one client's setting must not be taken from another's statement.
    #[test]
    fn a_shape_is_that_of_its_own_literals() {
        let mut cache = ShapeCache::new(64);
        for name in ["a.b", "c.d", "work_mem"] {
            let shape = shape(&mut cache, format!("select set_config('{name}', '1', false)"));
            assert_eq!(shape.settings().collect::<Vec<_>>(), [name]);
        }
        assert_eq!(cache.len(), 3);
        for value in 0..100 {
            shape(&mut cache, format!("select set_config('app.user', '{value}', true)"));
        }
        assert_eq!(cache.len(), 4, "a value is no part of a shape");
    }

    #[test]
    fn a_text_refused_for_its_literal_spoils_no_other() {
        let mut cache = ShapeCache::new(64);
        assert!(!shape(&mut cache, r"select E'\xff' from t").is_parsed);
        assert!(shape(&mut cache, "select E'x' from t").is_parsed);
        assert!(shape(&mut cache, r"select E'\xff' from t").traces.has(crate::traces::Traces::OPAQUE));
    }

    #[test]
    fn the_meaning_of_a_backslash_is_part_of_the_key() {
        let mut cache = ShapeCache::new(64);
        let text = br"select 'a\', set_config('work_mem', '1', false), '' -- '";
        assert_eq!(cache.shape(text, Backslash::Plain).settings().count(), 1);
        assert_eq!(cache.shape(text, Backslash::Escape).settings().count(), 0);
        assert!(cache.shape(text, Backslash::Unknown).traces.has(crate::traces::Traces::OPAQUE));
        assert_eq!(cache.shape(text, Backslash::Plain).settings().count(), 1);
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let mut cache = ShapeCache::new(16);
        for n in 0..1000 {
            shape(&mut cache, format!("select a{n}"));
        }
        assert!((8..=16).contains(&cache.len()), "{}", cache.len());
        for n in 0..100 {
            shape(&mut cache, format!("select a{n}, {}", "b, ".repeat(1000) + "b"));
            assert!(cache.key_bytes <= cache.key_bytes_max);
        }
        let kept: usize = cache.sets.iter().flat_map(|set| set.entries.iter().flatten()).map(|e| e.key.len()).sum();
        assert_eq!(kept, cache.key_bytes);
        assert!(Arc::ptr_eq(&shape(&mut cache, "x".repeat(70_000)), &shape(&mut cache, "y".repeat(70_000))));
    }

    /// A report with a thousand statements of its own must not drive out what everybody runs.
    #[test]
    fn what_is_asked_for_again_stays() {
        let mut cache = ShapeCache::new(8);
        let hot = shape(&mut cache, "select 1 from hot");
        for n in 0..100 {
            shape(&mut cache, format!("select a{n}"));
            assert!(Arc::ptr_eq(&hot, &shape(&mut cache, "select 1 from hot")), "{n}");
        }
    }
}
