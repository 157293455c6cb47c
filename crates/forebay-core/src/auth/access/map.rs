//! Maps of names: which user of the system, or name in a certificate, may log in as whom.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Pattern;
use crate::config::{MapLine, NamePattern};

/// All maps.
#[derive(Debug, Default)]
pub struct Maps(FxHashMap<Arc<str>, Map>);

#[derive(Debug, Default)]
struct Map {
    /// By the name that the system says.
    exact: FxHashMap<Arc<str>, Vec<As>>,
    patterns: Vec<(Pattern, As)>,
}

/// As whom.
#[derive(Debug)]
enum As {
    Anybody,
    User(Arc<str>),
    /// Around what the first group of the system's name holds.
    Around(Box<str>, Box<str>),
    Pattern(Pattern),
}

impl Maps {
    /// Compiles them; or says which line's pattern can't be read, by the line's number.
    pub fn build(lines: &[MapLine]) -> Result<Maps, (usize, String)> {
        let mut maps = FxHashMap::<Arc<str>, Map>::default();
        for (index, line) in lines.iter().enumerate() {
            let map = maps.entry(line.map.clone()).or_default();
            map.add(line).map_err(|cause| (index, cause))?;
        }
        Ok(Maps(maps))
    }

    /// Whether whom the system calls `system` may log in as `user`. Without a map the names must be the same.
    pub fn allow(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        match map {
            None => system == user,
            Some(map) => self.0.get(map).is_some_and(|map| map.allows(system, user)),
        }
    }
}

impl Map {
    fn add(&mut self, line: &MapLine) -> Result<(), String> {
        match &line.system {
            NamePattern::Regex(text) => {
                let pattern = Pattern::new(text)?;
                let target = As::read(&line.user, true)?;
                if matches!(target, As::Around(..)) && !pattern.has_group() {
                    return Err(String::from("\\1 stands for a group, and the regular expression has none"));
                }
                self.patterns.push((pattern, target));
            }
            NamePattern::Name(name) => {
                self.exact.entry(name.clone()).or_default().push(As::read(&line.user, false)?);
            }
            _ => return Err(String::from("the system's user is a name or a regular expression")),
        }
        Ok(())
    }

    fn allows(&self, system: &str, user: &str) -> bool {
        self.exact.get(system).is_some_and(|all| all.iter().any(|one| one.is(user, "")))
            || self.patterns.iter().any(|(pattern, one)| pattern.first_group(system).is_some_and(|g| one.is(user, g)))
    }
}

impl As {
    fn read(user: &NamePattern, has_group: bool) -> Result<As, String> {
        Ok(match user {
            NamePattern::All => As::Anybody,
            NamePattern::Regex(text) => As::Pattern(Pattern::new(text)?),
            NamePattern::Name(name) => match name.split_once("\\1") {
                Some((before, behind)) if has_group => As::Around(before.into(), behind.into()),
                _ => As::User(name.clone()),
            },
            _ => return Err(String::from("the user is a name, all, or a regular expression")),
        })
    }

    fn is(&self, user: &str, group: &str) -> bool {
        match self {
            As::Anybody => true,
            As::User(name) => **name == *user,
            As::Pattern(pattern) => pattern.is_in(user),
            As::Around(before, behind) => user
                .strip_prefix(&**before)
                .and_then(|rest| rest.strip_suffix(&**behind))
                .is_some_and(|middle| middle == group && !middle.is_empty()),
        }
    }
}
