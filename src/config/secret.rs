//! Secrets as the config writes them: literal, or the name of an environment variable.

use std::fmt;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Looks a variable up; tests bring their own.
pub type Env<'e> = dyn Fn(&str) -> Option<String> + 'e;

/// The environment of this process.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A secret, or a reference to one, as written: `literal`, `${NAME}`, `$NAME`, or `$$literal` for a
/// literal that begins with `$`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            KeySource::Env(name) => write!(f, "${{{name}}}"),
            KeySource::Literal(_) => f.write_str("[redacted]"),
            KeySource::None => f.write_str("\"\""),
        }
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl SecretText {
    /// Whether a variable is named in the midst of other text, where nobody puts its value.
    pub fn holds_a_reference(&self) -> bool {
        match self.source() {
            KeySource::Literal(_) => {
                let text = self.0.trim();
                let inner = text.split("${").nth(1).and_then(|rest| rest.split_once('}'));
                !text.starts_with("$$")
                    && inner.is_some_and(|(name, _)| !name.is_empty() && name.chars().all(is_word))
            }
            KeySource::Env(_) | KeySource::None => false,
        }
    }

    /// Where the secret is to be found.
    pub fn source(&self) -> KeySource {
        let text = self.0.trim();
        if text.is_empty() {
            return KeySource::None;
        }
        if let Some(literal) = text.strip_prefix("$$") {
            return KeySource::Literal(format!("${literal}").into());
        }
        let braced = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            .filter(|name| !name.is_empty() && name.chars().all(is_word));
        let bare =
            text.strip_prefix('$').filter(|rest| !rest.is_empty() && rest.chars().all(is_word));
        match braced.or(bare) {
            Some(name) => KeySource::Env(name.to_owned()),
            None => KeySource::Literal(text.into()),
        }
    }
}

/// What is wrong with a secret that [`SecretText::holds_a_reference`].
pub(super) const PARTLY_A_REFERENCE: &str = "`${VAR}` stands for a whole value, not for a part of it: put all of it into \
     the variable, or begin a literal with `$$`";

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Nowhere: none is needed, or none is set.
    None,
    /// In the config.
    Literal(SecretString),
    /// In this variable.
    Env(String),
}

impl KeySource {
    /// The secret now. A variable that is unset or empty is no secret.
    pub fn resolve(&self, env: &Env<'_>) -> Option<SecretString> {
        match self {
            Self::None => None,
            Self::Literal(secret) => Some(secret.clone()),
            Self::Env(name) => env(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
                .map(SecretString::from),
        }
    }

    /// The variable that is named but not set.
    pub fn unset<'k>(&'k self, env: &Env<'_>) -> Option<&'k str> {
        match self {
            Self::Env(name) if self.resolve(env).is_none() => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn references_literals_and_the_escape() {
        let env = |name: &str| match name {
            "KEY" => Some(" v ".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let resolve = |text: &str| {
            SecretText::from(text)
                .source()
                .resolve(&env)
                .map(|secret| secret.expose_secret().to_owned())
        };
        for (text, value) in [
            ("${KEY}", Some("v")),
            ("$KEY", Some("v")),
            ("sk-1", Some("sk-1")),
            ("$$KEY", Some("$KEY")),
            ("${KEY}x", Some("${KEY}x")),
            ("$a-b!", Some("$a-b!")),
            ("${EMPTY}", None),
            ("$NOPE", None),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(resolve(text).as_deref(), value, "{text}");
        }
        assert_eq!(SecretText::from("$NOPE").source().unset(&env), Some("NOPE"));
        assert_eq!(format!("{:?}", SecretText::from("sk-1")), "[redacted]");
        assert_eq!(format!("{:?}", SecretText::from("$KEY")), "${KEY}");
    }
}
