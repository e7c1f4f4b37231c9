//! One authorisation server: how a login begins, and how its code becomes tokens.

use std::{net::IpAddr, time::Duration};

use oauth2::{
    AuthUrl, AuthorizationCode, Client, ClientId, CsrfToken, DeviceAuthorizationUrl,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardDeviceAuthorizationResponse, StandardRevocableToken,
    StandardTokenIntrospectionResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenType},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::Url;

use super::{
    authorization::{Authorization, Code},
    grant::{Extra, Grant, TokenResponse},
    http::{Http, TransportError},
};
use crate::{adapters::WireRequest, config::Reach, registry::Login, upstream::Upstream};

type OAuthClient = Client<
    BasicErrorResponse,
    TokenResponse,
    StandardTokenIntrospectionResponse<Extra, BasicTokenType>,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// How long a person has to confirm a device, at most.
const DEVICE_WAIT: Duration = Duration::from_secs(15 * 60);
/// The longest wait between two looks whether it was confirmed.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// An authorisation server and who we are to it.
pub struct Server {
    login: Login,
    http: Http,
}

/// Why a login, or a part of one, did not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The registry or the config lacks something.
    #[error("`login.{0}` is missing or wrong in the config of this provider")]
    Incomplete(&'static str),
    /// The server said no, with this code.
    #[error("the authorisation server refused: {0}")]
    Refused(String),
    /// The server did not do it, and said so or was not reached.
    #[error("{0}")]
    NotDone(String),
    /// Nobody knows whether the server did it.
    #[error("{0}; it may have worked all the same")]
    Unknown(String),
}

/// A device that waits to be confirmed.
pub struct DeviceLogin {
    details: StandardDeviceAuthorizationResponse,
}

impl DeviceLogin {
    /// The page to open.
    pub fn page(&self) -> &str {
        self.details
            .verification_uri_complete()
            .map_or_else(|| self.details.verification_uri().as_str(), |page| page.secret())
    }

    /// What to type there.
    pub fn user_code(&self) -> &str {
        self.details.user_code().secret()
    }
}

/// The way to an authorisation server: as to the provider, but for addresses that the login names
/// itself.
pub fn login_reach(login: &Login, provider: &Reach) -> Reach {
    let proxy = provider.proxy.clone();
    let private = login.endpoints().any(|(_, url)| Reach::default().to(url).private);
    Reach { proxy, private }
}

impl Server {
    /// The server that a provider's login names.
    pub fn new(login: Login, upstream: Upstream) -> Self {
        let headers = login.headers.clone().unwrap_or_default().into_iter().collect();
        let format = login.token_format.unwrap_or_default();
        Self { http: Http { upstream, format, headers }, login }
    }

    /// Scheme, host and port of where refresh tokens go; known after [`discover`](Self::discover).
    pub fn issuer(&self) -> Option<String> {
        let url = Url::parse(self.login.token_url.as_deref()?).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// Whether people log in with a device code.
    pub fn uses_device(&self) -> bool {
        self.login.device_url.is_some()
    }

    /// Where a browser comes back to.
    ///
    /// # Errors
    ///
    /// When none is configured.
    pub fn redirect(&self) -> Result<Url, LoginError> {
        let text = self.login.redirect_uri.as_deref();
        text.and_then(|text| Url::parse(text).ok()).ok_or(LoginError::Incomplete("redirectUri"))
    }

    /// Whether the browser may come back to another port.
    pub fn takes_any_port(&self) -> bool {
        self.login.any_port == Some(true)
    }

    /// Fills in the endpoints that a discovery document names.
    ///
    /// # Errors
    ///
    /// When it cannot be had, or sends us to another domain.
    pub async fn discover(&mut self) -> Result<(), LoginError> {
        #[derive(Deserialize)]
        struct Document {
            authorization_endpoint: Option<String>,
            token_endpoint: Option<String>,
        }
        let Some(address) = self.login.discovery_url.clone() else { return Ok(()) };
        if self.login.token_url.is_some() {
            return Ok(());
        }
        let answer = self.http.send(WireRequest::get(address.clone())).await;
        let (status, body) = answer.map_err(not_done)?;
        let document: Document = serde_json::from_slice(&body).map_err(|_| {
            LoginError::NotDone(format!("{address} is no OpenID configuration (status {status})"))
        })?;
        let found = [
            (&mut self.login.authorize_url, document.authorization_endpoint),
            (&mut self.login.token_url, document.token_endpoint),
        ];
        for (field, endpoint) in found {
            if let (None, Some(endpoint)) = (&field, endpoint) {
                check_domain(&address, &endpoint)?;
                *field = Some(endpoint);
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<OAuthClient, LoginError> {
        let id = self.login.client_id.clone().ok_or(LoginError::Incomplete("clientId"))?;
        Ok(Client::new(ClientId::new(id)))
    }

    fn token_url(&self) -> Result<TokenUrl, LoginError> {
        let url = self.login.token_url.clone();
        url.and_then(|url| TokenUrl::new(url).ok()).ok_or(LoginError::Incomplete("tokenUrl"))
    }

    fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.login.scopes.iter().flatten().cloned().map(Scope::new)
    }

    /// Begins a login by browser that comes back to `redirect`.
    ///
    /// # Errors
    ///
    /// When the login is not wholly configured.
    pub fn authorize(&self, redirect: Url) -> Result<Authorization, LoginError> {
        let url = self.login.authorize_url.clone();
        let url = url.and_then(|url| AuthUrl::new(url).ok());
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256_len(96);
        let client = self
            .client()?
            .set_auth_uri(url.ok_or(LoginError::Incomplete("authorizeUrl"))?)
            .set_redirect_uri(RedirectUrl::from_url(redirect.clone()));
        let mut request = client.authorize_url(CsrfToken::new_random).add_scopes(self.scopes());
        for (name, value) in self.login.authorize_params.iter().flatten() {
            request = request.add_extra_param(name, value);
        }
        let (url, state) = request.set_pkce_challenge(challenge).url();
        Ok(Authorization { url, redirect, state, verifier })
    }

    /// Turns a code into tokens.
    ///
    /// # Errors
    ///
    /// When the server does not grant them.
    pub async fn redeem(&self, login: &Authorization, code: &Code) -> Result<Grant, LoginError> {
        let client = self
            .client()?
            .set_token_uri(self.token_url()?)
            .set_redirect_uri(RedirectUrl::from_url(login.redirect.clone()));
        let mut request = client
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(login.verifier.secret().clone()));
        if self.login.token_format == Some(crate::registry::TokenFormat::Json) {
            // Anthropic wants it again.
            request = request.add_extra_param("state", login.state.secret().clone());
        }
        let response = request.request_async(&self.http).await;
        response.map(|response| Grant::new(&response)).map_err(refused)
    }

    /// Begins a login by device code.
    ///
    /// # Errors
    ///
    /// When the server does not give one.
    pub async fn begin_device(&self) -> Result<DeviceLogin, LoginError> {
        let url = self.login.device_url.clone();
        let url = url.and_then(|url| DeviceAuthorizationUrl::new(url).ok());
        let client = self
            .client()?
            .set_device_authorization_url(url.ok_or(LoginError::Incomplete("deviceUrl"))?);
        let request = client.exchange_device_code().add_scopes(self.scopes());
        let details = request.request_async(&self.http).await.map_err(refused)?;
        Ok(DeviceLogin { details })
    }

    /// Waits until the device is confirmed.
    ///
    /// # Errors
    ///
    /// When it is refused or nobody confirms it in time.
    pub async fn await_device(&self, device: &DeviceLogin) -> Result<Grant, LoginError> {
        let client = self.client()?.set_token_uri(self.token_url()?);
        let wait = device.details.expires_in().min(DEVICE_WAIT);
        let request = client
            .exchange_device_access_token(&device.details)
            .set_max_backoff_interval(MAX_BACKOFF);
        let response = request.request_async(&self.http, actix_rt::time::sleep, Some(wait)).await;
        response.map(|response| Grant::new(&response)).map_err(|error| match error {
            RequestTokenError::ServerResponse(response) => {
                LoginError::Refused(response.error().as_ref().to_owned())
            }
            other => refused_by(other),
        })
    }

    /// Exchanges a refresh token, once.
    ///
    /// # Errors
    ///
    /// When the server does not grant new tokens.
    pub(super) async fn renew(&self, refresh: &SecretString) -> Result<Grant, LoginError> {
        let token = RefreshToken::new(refresh.expose_secret().to_owned());
        let client = self.client()?.set_token_uri(self.token_url()?);
        let response = client.exchange_refresh_token(&token).request_async(&self.http).await;
        response.map(|response| Grant::new(&response)).map_err(refused)
    }
}

fn not_done(error: TransportError) -> LoginError {
    LoginError::NotDone(error.to_string())
}

fn refused(error: RequestTokenError<TransportError, BasicErrorResponse>) -> LoginError {
    match error {
        RequestTokenError::ServerResponse(response) => {
            LoginError::Refused(response.error().as_ref().to_owned())
        }
        other => refused_by(other),
    }
}

/// The answers that are no error document. Those of 4xx always are one by now, so what does not parse
/// came with a good status: the server has done what was asked.
fn refused_by<T: oauth2::ErrorResponse + 'static>(
    error: RequestTokenError<TransportError, T>,
) -> LoginError {
    match error {
        RequestTokenError::Request(
            error @ (TransportError::NotSent(_) | TransportError::Throttled),
        ) => not_done(error),
        RequestTokenError::Request(error) => LoginError::Unknown(error.to_string()),
        RequestTokenError::ServerResponse(_) => LoginError::Refused("refused".to_owned()),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            LoginError::Unknown("the authorisation server's answer holds no tokens".to_owned())
        }
    }
}

/// An endpoint must be on the domain of the document that names it: `x.ai` for `auth.x.ai`.
fn check_domain(document: &str, endpoint: &str) -> Result<(), LoginError> {
    let parsed = (Url::parse(document), Url::parse(endpoint));
    if let (Ok(document), Ok(endpoint)) = parsed
        && let (Some(home), Some(host)) = (document.host_str(), endpoint.host_str())
        && document.scheme() == endpoint.scheme()
    {
        let domain = match home.split_once('.') {
            Some((_, domain)) if domain.contains('.') && home.parse::<IpAddr>().is_err() => domain,
            _ => home,
        };
        if host == home || host == domain || host.ends_with(&format!(".{domain}")) {
            return Ok(());
        }
    }
    Err(LoginError::NotDone(format!("{document} names an endpoint elsewhere: {endpoint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_document_cannot_send_us_elsewhere() {
        let document = "https://auth.x.ai/.well-known/openid-configuration";
        for (endpoint, fine) in [
            ("https://auth.x.ai/token", true),
            ("https://accounts.x.ai/token", true),
            ("https://x.ai/token", true),
            ("http://auth.x.ai/token", false),
            ("https://evilx.ai/token", false),
            ("https://auth.x.ai.evil.example/token", false),
            ("nonsense", false),
        ] {
            assert_eq!(check_domain(document, endpoint).is_ok(), fine, "{endpoint}");
        }
        assert!(check_domain("http://127.0.0.1:1/d", "http://127.0.0.1:2/t").is_ok());
        assert!(check_domain("http://127.0.0.1:1/d", "http://10.0.0.1:2/t").is_err());
        assert!(check_domain("https://example.com/d", "https://other.com/t").is_err());
    }
}
