//! A login by browser in progress: what is asked, and what may come back. No I/O.

use std::fmt;

use oauth2::{CsrfToken, PkceCodeVerifier};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Url, form_urlencoded};

/// A login that waits for its code.
pub struct Authorization {
    /// Where the browser is sent.
    pub url: Url,
    /// Where it comes back to.
    pub redirect: Url,
    pub(super) state: CsrfToken,
    pub(super) verifier: PkceCodeVerifier,
}

/// A code that belongs to the login that asked for it.
pub struct Code(SecretString);

impl Code {
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// Why something is not the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Of another login, or of nobody's: this one goes on waiting.
    #[error("this answer belongs to another login; the one that waits goes on")]
    Stray,
    /// Of this login, without a code.
    #[error("there is no code in this answer")]
    NoCode,
    /// The person, or the server, said no.
    #[error("the login was refused: {0}")]
    Denied(String),
}

impl Authorization {
    /// Reads the query that a browser came back with.
    ///
    /// # Errors
    ///
    /// When it is not the answer to this login, or a refusal.
    pub fn answer(&self, query: &str) -> Result<Code, Refusal> {
        let field = |wanted: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.into_owned())
                .filter(|value| !value.is_empty())
        };
        let code = field("code");
        // Anthropic's page shows `code#state`, which people copy whole.
        let (code, tail) = match code.as_deref().and_then(|code| code.split_once('#')) {
            Some((code, state)) => (Some(code.to_owned()), Some(state.to_owned())),
            None => (code, None),
        };
        if field("state").or(tail).as_deref() != Some(self.state.secret()) {
            return Err(Refusal::Stray);
        }
        if let Some(error) = field("error") {
            let told = field("error_description").unwrap_or(error);
            return Err(Refusal::Denied(told.chars().take(200).collect()));
        }
        code.map(|code| Code(code.into())).ok_or(Refusal::NoCode)
    }

    /// Reads what a person pasted: the whole address, its query, `code#state`, or the code alone.
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn paste(&self, text: &str) -> Result<Code, Refusal> {
        let text = text.trim();
        let query = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                url.query().map(str::to_owned).ok_or(Refusal::NoCode)?
            }
            _ if text.contains("code=") || text.contains("error=") => {
                text.trim_start_matches('?').to_owned()
            }
            _ if text.is_empty() || text.contains(char::is_whitespace) => {
                return Err(Refusal::NoCode);
            }
            _ => {
                // Typed by the person who began this login, so a missing state is no stranger's.
                let (code, state) = text.split_once('#').unwrap_or((text, self.state.secret()));
                let pairs = [("code", code), ("state", state)];
                form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
            }
        };
        self.answer(&query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Authorization {
        Authorization {
            url: Url::parse("https://as.example/authorize").unwrap(),
            redirect: Url::parse("http://127.0.0.1:1/callback").unwrap(),
            state: CsrfToken::new("st".to_owned()),
            verifier: PkceCodeVerifier::new("v".repeat(43)),
        }
    }

    #[test]
    fn only_the_answer_to_this_login_ends_it() {
        let login = login();
        let code = |query: &str| login.answer(query).map(|code| code.expose().to_owned());
        assert_eq!(code("code=c&state=st"), Ok("c".into()));
        assert_eq!(code("code=c%23st"), Ok("c".into()));
        for stray in ["code=c&state=other", "code=c", "", "error=access_denied", "state="] {
            assert_eq!(code(stray), Err(Refusal::Stray), "{stray}");
        }
        assert_eq!(code("state=st"), Err(Refusal::NoCode));
        assert_eq!(
            code("state=st&error=access_denied"),
            Err(Refusal::Denied("access_denied".into()))
        );
    }

    #[test]
    fn people_paste_what_they_see() {
        let login = login();
        for text in [
            " http://127.0.0.1:1/callback?code=c&state=st ",
            "?code=c&state=st",
            "code=c&state=st",
            "c#st",
            "c",
        ] {
            assert_eq!(
                login.paste(text).map(|code| code.expose().to_owned()),
                Ok("c".into()),
                "{text}"
            );
        }
        for (text, refusal) in [
            ("", Refusal::NoCode),
            ("https://as.example/", Refusal::NoCode),
            ("two words", Refusal::NoCode),
            ("c#other", Refusal::Stray),
            ("http://h/?code=c&state=other", Refusal::Stray),
        ] {
            assert_eq!(login.paste(text).unwrap_err(), refusal, "{text}");
        }
        assert_eq!(format!("{:?}", login.paste("c").unwrap()), "Code");
    }
}
