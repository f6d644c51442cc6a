//! What can be wrong with a configuration, and the one form in which it is said:
//! `file:line:col: full key = value is …; expected …`. Never prints a secret.
//!
//! Source: config.md 4 and 5.

use std::fmt;

use super::source::Place;

/// One error or warning.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    /// Where it is.
    pub(crate) place: Place,
    /// Full name of the key, such as `server.port`; empty for text that is not TOML.
    pub(crate) key: String,
    /// The value as it is written; `None` when it is secret, missing or of no interest.
    pub(crate) value: Option<String>,
    /// What is wrong.
    pub(crate) problem: Problem,
}

/// What is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Problem {
    /// Not TOML.
    Syntax {
        /// What the parser says, with a correction if there is an obvious one.
        text: String,
    },
    /// A file could not be read because too many are open: it may be right.
    Shortage {
        /// What the operating system says.
        text: String,
    },
    /// A value of another type.
    WrongType {
        /// The type found, with its article.
        found: &'static str,
        /// What belongs there.
        expected: String,
        /// How to mend it.
        fix: Option<&'static str>,
    },
    /// A number outside its range.
    OutOfRange {
        /// The range.
        allowed: String,
    },
    /// None of the words of an enumeration.
    NotOneOf {
        /// All of them.
        allowed: &'static [&'static str],
        /// The one that was probably meant.
        near: Option<&'static str>,
    },
    /// Right type, wrong form.
    Form {
        /// What it is: "is blank", "has no port".
        what: String,
        /// What belongs there.
        expected: String,
    },
    /// A rule between keys, or anything else that is one sentence.
    Rule {
        /// Continues after key and value.
        text: String,
    },
    /// A key nobody knows.
    Unknown {
        /// The full name of the closest one.
        near: Option<String>,
    },
    /// A key that has another name or place.
    Moved {
        /// What to tell.
        to: &'static str,
    },
    /// Deprecated, in favour of another.
    Old {
        /// The other's full name.
        new: &'static str,
    },
    /// Accepted for compatibility; it never does anything.
    Inert,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.key.is_empty() {
            f.write_str(" ")?;
        }
        self.problem.fmt(f)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { text } | Self::Shortage { text } | Self::Rule { text } => {
                f.write_str(text)
            }
            Self::WrongType {
                found,
                expected,
                fix,
            } => {
                write!(f, "is {found}; expected {expected}")?;
                fix.map_or(Ok(()), |fix| write!(f, " ({fix})"))
            }
            Self::OutOfRange { allowed } => write!(f, "is out of range; allowed {allowed}"),
            Self::NotOneOf { allowed, near } => {
                write!(f, "is not one of {}", allowed.join(", "))?;
                near.map_or(Ok(()), |near| write!(f, "; did you mean \"{near}\"?"))
            }
            Self::Form { what, expected } => write!(f, "{what}; expected {expected}"),
            Self::Unknown { near } => {
                f.write_str("is not a known key")?;
                near.as_ref()
                    .map_or(Ok(()), |near| write!(f, "; did you mean {near}?"))
            }
            Self::Moved { to } => write!(f, "is not a known key; {to}"),
            Self::Old { new } => write!(f, "is deprecated; use {new}"),
            Self::Inert => f.write_str("is accepted for compatibility and does nothing"),
        }
    }
}

/// A value as it may be shown: one line, not too long, and nothing in it that could be a secret.
pub(crate) fn shown(raw: &str) -> String {
    let line = raw.lines().next().unwrap_or("");
    if longest_hex_run(line) >= SECRET_DIGITS || line.contains('@') {
        return "(hidden)".to_owned();
    }
    let cut: String = line.chars().take(SHOWN_CHARS_MAX).collect();
    if cut.len() < raw.trim_end().len() {
        format!("{cut}…")
    } else {
        cut
    }
}

fn longest_hex_run(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .map(str::len)
        .max()
        .unwrap_or(0)
}

/// A run of hex digits this long is taken for (part of) a secret.
const SECRET_DIGITS: usize = 24;
const SHOWN_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_what_looks_like_a_secret() {
        assert_eq!(shown("\"443\""), "\"443\"");
        assert_eq!(shown("\"ee00112233445566778899aabbccddeeff\""), "(hidden)");
        assert_eq!(shown("\"ss://x:y@host:1\""), "(hidden)");
        assert_eq!(shown("[\n1]"), "[…");
    }
}
