//! The id of an account.

use std::{fmt, str::FromStr};

/// The id of a Kazoo account: 32 ASCII letters or digits, in the plain form (never the database's `account%2F..`, which
/// upstream accepts with success and then delivers nothing for, F29).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId([u8; 32]);

/// The text is no account id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an account id has 32 letters and digits, not {length} bytes or other characters")]
pub struct AccountIdError {
    /// The length of what was given, in bytes.
    pub length: usize,
}

impl AccountId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in (see `from_str`).
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for AccountId {
    type Err = AccountIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match <[u8; 32]>::try_from(text.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_alphanumeric) => Ok(Self(bytes)),
            _ => Err(AccountIdError { length: text.len() }),
        }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_plain_form_alone() {
        let plain = "account0000000000000000000000002";
        assert_eq!(plain.parse::<AccountId>().unwrap().to_string(), plain);
        for other in [
            "",
            "account000000000000000000000000",
            "account00000000000000000000000022",
            "account%2Fac%2Fco%2Funt0000000000000000000000002",
            "account0000000000000000000000.02",
            "account000000000000000000000000é",
            "account0000000000000000000000002-202611",
        ] {
            assert_eq!(other.parse::<AccountId>(), Err(AccountIdError { length: other.len() }), "{other}");
        }
    }
}
