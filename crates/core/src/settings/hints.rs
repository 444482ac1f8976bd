//! Unknown names of options: misspelt ones, and those of lua-resty-session 3. Programs pass whole
//! tables through, so such a name is not an error; the log says once what was probably meant.

/// Options of lua-resty-session 3, a dot in the name written as `_`, and what they are called
/// today; empty for those that have no successor.
const VERSION_3: [(&str, &str); 50] = [
    ("name", "cookie_name"),
    ("timeout", "idling_timeout, rolling_timeout or absolute_timeout"),
    ("ttl", "rolling_timeout"),
    ("strategy", ""),
    ("cipher", ""),
    ("hmac", ""),
    ("serializer", ""),
    ("compressor", "compression_threshold"),
    ("encoder", ""),
    ("identifier", ""),
    ("usebefore", ""),
    ("keep_lock", ""),
    ("cookie", "cookie_name and the other cookie_… options"),
    ("cookie_persistent", "remember"),
    ("cookie_renew", "rolling_timeout"),
    ("cookie_discard", "stale_ttl"),
    ("cookie_lifetime", "rolling_timeout or absolute_timeout"),
    ("cookie_idletime", "idling_timeout"),
    ("cookie_path", "cookie_path"),
    ("cookie_domain", "cookie_domain"),
    ("cookie_samesite", "cookie_same_site"),
    ("cookie_secure", "cookie_secure"),
    ("cookie_httponly", "cookie_http_only"),
    ("cookie_maxsize", ""),
    ("cookie_delimiter", ""),
    ("cookie_chunk_size", ""),
    ("cookie_chunks", ""),
    ("check", "bind"),
    ("check_ssi", ""),
    ("check_ua", "bind = { \"user-agent\" }"),
    ("check_scheme", "bind = { \"scheme\" }"),
    ("check_addr", "bind = { \"ip\" }"),
    ("random", ""),
    ("random_length", ""),
    ("aes", ""),
    ("aes_size", ""),
    ("aes_mode", ""),
    ("aes_hash", ""),
    ("aes_rounds", "remember_safety"),
    ("redis_auth", "password"),
    ("redis_timeout", "connect_timeout, send_timeout and read_timeout"),
    ("redis_cluster", "nodes"),
    ("redis_uselocking", ""),
    ("redis_spinlockwait", ""),
    ("redis_maxlockwait", ""),
    ("memcached_uselocking", ""),
    ("memcached_spinlockwait", ""),
    ("memcached_maxlockwait", ""),
    ("shm_store", "zone"),
    ("shm_uselocking", ""),
];

/// The longest name that the log shows whole, in bytes.
const LONGEST: usize = 64;

/// Says that an option is ignored, and what was probably meant. `storage` is the storage whose
/// option it is, or `None` for a session's; `known` are the names that it could be.
pub(crate) fn hint(storage: Option<&str>, name: &[u8], known: &[&str]) -> String {
    let shown = &name[..name.len().min(LONGEST)];
    let of = storage.map(|storage| format!("{storage} ")).unwrap_or_default();
    let unknown = format!("unknown {of}option \"{}\" is ignored", shown.escape_ascii());
    let Ok(name) = std::str::from_utf8(shown) else { return unknown };
    match (former(storage, name), nearest(name, known)) {
        (Some(""), _) => format!("{unknown}: lua-resty-session 3 had it, and there is nothing like it today"),
        (Some(today), _) => format!("{unknown}: lua-resty-session 3 had it, today it is {today}"),
        (None, Some(nearest)) => format!("{unknown}: did you mean \"{nearest}\"?"),
        (None, None) => unknown,
    }
}

fn former(storage: Option<&str>, name: &str) -> Option<&'static str> {
    let name = name.replace('.', "_");
    let find = |name: &str| VERSION_3.iter().find(|(former, _)| *former == name).map(|(_, today)| *today);
    match storage {
        Some(storage) => find(&format!("{storage}_{name}")),
        // Programs also wrote the options of its table `cookie` beside the others.
        None => find(&name).or_else(|| find(&format!("cookie_{name}"))),
    }
}

/// The known name that differs least, if it does not differ by more than a quarter or so.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    const ALIKE: f64 = 0.7;
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(&name.to_lowercase(), other);
    let best = known.iter().map(|other| (likeness(other), *other)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(likeness, _)| *likeness >= ALIKE).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Options;

    fn of_session(name: &str) -> String {
        hint(None, name.as_bytes(), Options::NAMES)
    }

    #[test]
    fn the_nearest_name_is_told() {
        for (name, meant) in [
            ("cookie_nmae", "cookie_name"),
            ("idle_timeout", "idling_timeout"),
            ("Secret", "secret"),
            ("cookie_http_onyl", "cookie_http_only"),
            ("remember_saftey", "remember_safety"),
        ] {
            let expected = format!("unknown option \"{name}\" is ignored: did you mean \"{meant}\"?");
            assert_eq!(of_session(name), expected);
        }
        assert_eq!(
            hint(Some("redis"), b"hots", &["host", "port"]),
            "unknown redis option \"hots\" is ignored: did you mean \"host\"?"
        );
        assert_eq!(of_session("shoe_size"), "unknown option \"shoe_size\" is ignored");
    }

    #[test]
    fn what_version_3_called_it_is_told() {
        for (name, today) in [
            ("name", "cookie_name"),
            ("cookie.lifetime", "rolling_timeout or absolute_timeout"),
            ("cookie_samesite", "cookie_same_site"),
            ("httponly", "cookie_http_only"),
            ("check.addr", "bind = { \"ip\" }"),
        ] {
            let expected =
                format!("unknown option \"{name}\" is ignored: lua-resty-session 3 had it, today it is {today}");
            assert_eq!(of_session(name), expected);
        }
        let gone = "is ignored: lua-resty-session 3 had it, and there is nothing like it today";
        assert_eq!(of_session("strategy"), format!("unknown option \"strategy\" {gone}"));
        assert_eq!(
            hint(Some("redis"), b"uselocking", &["host"]),
            format!("unknown redis option \"uselocking\" {gone}")
        );
        assert!(hint(Some("redis"), b"auth", &["host"]).ends_with("today it is password"));
    }

    #[test]
    fn names_cannot_forge_log_lines_or_flood_the_log() {
        assert_eq!(of_session("a\nb\"\u{e9}"), r#"unknown option "a\nb\"\xc3\xa9" is ignored"#);
        assert!(of_session(&"x".repeat(100_000)).len() < 200);
    }
}
