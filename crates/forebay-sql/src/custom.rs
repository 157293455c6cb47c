//! Names of custom settings (`app.tenant`) in code that a text carries: a DO block, a string that is run.
//!
//! No list of a session's settings tells of custom ones, so whoever wants to know their values must ask by name.

/// Longest name that is told.
const NAME_BYTES_MAX: usize = 128;

/// Names in `text` that may be custom settings: those behind an opening quote, SET, LOCAL, SESSION or RESET. In lower
/// case; some may be names of other things.
pub fn setting_names(text: &[u8]) -> impl Iterator<Item = String> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let start = at;
            let length = text[start..].iter().take_while(|b| is_part(b)).count();
            at = start + length.max(1);
            let name = &text[start..start + length];
            if is_setting_name(name) && is_introduced(&text[..start]) {
                return std::str::from_utf8(name).ok().map(str::to_ascii_lowercase).or_else(|| Some(String::new()));
            }
        }
        None
    })
    .filter(|name| !name.is_empty())
}

/// Whether a custom setting may have this name.
pub fn is_setting_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.contains(&b'.')
        && name.iter().all(is_part)
        && !name.split(|b| *b == b'.').any(<[u8]>::is_empty)
        && !name[0].is_ascii_digit()
}

/// Whether a byte may stand in a name.
fn is_part(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.') || *b >= 0x80
}

/// Whether a name may follow: an opening quote, or one of the words that settings stand behind.
fn is_introduced(before: &[u8]) -> bool {
    if before.ends_with(b"'") {
        return true;
    }
    let trimmed = before.trim_ascii_end();
    let word_len = trimmed.iter().rev().take_while(|b| b.is_ascii_alphabetic()).count();
    let word = &trimmed[trimmed.len() - word_len..];
    trimmed.len() < before.len()
        && [&b"set"[..], b"local", b"session", b"reset"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_settings_stand() {
        let names = |text: &str| setting_names(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(names("do $$ begin perform set_config('App.a', '1', false); end $$"), ["app.a"]);
        assert_eq!(names("do $$ begin execute 'set app.b = 1'; set local x.y to 2; end $$"), ["app.b", "x.y"]);
        assert_eq!(names("do 'begin perform set_config(''q.r'', ''1'', false); end'"), ["q.r"]);
        assert!(names("do $$ begin insert into s.t select a.b from u where c = 1.5; end $$").is_empty());
        assert!(names("'a..b' '.c' 'd.' '1.5'").is_empty());
        assert!(is_setting_name(b"App.tenant_1") && !is_setting_name(b"App.tenant 1") && !is_setting_name(b"7.x"));
        assert!(!is_setting_name(b"") && !is_setting_name(b"work_mem") && !is_setting_name(b"."));
    }
}
