//! Images: sets of parameter values, interned so that equal ones are one pointer and a hand-over between
//! clients that want the same costs one comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

use forebay_sql::lexer::Backslash;
use rustc_hash::FxHashMap;

use crate::planted::{Bug, planted};

/// Names and values, in order of name.
type Entries = Vec<(Arc<str>, Arc<str>)>;

/// Parameter values by lower-case name, in order of name.
#[derive(Debug)]
pub struct Image {
    entries: Entries,
    environment: Arc<str>,
    backslash: Backslash,
    /// Texts are in another encoding than UTF-8. In some, bytes of ASCII are parts of other characters (SJIS, BIG5, GBK,
    /// UHC, JOHAB, GB18030); in all, names are not those of the catalogue.
    is_encoded: bool,
}

impl Default for Image {
    fn default() -> Self {
        Image::of(Vec::new())
    }
}

impl Image {
    fn of(entries: Entries) -> Image {
        let mut environment = String::new();
        for (name, value) in entries.iter().filter(|(n, _)| !is_irrelevant_to_parse(n)) {
            environment.extend([&**name, "\0", &**value, "\0"]);
        }
        let is_escape =
            |(name, value): &(Arc<str>, Arc<str>)| **name == *"standard_conforming_strings" && **value == *"off";
        let backslash = if entries.iter().any(is_escape) { Backslash::Escape } else { Backslash::Plain };
        let is_encoding = |(name, value): &(Arc<str>, Arc<str>)| **name == *"client_encoding" && !is_utf8(value);
        let is_encoded = entries.iter().any(is_encoding);
        Image { entries, environment: environment.into(), backslash, is_encoded }
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        self.entries.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|i| &self.entries[i].1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.entries.iter().map(|(n, v)| (n, v))
    }

    /// The same by name.
    pub fn values(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        self.entries.iter().cloned().collect()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a backslash means in a text of a session with these values.
    #[inline]
    pub fn backslash_in(&self, text: &[u8]) -> Backslash {
        if self.is_encoded && !text.is_ascii() { Backslash::Unknown } else { self.backslash }
    }

    /// What of this image can change the meaning of a text at Parse: part of a shared statement's key.
    pub fn environment(&self) -> &Arc<str> {
        &self.environment
    }
}

/// Names that can't change what a Parse means. All others are part of a shared statement's key.
fn is_irrelevant_to_parse(name: &str) -> bool {
    name == "application_name" || name == "work_mem" || name.ends_with("_timeout")
}

/// Reported parameters that a client can't set, or that follow from others.
pub fn is_settable(name: &str) -> bool {
    !matches!(
        name,
        "server_version"
            | "server_encoding"
            | "integer_datetimes"
            | "is_superuser"
            | "session_authorization"
            | "in_hot_standby"
            | "scram_iterations"
    )
}

/// Whether a setting of this name, in lower case, can be set again on another server. Those of a transaction end with
/// it; the others have statements of their own.
pub fn is_restorable(name: &str) -> bool {
    is_settable(name)
        && !matches!(name, "seed" | "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

/// The images of one worker.
pub struct Images {
    known: FxHashMap<Entries, Rc<Image>>,
    empty: Rc<Image>,
    sweep_at: usize,
}

impl Default for Images {
    fn default() -> Self {
        Images { known: FxHashMap::default(), empty: Rc::new(Image::default()), sweep_at: 256 }
    }
}

impl Images {
    /// The image without entries.
    pub fn empty(&self) -> Rc<Image> {
        self.empty.clone()
    }

    /// The image of these values.
    pub fn intern(&mut self, values: &BTreeMap<Arc<str>, Arc<str>>) -> Rc<Image> {
        if values.is_empty() {
            return self.empty();
        }
        let entries: Vec<_> = values.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        if let Some(image) = self.known.get(&entries) {
            return image.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, image| Rc::strong_count(image) > 1);
            self.sweep_at = 256.max(self.known.len() * 2);
        }
        let image = Rc::new(Image::of(entries.clone()));
        self.known.insert(entries, image.clone());
        image
    }

    /// All names of both, with the values of `b` where both have one.
    pub fn union(&mut self, a: &Rc<Image>, b: &Rc<Image>) -> Rc<Image> {
        let values = a.iter().chain(b.iter()).map(|(n, v)| (n.clone(), v.clone())).collect();
        self.intern(&values)
    }

    /// `image` with one value changed, or taken out.
    pub fn with(&mut self, image: &Rc<Image>, name: &str, value: Option<&str>) -> Rc<Image> {
        if image.get(name).map(|v| &**v) == value {
            return image.clone();
        }
        let mut values: BTreeMap<_, _> = image.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
        match value {
            Some(value) => values.insert(name.into(), value.into()),
            None => values.remove(name),
        };
        self.intern(&values)
    }
}

/// The statements that turn a server with `from` set into one with `to` set; none where nothing is to do.
///
/// `trusted`: whether `from` is known to hold; else everything of `to` is set again. The role comes last: it may not
/// be allowed to set the others. `encoding`: what the server takes the text for.
///
/// SET costs the server a third of what a call of set_config does. But it takes a list of names for one name, and its
/// value is part of the text, which views of statistics keep: custom settings often differ from client to client.
#[inline(never)]
pub fn transition(from: &Image, to: &Image, trusted: bool, encoding: Option<&str>) -> Vec<String> {
    let is_other = |name: &str| name != "role";
    let surplus: Vec<_> = from.iter().filter(|(name, _)| is_other(name) && to.get(name).is_none()).collect();
    let (kept, missing): (Vec<_>, Vec<_>) = to
        .iter()
        .filter(|(name, _)| is_other(name))
        .partition(|(name, value)| trusted && from.get(name) == Some(*value));
    let has_others = !surplus.is_empty() || !missing.is_empty();
    let role_changes = from.get("role") != to.get("role");
    let leaves_role = !trusted || (from.get("role").is_some() && (role_changes || has_others));
    let mut statements = Vec::new();
    if leaves_role && (trusted || has_others || from.get("role").is_some() || to.get("role").is_some()) {
        statements.push("RESET ROLE".to_owned());
    }
    // All at once where that is less to do.
    let is_all_reset = trusted && surplus.len() > 1 + kept.len();
    if is_all_reset {
        statements.push("RESET ALL".to_owned());
    } else {
        statements.extend(surplus.iter().map(|(name, _)| format!("RESET {}", identifier(name))));
    }
    let set = missing.into_iter().chain(kept.into_iter().filter(|_| is_all_reset));
    let (called, plain): (Vec<_>, Vec<_>) = set.partition(|(name, _)| name.contains('.') || is_list_of_names(name));
    let literal = |value: &str| literal(value, encoding);
    let assign = |name: &str, value: &str| format!("SET {} TO {}", identifier(name), literal(value));
    statements.extend(plain.iter().map(|(name, value)| assign(name, value)));
    let call = |name: &str, value: &str| format!("pg_catalog.set_config({},{},false)", literal(name), literal(value));
    let calls: Vec<_> = called.iter().map(|(name, value)| call(name, value)).collect();
    if !calls.is_empty() {
        statements.push(format!("SELECT {}", calls.join(",")));
    }
    let role = to.get("role").filter(|_| (role_changes || leaves_role) && !planted(Bug::RoleNotSet));
    statements.extend(role.map(|role| assign("role", role)));
    statements
}

/// The statements that set, until the transaction ends, what differs of `environment`, an image's, from what is in force: the
/// values of `wanted`, but for those named in `fresh`, which are anything.
///
/// Custom settings and the role stay as they are: no text is read by them, and at `strict` a server that has seen one of
/// another's would have to be closed. So does row_security: what is rewritten by it is rewritten anew when it differs
/// (PostgreSQL, `RevalidateCachedQuery`), and where it is off, to make the statement is an error for some roles.
#[cold]
pub fn for_transaction(environment: &str, wanted: &Image, fresh: &[Arc<str>], encoding: Option<&str>) -> Vec<String> {
    let mut parts = environment.split_terminator('\0');
    let mut made_with = BTreeMap::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        made_with.insert(name, value);
    }
    let in_force = wanted.iter().map(|(name, _)| &**name).chain(fresh.iter().map(|name| &**name));
    let names: BTreeSet<&str> = made_with.keys().copied().chain(in_force).collect();
    let is_read_by = |name: &&str| {
        let is_read = is_restorable(name) && !is_irrelevant_to_parse(name);
        is_read && !name.contains('.') && !matches!(*name, "role" | "row_security")
    };
    let mut statements = Vec::new();
    for name in names.into_iter().filter(is_read_by) {
        let is_fresh = fresh.iter().any(|known| **known == *name);
        match made_with.get(name) {
            value if !is_fresh && value.copied() == wanted.get(name).map(|value| &**value) => {}
            None => statements.push(format!("SET LOCAL {} TO DEFAULT", identifier(name))),
            Some(value) if is_list_of_names(name) => {
                let (name, value) = (literal(name, encoding), literal(value, encoding));
                statements.push(format!("SELECT pg_catalog.set_config({name},{value},true)"));
            }
            Some(value) => statements.push(format!("SET LOCAL {} TO {}", identifier(name), literal(value, encoding))),
        }
    }
    statements
}

/// Settings that PostgreSQL marks GUC_LIST_QUOTE: SET takes one string for one name. Extensions can't add to them.
fn is_list_of_names(name: &str) -> bool {
    matches!(name, "search_path" | "temp_tablespaces" | "unix_socket_directories" | "oauth_validator_libraries")
        || name.ends_with("_preload_libraries")
}

fn identifier(name: &str) -> String {
    let parts: Vec<_> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}

/// Whether texts in `encoding` are read as they are: as UTF-8, or as bytes.
pub(crate) fn is_utf8(encoding: &str) -> bool {
    encoding.eq_ignore_ascii_case("utf8") || encoding.eq_ignore_ascii_case("sql_ascii")
}

/// A literal for a server that takes text to be in `encoding`: what another than UTF-8 would misread is escaped.
fn literal(value: &str, encoding: Option<&str>) -> String {
    let mut sql = String::new();
    if value.is_ascii() || encoding.is_none_or(is_utf8) {
        quote_literal(&mut sql, value);
        return sql;
    }
    sql.push_str(" E'");
    for c in value.chars() {
        match c {
            '\\' | '\'' => sql.extend([c, c]),
            _ if c.is_ascii() => sql.push(c),
            _ => {
                let _ = write!(sql, "\\U{:08x}", u32::from(c));
            }
        }
    }
    sql.push('\'');
    sql
}

/// A literal that means the same whatever `standard_conforming_strings` says.
pub fn quote_literal(sql: &mut String, value: &str) {
    if value.contains('\\') {
        sql.push_str(" E");
    }
    sql.push('\'');
    sql.push_str(&value.replace('\\', "\\\\").replace('\'', "''"));
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(images: &mut Images, values: &[(&str, &str)]) -> Rc<Image> {
        images.intern(&values.iter().map(|(n, v)| (Arc::from(*n), Arc::from(*v))).collect())
    }

    #[test]
    fn equal_values_are_one_image() {
        let mut images = Images::default();
        let a = image(&mut images, &[("timezone", "UTC"), ("datestyle", "ISO, MDY")]);
        let b = image(&mut images, &[("datestyle", "ISO, MDY"), ("timezone", "UTC")]);
        assert!(Rc::ptr_eq(&a, &b));
        let c = images.with(&a, "timezone", Some("Europe/Bern"));
        assert!(!Rc::ptr_eq(&a, &c));
        assert!(Rc::ptr_eq(&a, &images.with(&c, "timezone", Some("UTC"))));
    }

    /// A value that is restored only in part shows a client its neighbour's settings.
    #[test]
    fn a_transition_resets_what_is_surplus_and_sets_what_differs() {
        let mut images = Images::default();
        let from = image(&mut images, &[("app.tenant", "7"), ("timezone", "UTC")]);
        let to = image(&mut images, &[("search_path", "a, b"), ("timezone", "UTC"), ("work_mem", "5MB")]);
        assert_eq!(
            transition(&from, &to, true, None),
            [
                "RESET \"app\".\"tenant\"",
                "SET \"work_mem\" TO '5MB'",
                "SELECT pg_catalog.set_config('search_path','a, b',false)",
            ]
        );
        assert!(transition(&to, &to, true, None).is_empty());
        assert!(transition(&to, &to, false, None).iter().any(|sql| sql.contains("timezone")));
    }

    #[test]
    fn many_values_are_reset_at_once() {
        let mut images = Images::default();
        let from = image(&mut images, &[("a.b", "1"), ("timezone", "UTC"), ("work_mem", "5MB"), ("x.y", "2")]);
        let to = image(&mut images, &[("timezone", "UTC")]);
        assert_eq!(transition(&from, &to, true, None), ["RESET ALL", "SET \"timezone\" TO 'UTC'"]);
        let none = image(&mut images, &[]);
        assert_eq!(transition(&to, &none, true, None), ["RESET \"timezone\""]);
    }

    /// Read with the settings of the moment, a statement would mean to its other clients what it means to this one.
    #[test]
    fn a_statement_is_made_again_with_the_settings_it_was_made_with() {
        let mut images = Images::default();
        let made = image(&mut images, &[("datestyle", "ISO, DMY"), ("search_path", "a, b"), ("timezone", "UTC")]);
        let now = [("app.tenant", "7"), ("bytea_output", "hex"), ("row_security", "off"), ("timezone", "UTC")];
        let now = image(&mut images, &now);
        let of = |wanted: &Image, fresh: &[Arc<str>]| for_transaction(made.environment(), wanted, fresh, None);
        assert_eq!(
            of(&now, &[]),
            [
                "SET LOCAL \"bytea_output\" TO DEFAULT",
                "SET LOCAL \"datestyle\" TO 'ISO, DMY'",
                "SELECT pg_catalog.set_config('search_path','a, b',true)",
            ]
        );
        assert!(of(&made, &["app.tenant".into(), "role".into(), "work_mem".into()]).is_empty());
        let fresh = ["timezone".into(), "xmloption".into()];
        assert_eq!(of(&made, &fresh), ["SET LOCAL \"timezone\" TO 'UTC'", "SET LOCAL \"xmloption\" TO DEFAULT"]);
    }

    /// A role may set less than the user that took it on.
    #[test]
    fn the_role_is_left_first_and_taken_on_last() {
        let mut images = Images::default();
        let a = image(&mut images, &[("role", "clerk"), ("timezone", "UTC"), ("a.b", "1")]);
        let b = image(&mut images, &[("role", "boss"), ("a.b", "1"), ("work_mem", "1MB")]);
        assert_eq!(
            transition(&a, &b, true, None),
            ["RESET ROLE", "RESET \"timezone\"", "SET \"work_mem\" TO '1MB'", "SET \"role\" TO 'boss'"]
        );
        let c = image(&mut images, &[("role", "clerk"), ("a.b", "1")]);
        assert_eq!(transition(&a, &c, true, None), ["RESET ROLE", "RESET \"timezone\"", "SET \"role\" TO 'clerk'"]);
        let none = image(&mut images, &[]);
        assert_eq!(transition(&c, &none, true, None), ["RESET ROLE", "RESET \"a\".\"b\""]);
    }

    /// A server that still reads the last client's SJIS would set another value than the next one's, or see the literal
    /// end elsewhere.
    #[test]
    fn what_another_encoding_would_misread_is_escaped() {
        let mut images = Images::default();
        let none = image(&mut images, &[]);
        let to = image(&mut images, &[("work_mem", "\u{e9}\\'")]);
        assert_eq!(transition(&none, &to, true, Some("UTF8")), ["SET \"work_mem\" TO  E'\u{e9}\\\\'''"]);
        assert_eq!(transition(&none, &to, true, Some("SJIS")), ["SET \"work_mem\" TO  E'\\U000000e9\\\\'''"]);
    }

    #[test]
    fn quotes_and_backslashes_stay_inside_their_literal() {
        let mut sql = String::new();
        quote_literal(&mut sql, r"a'b\'; DROP");
        assert_eq!(sql, r" E'a''b\\''; DROP'");
    }

    #[test]
    fn only_what_matters_at_parse_is_part_of_the_environment() {
        let mut images = Images::default();
        let a = image(&mut images, &[("application_name", "x"), ("statement_timeout", "5s")]);
        assert_eq!(&**a.environment(), "");
        assert_ne!(&**image(&mut images, &[("timezone", "UTC")]).environment(), "");
    }
}
