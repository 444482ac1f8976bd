//! `X-Forwarded-Proto`, which makes cookies Secure or not if it is trusted.

use std::rc::Rc;

use resty_session_core::session::{self, Configuration, Options, Secure};

use crate::{obvious, seeds};

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::texts(["https", "http", "HTTPS , http", "http, https", ",http", "httpsx", "ftp, https"])
}

thread_local! {
    static CONFIGURATIONS: [Rc<Configuration>; 2] = [true, false].map(|trusted| {
        let secret = Some("a secret".into());
        let trust_forwarded_proto = Some(trusted);
        let options = Options { secret, cookie_secure: Some(Secure::Auto), trust_forwarded_proto, ..Options::default() };
        Rc::new(session::init(options, None, getrandom::fill).unwrap().with_storage(false).unwrap())
    });
}

pub fn run(data: &[u8]) {
    let first = obvious::split(data, b',').remove(0).to_ascii_lowercase();
    for scheme in ["http", "https"] {
        let expected = match obvious::trimmed(&first) {
            b"https" => true,
            b"http" => false,
            _ => scheme == "https",
        };
        CONFIGURATIONS.with(|[trusting, other]| {
            let is_secure = |configuration: &Rc<Configuration>| {
                !Rc::ptr_eq(&configuration.for_request(scheme.as_bytes(), data), configuration)
            };
            assert_eq!((is_secure(trusting), is_secure(other)), (expected, scheme == "https"));
        });
    }
}
