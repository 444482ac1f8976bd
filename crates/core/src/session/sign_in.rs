//! Which sign-in a session comes from.
//!
//! Every save gives a session another id. Its *sign-in id* stays the same, so that all cookies that
//! come from one sign-in are known to belong together.

use std::borrow::Cow;

use super::name::Name;
use crate::cookie::keys::sha256;
use crate::cookie::{Header, base64url};

/// The characters of a sign-in id, which are base64url.
pub const SIZE: usize = 22;

/// The sign-in id of a session: the one that is `written` in its payload, or else the derived one.
/// Only a text counts as written. An entry without an audience has no derived one.
pub fn of<'a>(
    header: &Header,
    audience: Option<&Name<'_>>,
    subject: Option<&Name<'_>>,
    written: Option<Name<'a>>,
) -> Option<Cow<'a, [u8]>> {
    match written {
        Some(Name::Text(id)) => Some(id),
        _ => Some(derived(header, audience?, subject).into_bytes().into()),
    }
}

/// The sign-in id of a session whose payload has none: it is derived from the creation time, the
/// audience and the subject, which most saves leave as they are.
///
/// A session without a subject, or with an empty one, has an id that is derived from its own
/// session id and the audience: the next save changes it.
pub fn derived(header: &Header, audience: &Name<'_>, subject: Option<&Name<'_>>) -> String {
    let hash = match subject.map(Name::text).filter(|subject| !subject.is_empty()) {
        Some(subject) => {
            let [audience, subject] = [&audience.text(), &subject].map(|name| base64url::encode(name));
            sha256(format!("sign-in:{}:{audience}:{subject}", header.creation_time().as_secs()).as_bytes())
        }
        None => sha256(&[b"sign-in:", header.sid(), b":", &audience.text()].concat()),
    };
    let mut id = base64url::encode(&hash);
    id.truncate(SIZE);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::header::Fields;
    use crate::cookie::{Flags, Sid};
    use crate::time::{Seconds, Timestamp};

    fn header(sid: Sid, creation_time: u64, rolling_offset: u64) -> Header {
        let creation_time = Timestamp::from_secs(creation_time);
        let rolling_offset = Seconds::from_secs(rolling_offset);
        Header::new(&Fields { flags: Flags::empty(), sid, creation_time, rolling_offset, data_size: 4 }).unwrap()
    }

    #[test]
    fn it_is_derived_as_documented() {
        let own = header([7; 32], 1_700_000_000, 0);
        let text = b"sign-in:1700000000:ZGVmYXVsdA:YWRh";
        let id = derived(&own, &"default".into(), Some(&"ada".into()));
        assert_eq!(id, base64url::encode(&sha256(text))[..22]);
        let of_id = sha256(&[&b"sign-in:"[..], &[7; 32], b":default"].concat());
        assert_eq!(derived(&own, &"default".into(), None), base64url::encode(&of_id)[..22]);
        assert_eq!(id.len(), SIZE);
    }

    #[test]
    fn a_written_one_counts_if_it_is_a_text() {
        let own = header([7; 32], 5, 0);
        let audience = "default".into();
        let of = |written| of(&own, Some(&audience), None, written).unwrap();
        assert_eq!(*of(Some("written".into())), *b"written");
        for written in [None, Some(Name::Number(1.0)), Some(Name::Other(b"null"[..].into()))] {
            assert_eq!(*of(written), *derived(&own, &audience, None).as_bytes());
        }
        assert_eq!(super::of(&own, None, None, None), None);
    }

    #[test]
    fn a_save_keeps_it_if_there_is_a_subject() {
        let (before, after) = (header([1; 32], 5, 0), header([2; 32], 5, 60));
        let of = |header, subject: Option<&str>| derived(header, &"default".into(), subject.map(Name::from).as_ref());
        assert_eq!(of(&before, Some("ada")), of(&after, Some("ada")));
        assert_ne!(of(&before, None), of(&after, None));
        assert_eq!(of(&before, Some("")), of(&before, None), "an empty subject counts as absent");
    }

    #[test]
    fn another_sign_in_has_another_id() {
        let own = header([1; 32], 5, 0);
        let id = |header: &Header, audience: &str, subject: &str| {
            derived(header, &Name::from(audience), Some(&Name::from(subject)))
        };
        let first = id(&own, "shop", "ada");
        assert_ne!(first, id(&header([1; 32], 6, 0), "shop", "ada"));
        assert_ne!(first, id(&own, "blog", "ada"));
        assert_ne!(first, id(&own, "shop", "bob"));
        assert_ne!(id(&own, "a:b", "c"), id(&own, "a", "b:c"), "a colon in a name changes nothing");
    }
}
