//! The settings of one session: a small stack of values with PostgreSQL's rules for transactions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Settings whose changes the server reports, with their defaults.
pub(crate) const REPORTED: [(&str, &str); 7] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("IntervalStyle", "postgres"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];

/// Settings that are never reported.
pub(crate) const SILENT: [(&str, &str); 7] = [
    (AUTHORIZATION, SELF),
    ("extra_float_digits", "1"),
    (ROLE, "none"),
    ("search_path", "\"$user\", public"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("work_mem", "4MB"),
];

/// SET ROLE.
pub(crate) const ROLE: &str = "role";
/// SET SESSION AUTHORIZATION; its value at the start stands for whoever logged in.
pub(crate) const AUTHORIZATION: &str = "authorization";
const SELF: &str = "self";

/// Who one is in a session: SESSION AUTHORIZATION and ROLE.
pub(crate) type Principal = (String, String);

/// Values that never change and are reported once.
pub(crate) const FIXED: [(&str, &str); 6] = [
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "16.9"),
    ("session_authorization", "app"),
];

/// A setting's value, and whether a SET gave it that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    value: String,
    is_set: bool,
}

impl Slot {
    fn start(value: &str) -> Slot {
        Slot { value: value.to_owned(), is_set: false }
    }
}

type Values = BTreeMap<Cow<'static, str>, Slot>;

/// What a transaction brings back when it fails.
#[derive(Clone, Debug)]
struct Saved {
    values: Rc<Values>,
    hidden: Values,
}

/// Current values, and what a rollback or a RESET brings back. Sessions are copied often, and rarely differ by them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Who logged in.
    user: String,
    values: Rc<Values>,
    at_startup: Rc<BTreeMap<&'static str, String>>,
    /// As the transaction began, and at each savepoint.
    saved: Vec<Saved>,
    /// What SET LOCAL hides until the transaction ends.
    hidden: Values,
    /// As last reported.
    reported: Rc<BTreeMap<&'static str, String>>,
}

impl Settings {
    /// Settings of a session with these startup parameters; unknown names are returned as the error.
    pub(crate) fn new(params: &[(String, String)]) -> Result<Settings, String> {
        let mut at_startup: BTreeMap<_, _> = REPORTED.iter().chain(&SILENT).map(|&(n, v)| (n, v.to_owned())).collect();
        let mut user = String::new();
        for (name, value) in params {
            match name.as_str() {
                "user" => user.clone_from(value),
                "database" | "replication" | "options" => {}
                name => {
                    let known = own_name(name).ok_or_else(|| name.to_owned())?;
                    at_startup.insert(known, value.clone());
                }
            }
        }
        let values = at_startup.iter().map(|(n, v)| (Cow::Borrowed(*n), Slot::start(v))).collect();
        let reported = REPORTED.iter().map(|&(n, _)| (n, at_startup[n].clone())).collect();
        Ok(Settings {
            user,
            values: Rc::new(values),
            at_startup: Rc::new(at_startup),
            saved: Vec::new(),
            hidden: Values::new(),
            reported: Rc::new(reported),
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        if let Some((_, v)) = FIXED.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return Some(v);
        }
        known(name).ok().and_then(|n| self.values.get(&n)).map(|slot| slot.value.as_str())
    }

    /// Sets a value; `Err` with the name if there is no such setting.
    pub(crate) fn set(&mut self, name: &str, value: &str, is_local: bool) -> Result<(), String> {
        self.put(known(name)?, Slot { value: value.to_owned(), is_set: true }, is_local);
        Ok(())
    }

    fn put(&mut self, name: Cow<'static, str>, slot: Slot, is_local: bool) {
        // A setting with a dot that nobody has set before is there from then on, and empty.
        let before = Rc::make_mut(&mut self.values).insert(name.clone(), slot).unwrap_or_else(|| Slot::start(""));
        if is_local {
            self.hidden.entry(name).or_insert(before);
        } else {
            self.hidden.remove(&name);
        }
    }

    /// Back to the value at startup; `None`: all but who one is.
    pub(crate) fn reset(&mut self, name: Option<&str>) -> Result<(), String> {
        match name {
            None => {
                let names: Vec<_> =
                    self.values.keys().filter(|n| **n != ROLE && **n != AUTHORIZATION).cloned().collect();
                names.into_iter().for_each(|name| self.put_back(name));
            }
            Some(name) => self.put_back(known(name)?),
        }
        Ok(())
    }

    fn put_back(&mut self, name: Cow<'static, str>) {
        let slot = Slot::start(self.at_startup.get(&*name).map_or("", String::as_str));
        self.put(name, slot, false);
    }

    /// Remembers the values for a rollback.
    pub(crate) fn begin(&mut self) {
        if self.saved.is_empty() {
            self.savepoint();
        }
    }

    pub(crate) fn savepoint(&mut self) {
        self.saved.push(Saved { values: self.values.clone(), hidden: self.hidden.clone() });
    }

    /// Forgets all but the first `count` savepoints.
    pub(crate) fn release(&mut self, count: usize) {
        self.saved.truncate(count + 1);
    }

    pub(crate) fn commit(&mut self) {
        self.saved.clear();
        if !self.hidden.is_empty() {
            Rc::make_mut(&mut self.values).append(&mut self.hidden);
        }
    }

    /// Back to the innermost savepoint, or to where the transaction began.
    pub(crate) fn restore(&mut self) {
        if let Some(Saved { values, hidden }) = self.saved.last().cloned() {
            (self.values, self.hidden) = (values, hidden);
        }
    }

    pub(crate) fn rollback(&mut self) {
        self.saved.truncate(1);
        self.restore();
        self.saved.clear();
        self.hidden.clear();
    }

    /// What pg_settings lists with the source `session`.
    pub(crate) fn set_in_session(&self) -> Vec<(String, String)> {
        let is_listed = |name: &str| !name.contains('.') && name != ROLE && name != AUTHORIZATION;
        let of = self.values.iter().filter(|(name, slot)| slot.is_set && is_listed(name));
        of.map(|(name, slot)| (name.clone().into_owned(), slot.value.clone())).collect()
    }

    /// Whether the session is what it was when it logged in: another user, or a role, is not.
    pub(crate) fn is_self(&self) -> bool {
        self.get(AUTHORIZATION) == Some(SELF)
    }

    /// Who one is when a session begins.
    pub(crate) fn start() -> Principal {
        (SELF.to_owned(), "none".to_owned())
    }

    /// Who it is.
    pub(crate) fn principal(&self) -> Principal {
        let of = |name| self.get(name).unwrap_or_default().to_owned();
        (of(AUTHORIZATION), of(ROLE))
    }

    /// As whom statements run.
    pub(crate) fn current_user(&self) -> &str {
        match (self.get(ROLE), self.get(AUTHORIZATION)) {
            (Some(role), _) if role != "none" => role,
            (_, Some(other)) if other != SELF => other,
            _ => &self.user,
        }
    }

    /// Reported settings that changed since the last call.
    pub(crate) fn changes(&mut self) -> Vec<(&'static str, String)> {
        let of = |name: &str| &self.values[name].value;
        let changed = self.reported.iter().filter(|(name, old)| *old != of(name));
        let changed: Vec<_> = changed.map(|(name, _)| (*name, of(name).clone())).collect();
        if !changed.is_empty() {
            Rc::make_mut(&mut self.reported).extend(changed.iter().cloned());
        }
        changed
    }

    /// All that is reported at startup.
    pub(crate) fn report(&self) -> Vec<(&'static str, String)> {
        let fixed = FIXED.iter().map(|&(n, v)| (n, v.to_owned()));
        self.reported.iter().map(|(n, v)| (*n, v.clone())).chain(fixed).collect()
    }
}

/// The setting's name in its own spelling; a name with a dot is anybody's.
fn known(name: &str) -> Result<Cow<'static, str>, String> {
    if name.contains('.') {
        return Ok(Cow::Owned(name.to_lowercase()));
    }
    own_name(name).map(Cow::Borrowed).ok_or_else(|| name.to_owned())
}

fn own_name(name: &str) -> Option<&'static str> {
    REPORTED.iter().chain(&SILENT).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(n, _)| *n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle's idea of SET LOCAL has to be right before it can accuse the pooler of a leak.
    #[test]
    fn set_local_ends_with_its_transaction_and_set_survives_a_commit() {
        let mut settings = Settings::new(&[("timezone".into(), "CET".into())]).expect("known names");
        settings.begin();
        settings.set("TimeZone", "EST", false).expect("a known name");
        settings.set("TimeZone", "PST", true).expect("a known name");
        assert_eq!(settings.get("timezone"), Some("PST"));
        settings.commit();
        assert_eq!(settings.changes(), [("TimeZone", "EST".to_owned())]);
        settings.begin();
        settings.reset(None).expect("all");
        settings.rollback();
        assert_eq!(settings.get("TimeZone"), Some("EST"));
    }

    #[test]
    fn a_savepoint_keeps_what_was_set_before_it_and_a_reset_all_keeps_the_role() {
        let mut settings = Settings::new(&[]).expect("no names");
        settings.begin();
        settings.set("role", "clerk", false).expect("a known name");
        settings.set("app.a", "1", false).expect("anybody's name");
        settings.savepoint();
        settings.set("app.a", "2", true).expect("anybody's name");
        settings.restore();
        assert_eq!(settings.get("app.a"), Some("1"));
        settings.commit();
        settings.begin();
        settings.reset(None).expect("all");
        settings.commit();
        assert_eq!((settings.get("app.a"), settings.get("role")), (Some(""), Some("clerk")));
        assert!(settings.set_in_session().is_empty());
    }
}
