//! What is wrong with a configuration: always all of it at once, and never a secret.

use std::{fmt, path::PathBuf};

/// Everything that is wrong with a configuration, in the order in which it was found. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One line for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong: where, which setting, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where it was set, or should have been.
    pub place: Place,
    /// The dotted key, such as `grpc.listen` or `accounts[0].password`; empty where the whole file is meant.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
    /// Neither: it is missing, and there is no file.
    Environment,
    /// It is read at the start only, and stays as it is.
    Running,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Environment => f.write_str("environment"),
            Self::Running => f.write_str("with what needs a restart"),
        }
    }
}

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A file cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// Which file.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The file is no TOML or YAML. The line itself is not shown: it may hold a secret.
    #[error("not valid {format}: {reason}")]
    Syntax {
        /// `TOML` or `YAML`.
        format: &'static str,
        /// The parser's words, without the text of the file.
        reason: String,
    },
    /// There is no such setting.
    #[error("unknown key; {hint}")]
    UnknownKey {
        /// What was probably meant, or what there is.
        hint: String,
    },
    /// A value that is not accepted.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// The value, or its type alone where it may be secret.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A value that is refused for a reason that says itself what would be right.
    #[error("found {found}: {reason}")]
    Refused {
        /// The value.
        found: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// A setting that is needed is not there.
    #[error("missing; expected {expected}")]
    Missing {
        /// What would be right.
        expected: String,
    },
    /// Settings that do not go together.
    #[error("{reason}")]
    Conflict {
        /// Which ones, and what would be right.
        reason: String,
    },
}
