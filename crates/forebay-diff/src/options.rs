//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::feature::Feature;
use crate::lane::Sides;
use crate::stream::{Address, Tls};

/// How to call it.
pub(crate) const USAGE: &str = "\
usage: forebay-diff run --direct HOST:PORT --pooled HOST:PORT [options]
       forebay-diff replay FILE... --direct HOST:PORT --pooled HOST:PORT [options]
       forebay-diff show --first N [options]
  --programs N        programs to run (500)
  --seconds N         begin no program after so long
  --seed N            of all programs (1)
  --first N           number of the first program (0)
  --levels A,B        levels that forebay has pools for (none)
  --features A,B      draw from these only
  --without A,B       draw from none of these
  --lanes N           programs at a time (4)
  --max-signatures N  stop after so many kinds of divergences (20)
  --shrink yes|no     run a divergence again and make it small (yes)
  --out FOLDER        where divergences are written (target/diff)
  --covered FILE      pairs that earlier programs have covered; it is added to, and others go first (none)
  --figures FILE      a line of figures is added to it every minute (none)
  --label TEXT        stands in those lines
  --pause FILE        begin no program while this file exists (none)
  --superuser NAME    makes the databases, and is who superusers' programs log in as (postgres)
  --authority FILE    the certificate that forebay's comes from: half of the programs speak TLS then (none)
  --operator NAME     gives orders to forebay's console (ops)";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Programs out of a seed.
    Run,
    /// Programs out of files.
    Replay(Vec<PathBuf>),
    /// Prints a program.
    Show,
}

/// The command line, read.
#[derive(Clone)]
pub(crate) struct Options {
    /// What to do.
    pub(crate) verb: Verb,
    /// Where the two sides are.
    pub(crate) sides: Sides,
    /// Programs to run.
    pub(crate) programs: u64,
    /// Begin no program after so many seconds.
    pub(crate) seconds: Option<u64>,
    /// Of all programs.
    pub(crate) seed: u64,
    /// Number of the first program.
    pub(crate) first: u64,
    /// Levels; one that is empty where there are none.
    pub(crate) levels: Vec<String>,
    /// What is drawn from.
    pub(crate) features: Vec<Feature>,
    /// Programs at a time.
    pub(crate) lanes: usize,
    /// Stop after so many kinds of divergences.
    pub(crate) signatures_max: usize,
    /// Whether a divergence is run again and made small.
    pub(crate) is_shrinking: bool,
    /// Where divergences are written.
    pub(crate) out: PathBuf,
    /// Pairs that programs have covered.
    pub(crate) covered: Option<PathBuf>,
    /// What a long run has done.
    pub(crate) figures: Option<PathBuf>,
    /// Of those lines.
    pub(crate) label: String,
    /// While this file exists no program is begun.
    pub(crate) pause: Option<PathBuf>,
}

impl Options {
    /// Reads the words after the program's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let verb = words.next().ok_or("what is to be done?")?;
        let mut files = Vec::new();
        let nowhere = || Address { socket: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None };
        let sides =
            Sides { direct: nowhere(), pooled: nowhere(), superuser: "postgres".into(), operator: "ops".into() };
        let mut options = Options {
            verb: Verb::Run,
            sides,
            programs: 500,
            seconds: None,
            seed: 1,
            first: 0,
            levels: vec![String::new()],
            features: Feature::ALL.to_vec(),
            lanes: 4,
            signatures_max: 20,
            is_shrinking: true,
            out: PathBuf::from("target/diff"),
            covered: None,
            figures: None,
            label: String::new(),
            pause: None,
        };
        while let Some(word) = words.next() {
            if word.starts_with("--") {
                let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
                options.set(&word, value)?;
            } else {
                files.push(PathBuf::from(word));
            }
        }
        if options.features.is_empty() {
            return Err("no feature is left".to_owned());
        }
        options.verb = match (verb.as_str(), files.is_empty()) {
            ("run", true) => Verb::Run,
            ("show", true) => Verb::Show,
            ("replay", false) => Verb::Replay(files),
            ("replay", true) => return Err("which files?".to_owned()),
            _ => return Err(format!("{verb} is not known, or takes no files")),
        };
        Ok(options)
    }

    fn set(&mut self, word: &str, value: String) -> Result<(), String> {
        match word {
            "--direct" => self.sides.direct.socket = address(&value)?,
            "--pooled" => self.sides.pooled.socket = address(&value)?,
            "--authority" => self.sides.pooled.tls = Some(authority(&value)?),
            "--superuser" => self.sides.superuser = value,
            "--operator" => self.sides.operator = value,
            "--programs" => self.programs = number(&value)?,
            "--seconds" => self.seconds = Some(number(&value)?),
            "--seed" => self.seed = number(&value)?,
            "--first" => self.first = number(&value)?,
            "--levels" => self.levels = value.split(',').map(str::to_owned).collect(),
            "--features" => self.features = features(&value)?,
            "--without" => {
                let without = features(&value)?;
                self.features.retain(|feature| !without.contains(feature));
            }
            "--lanes" => self.lanes = number(&value)?,
            "--max-signatures" => self.signatures_max = number(&value)?,
            "--shrink" => self.is_shrinking = value == "yes",
            "--out" => self.out = PathBuf::from(value),
            "--covered" => self.covered = Some(PathBuf::from(value)),
            "--figures" => self.figures = Some(PathBuf::from(value)),
            "--label" => self.label = value,
            "--pause" => self.pause = Some(PathBuf::from(value)),
            _ => return Err(format!("{word} is not known")),
        }
        Ok(())
    }
}

fn features(value: &str) -> Result<Vec<Feature>, String> {
    value.split(',').map(|name| Feature::named(name).ok_or_else(|| format!("{name} is no feature"))).collect()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text} is no address with a port"))
}

fn authority(path: &str) -> Result<Tls, String> {
    Tls::new(path.as_ref()).map_err(|error| error.to_string())
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Options, String> {
        Options::parse(words.split(' ').map(str::to_owned))
    }

    #[test]
    fn features_are_named_or_left_out() {
        assert_eq!(parsed("run --features dml,txn").unwrap().features, [Feature::Dml, Feature::Transaction]);
        let without = parsed("run --without dml,noise").unwrap().features;
        assert_eq!(without.len(), Feature::ALL.len() - 2);
        assert!(parsed("run --features none").is_err());
    }

    #[test]
    fn files_belong_to_a_replay() {
        assert_eq!(parsed("replay a.json").unwrap().verb, Verb::Replay(vec!["a.json".into()]));
        assert!(parsed("replay").is_err());
        assert!(parsed("run a.json").is_err());
    }
}
