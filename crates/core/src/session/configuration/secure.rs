//! `cookie_secure = "auto"`: cookies are Secure if the request came over HTTPS.

use std::rc::Rc;

use super::{Configuration, invalid};
use crate::session::options::Secure;
use crate::session::{Error, Options};

/// Checks that `"auto"` is not combined with a prefix, whose cookies are always Secure.
///
/// # Errors
///
/// The two are combined.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    let prefix = options.cookie_prefix.as_deref().unwrap_or_default();
    if options.cookie_secure == Some(Secure::Auto) && !prefix.is_empty() {
        return Err(invalid(
            "cookie_secure",
            format!("\"auto\" contradicts {prefix}, whose cookies are always Secure"),
        ));
    }
    Ok(())
}

impl Configuration {
    /// The configuration for requests over HTTPS, if it differs.
    pub(super) fn make_https(&self, stored: bool) -> Result<Option<Rc<Self>>, Error> {
        if self.options.cookie_secure != Some(Secure::Auto) {
            return Ok(None);
        }
        let options = Options { cookie_secure: Some(Secure::On), ..self.options.clone() };
        let revocation = self.revocation.clone();
        Ok(Some(Rc::new(Self { stored, revocation, ..Self::resolve(options, self.random_key, self.guessable)? })))
    }

    /// Whether the request's scheme decides about the cookies' attributes.
    pub fn depends_on_scheme(&self) -> bool {
        self.https.is_some()
    }

    /// Whether the request's `X-Forwarded-Proto` is trusted.
    pub fn trusts_forwarded_proto(&self) -> bool {
        self.options.trust_forwarded_proto == Some(true)
    }

    /// The configuration to use for a request. `scheme` is nginx's; `forwarded` is the request's
    /// `X-Forwarded-Proto`, which counts only if it is trusted.
    #[must_use]
    pub fn for_request(self: &Rc<Self>, scheme: &[u8], forwarded: &[u8]) -> Rc<Self> {
        let forwarded = if self.trusts_forwarded_proto() { forwarded } else { b"" };
        match &self.https {
            Some(https) if is_https(scheme, forwarded) => https.clone(),
            _ => self.clone(),
        }
    }
}

/// With several proxies, the first scheme is that of the browser's connection. Text that is not a
/// scheme is ignored.
fn is_https(scheme: &[u8], forwarded: &[u8]) -> bool {
    let first = forwarded.split(|&byte| byte == b',').next().unwrap_or_default().trim_ascii();
    let known = [b"http" as &[u8], b"https"].iter().any(|known| known.eq_ignore_ascii_case(first));
    let scheme = if known { first } else { scheme };
    scheme.eq_ignore_ascii_case(b"https")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_trusted_only_if_it_names_a_scheme() {
        for (scheme, forwarded, expected) in [
            ("https", "", true),
            ("http", "", false),
            ("http", "https", true),
            ("http", "HTTPS , http", true),
            ("https", "http", false),
            ("https", "http, https", false),
            ("http", "httpsx", false),
            ("https", "ftp", true),
            ("https", ",http", true),
            ("", "", false),
        ] {
            assert_eq!(is_https(scheme.as_bytes(), forwarded.as_bytes()), expected, "{scheme} {forwarded}");
        }
    }
}
