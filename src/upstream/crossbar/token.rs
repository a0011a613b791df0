//! Crossbar's tokens, and how long they are good.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The life of a token that does not say when it ends: Crossbar's default.
const DEFAULT_LIFE: Duration = Duration::from_secs(3600);

/// A token and its end.
pub struct Token {
    text: SecretString,
    expires: SystemTime,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

impl Token {
    /// A token that was given out at `now`.
    pub fn new(text: String, now: SystemTime) -> Self {
        let expires = expiry(&text).unwrap_or(now + DEFAULT_LIFE);
        Self { text: text.into(), expires }
    }

    /// Whether it is still good for `margin` and more. A session keeps its identity when its token expires (F21): this is
    /// asked before a connection only.
    pub fn is_good(&self, now: SystemTime, margin: Duration) -> bool {
        now + margin < self.expires
    }

    /// When it ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Its text, for the wire alone.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// `exp` of a JWT. The signature is nobody's business but Crossbar's; a text of another form says nothing.
fn expiry(text: &str) -> Option<SystemTime> {
    let mut parts = text.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn jwt(claims: &str) -> Token {
        Token::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)), NOW)
    }

    fn life(token: &Token) -> u64 {
        token.expires().duration_since(NOW).unwrap().as_secs()
    }

    #[test]
    fn a_jwt_says_when_it_ends() {
        assert_eq!(life(&jwt(r#"{"iss":"kazoo","exp":1795490669}"#)), 1_795_490_669);
    }

    #[test]
    fn all_else_lives_for_the_default() {
        for text in ["opaque", "", "a.b.c", "a.b", "a.b.c.d"] {
            assert_eq!(life(&Token::new(text.into(), NOW)), 3600, "{text}");
        }
        assert_eq!(life(&jwt(r#"{"exp":"soon"}"#)), 3600);
        assert_eq!(life(&jwt("{}")), 3600);
        assert_eq!(life(&jwt("not json")), 3600);
        assert_eq!(life(&jwt(r#"{"exp":18446744073709551615}"#)), 3600);
    }

    #[test]
    fn a_token_close_to_its_end_is_not_used() {
        let token = jwt(r#"{"exp":1000}"#);
        let at = |seconds| NOW + Duration::from_secs(seconds);
        assert!(token.is_good(at(939), Duration::from_secs(60)));
        assert!(!token.is_good(at(940), Duration::from_secs(60)));
        assert!(!token.is_good(at(5000), Duration::from_secs(60)));
    }

    #[test]
    fn it_is_never_shown() {
        let shown = format!("{:?}", Token::new("SECRET".into(), NOW));
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
