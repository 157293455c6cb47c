//! The `options` startup parameter: command-line switches for the server, split and read as PostgreSQL does.

use std::fmt;

/// Text of `options` that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionsError {
    /// A switch other than `-c` and `--name`, or a word that is no switch; as the client wrote it.
    UnsupportedSwitch(String),
    /// A setting without `=`; its name.
    MissingValue(String),
    /// The text is not UTF-8.
    Encoding,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionsError::UnsupportedSwitch(switch) => {
                write!(f, "unsupported switch in startup parameter options: {switch}")
            }
            OptionsError::MissingValue(name) => {
                write!(f, "setting {name} in startup parameter options requires a value")
            }
            OptionsError::Encoding => write!(f, "startup parameter options is not UTF-8"),
        }
    }
}

impl std::error::Error for OptionsError {}

/// Reads `-c name=value`, `-cname=value` and `--name=value`, in order, duplicates included.
///
/// Words are split at white space; a backslash takes the next character as it is. A hyphen in a name becomes an
/// underscore. Every other switch is refused by name: PostgreSQL has some that change settings under another name.
pub fn options(text: &[u8]) -> Result<Vec<(String, String)>, OptionsError> {
    let text = std::str::from_utf8(text).map_err(|_| OptionsError::Encoding)?;
    let mut settings = Vec::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            // The end of switches; what follows would be an argument, and a server process takes none.
            return words.next().map_or(Ok(settings), |word| Err(OptionsError::UnsupportedSwitch(word)));
        }
        let setting = if let Some(long) = word.strip_prefix("--") {
            long.to_owned()
        } else if word == "-c" {
            words.next().ok_or_else(|| OptionsError::MissingValue("-c".to_owned()))?
        } else if let Some(glued) = word.strip_prefix("-c") {
            glued.to_owned()
        } else {
            return Err(OptionsError::UnsupportedSwitch(word));
        };
        if setting.is_empty() || setting.starts_with('=') {
            return Err(OptionsError::UnsupportedSwitch(word));
        }
        let (name, value) = setting.split_once('=').ok_or_else(|| OptionsError::MissingValue(setting.clone()))?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Writes settings as text that [`options`] reads back: `-c name=value`, escaped.
pub fn join_options<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in settings {
        text.push_str(if text.is_empty() { "-c " } else { " -c " });
        for character in name.chars().chain(['=']).chain(value.chars()) {
            if is_space(character) || character == '\\' {
                text.push('\\');
            }
            text.push(character);
        }
    }
    text
}

/// Words of a command line, as `pg_split_opts` makes them. A lone backslash at the end is dropped.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|character| is_space(*character)).is_some() {}
        if characters.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        while let Some(character) = characters.next_if(|character| !is_space(*character)) {
            match character {
                '\\' => word.extend(characters.next()),
                _ => word.push(character),
            }
        }
        words.push(word);
    }
}

/// White space of the C locale, which has a vertical tab.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        options(text.as_bytes()).unwrap()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_three_spellings_of_a_setting_are_read() {
        let text = "-c geqo=off -cstatement_timeout=5min --search-path=a";
        assert_eq!(read(text), pairs(&[("geqo", "off"), ("statement_timeout", "5min"), ("search_path", "a")]));
    }

    #[test]
    fn a_hyphen_becomes_an_underscore_in_names_and_stays_in_values() {
        assert_eq!(read("-c my-app.some-name=a-b"), pairs(&[("my_app.some_name", "a-b")]));
    }

    #[test]
    fn a_backslash_keeps_the_next_character() {
        let text = "  -c\tapplication_name=my\\ app\\\\1\x0b-c a=b=c -c d=\\";
        assert_eq!(read(text), pairs(&[("application_name", "my app\\1"), ("a", "b=c"), ("d", "")]));
    }

    #[test]
    fn nothing_is_no_setting() {
        assert_eq!(read(""), []);
        assert_eq!(read(" \t\n"), []);
    }

    #[test]
    fn duplicates_stay_in_order() {
        assert_eq!(read("-c a=1 -c a=2"), pairs(&[("a", "1"), ("a", "2")]));
    }

    /// `-e`, `-W 30` and others change settings under another name: passing them on unseen would leak state.
    #[test]
    fn another_switch_is_refused_by_name() {
        for switch in ["-e", "-W", "-B", "word", "-", "-x=1", "--=1", "-c=1", "-ec"] {
            let refused = options(format!("-c a=b {switch} 30").as_bytes());
            assert_eq!(refused, Err(OptionsError::UnsupportedSwitch(switch.to_owned())), "{switch}");
        }
    }

    #[test]
    fn two_hyphens_end_the_switches() {
        assert_eq!(read("-c a=b --"), pairs(&[("a", "b")]));
        assert_eq!(options(b"-- -c a=b"), Err(OptionsError::UnsupportedSwitch("-c".to_owned())));
    }

    #[test]
    fn a_setting_without_a_value_is_refused_by_name() {
        assert_eq!(options(b"-c geqo"), Err(OptionsError::MissingValue("geqo".to_owned())));
        assert_eq!(options(b"--geqo"), Err(OptionsError::MissingValue("geqo".to_owned())));
        assert_eq!(options(b"-c a=b -c"), Err(OptionsError::MissingValue("-c".to_owned())));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert_eq!(options(b"-c a=\xff"), Err(OptionsError::Encoding));
    }
}
