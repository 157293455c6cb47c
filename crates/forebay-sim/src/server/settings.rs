//! The settings of one session: a small stack of values with PostgreSQL's rules for transactions.

use std::collections::BTreeMap;

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

/// Settings that are never reported; clients may give them at startup only.
pub(crate) const SILENT: [(&str, &str); 3] =
    [("extra_float_digits", "1"), ("search_path", "\"$user\", public"), ("statement_timeout", "0")];

/// Values that never change and are reported once.
pub(crate) const FIXED: [(&str, &str); 6] = [
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "16.9"),
    ("session_authorization", "app"),
];

type Values = BTreeMap<&'static str, String>;

/// Current values, and what a rollback or a RESET brings back.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    values: Values,
    at_startup: Values,
    /// As they were when the transaction began.
    saved: Option<Values>,
    /// What SET LOCAL hides until the transaction ends.
    hidden: Values,
    /// As last reported.
    reported: Values,
}

impl Settings {
    /// Settings of a session with these startup parameters; unknown names are returned as the error.
    pub(crate) fn new(params: &[(String, String)]) -> Result<Settings, String> {
        let mut values: Values = REPORTED.iter().chain(&SILENT).map(|&(n, v)| (n, v.to_owned())).collect();
        for (name, value) in params {
            match name.as_str() {
                "user" | "database" | "replication" | "options" => {}
                name => *values.get_mut(known(name)?).ok_or_else(|| name.to_owned())? = value.clone(),
            }
        }
        let reported = REPORTED.iter().map(|&(n, _)| (n, values[n].clone())).collect();
        Ok(Settings { at_startup: values.clone(), values, saved: None, hidden: Values::new(), reported })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        if let Some((_, v)) = FIXED.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            return Some(v);
        }
        known(name).ok().and_then(|n| self.values.get(n)).map(String::as_str)
    }

    /// Sets a value; `Err` with the name if there is no such setting.
    pub(crate) fn set(&mut self, name: &str, value: &str, is_local: bool) -> Result<(), String> {
        let name = known(name)?;
        let before = self.values.insert(name, value.to_owned()).unwrap_or_default();
        if is_local {
            self.hidden.entry(name).or_insert(before);
        } else {
            self.hidden.remove(name);
        }
        Ok(())
    }

    /// Back to the value at startup; `None`: all.
    pub(crate) fn reset(&mut self, name: Option<&str>) -> Result<(), String> {
        match name {
            None => {
                self.values = self.at_startup.clone();
                self.hidden.clear();
            }
            Some(name) => {
                let value = self.at_startup[known(name)?].clone();
                self.set(name, &value, false)?;
            }
        }
        Ok(())
    }

    /// Remembers the values for a rollback.
    pub(crate) fn begin(&mut self) {
        if self.saved.is_none() {
            self.saved = Some(self.values.clone());
        }
    }

    pub(crate) fn commit(&mut self) {
        self.saved = None;
        self.values.append(&mut self.hidden);
    }

    pub(crate) fn rollback(&mut self) {
        self.hidden.clear();
        if let Some(saved) = self.saved.take() {
            self.values = saved;
        }
    }

    /// Reported settings that changed since the last call.
    pub(crate) fn changes(&mut self) -> Vec<(&'static str, String)> {
        let mut changed = Vec::new();
        for (name, old) in &mut self.reported {
            if *old != self.values[name] {
                old.clone_from(&self.values[name]);
                changed.push((*name, old.clone()));
            }
        }
        changed
    }

    /// All that is reported at startup.
    pub(crate) fn report(&self) -> Vec<(&'static str, String)> {
        let fixed = FIXED.iter().map(|&(n, v)| (n, v.to_owned()));
        self.reported.iter().map(|(n, v)| (*n, v.clone())).chain(fixed).collect()
    }
}

/// The setting's name in its own spelling.
fn known(name: &str) -> Result<&'static str, String> {
    let found = REPORTED.iter().chain(&SILENT).find(|(n, _)| n.eq_ignore_ascii_case(name));
    found.map(|(n, _)| *n).ok_or_else(|| name.to_owned())
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
}
