//! Payloads with one audience, as most have: the places of their parts, so that the data alone have
//! to be decoded.

use std::borrow::Cow;
use std::ops::Range;

use super::Entry;
use crate::secret::show_only;
use crate::session::name::Name;
use crate::session::sign_in;

/// The shape of a payload with one audience, as most have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sole {
    /// Names that are written without escapes, and no more: `[[data,"audience"]]` or
    /// `[[data,"audience","subject"]]`. These are the places of its parts, but for the audience,
    /// which is the one that was asked for.
    Parts {
        /// The data.
        data: Range<usize>,
        /// The subject's name, if there is a subject.
        subject: Option<Range<usize>>,
    },
    /// The same with the id of a sign-in at the end, which every save writes if there are marks:
    /// `[[data,"audience","subject","sid","sign-in id"]]`, where a missing subject is `false` and a
    /// missing sid is `null`.
    Signed {
        /// The data.
        data: Range<usize>,
        /// The subject and the sid, with a comma before each.
        names: Range<usize>,
    },
    /// Anything else.
    Entry,
}

/// The parts of a payload with one audience.
#[derive(PartialEq, Eq)]
pub struct Parts<'a> {
    /// The data, as JSON.
    pub data: &'a [u8],
    /// The subject's name, if there is a subject.
    pub subject: Option<&'a [u8]>,
}

/// The parts of a payload with one audience and the id of a sign-in.
#[derive(PartialEq, Eq)]
pub struct SignedParts<'a> {
    /// The data, as JSON.
    pub data: &'a [u8],
    /// The subject's name, if there is a subject.
    pub subject: Option<&'a [u8]>,
    /// The identity provider's session id, if there is one.
    pub sid: Option<&'a [u8]>,
    /// The id of the sign-in.
    pub sign_in: &'a [u8],
}

show_only!(Parts<'_> {});
show_only!(SignedParts<'_> {});

/// What follows the id of the sign-in in a payload with one audience.
const SIGNED_END: &[u8] = b"\"]]";

impl Sole {
    /// The shape of a payload, or `None` if it has not exactly one audience.
    pub(in crate::session) fn of(payload: &[u8], entries: &[Entry<'_>]) -> Option<Self> {
        let [entry] = entries else { return None };
        Some(Self::parts(payload, entry).unwrap_or(Self::Entry))
    }

    fn parts(payload: &[u8], entry: &Entry<'_>) -> Option<Self> {
        let Entry { data, audience: Some(Name::Text(audience)), subject, .. } = entry else { return None };
        let subject = match subject {
            None => None,
            Some(Name::Text(subject)) => Some(subject),
            Some(_) => return None,
        };
        // An escaped quote could end another name here, and a program's JSON library ends a text at
        // a NUL.
        let is_odd = |name: &Cow<[u8]>| name.iter().any(|byte| matches!(byte, b'"' | 0));
        if is_odd(audience) || subject.is_some_and(is_odd) {
            return None;
        }
        let rest = payload.strip_prefix(b"[[")?.strip_prefix(*data)?.strip_prefix(b",\"")?.strip_prefix(&**audience)?;
        let data = 2..2 + data.len();
        let end = data.end + 2 + audience.len();
        if !entry.more.is_empty() {
            return Self::signed(data, rest, end);
        }
        let Some(subject) = subject else {
            return (rest == b"\"]]").then_some(Self::Parts { data, subject: None });
        };
        let rest = rest.strip_prefix(b"\",\"")?.strip_prefix(&**subject)?;
        (rest == b"\"]]").then_some(Self::Parts { data, subject: Some(end + 3..end + 3 + subject.len()) })
    }

    /// `rest` is what follows the audience's name in the payload, and `start` is its place there.
    // By itself, as all that sessions without marks have no use for: it would make them slower.
    #[inline(never)]
    fn signed(data: Range<usize>, rest: &[u8], start: usize) -> Option<Self> {
        let (before, sign_in) = rest.strip_suffix(SIGNED_END)?.split_last_chunk::<{ sign_in::SIZE }>()?;
        let names = before.strip_prefix(b"\"")?.strip_suffix(b",\"")?;
        subject_and_sid(names)?;
        let start = start + 1;
        is_plain(sign_in).then_some(Self::Signed { data, names: start..start + names.len() })
    }

    /// The parts of the payload that it was made of, or `None` if it does not tell them, or if the
    /// payload is shorter.
    pub fn split_signed<'a>(&self, payload: &'a [u8]) -> Option<SignedParts<'a>> {
        let Self::Signed { data, names } = self else { return None };
        let (_, sign_in) = payload.strip_suffix(SIGNED_END)?.split_last_chunk::<{ sign_in::SIZE }>()?;
        let (subject, sid) = subject_and_sid(payload.get(names.clone())?)?;
        Some(SignedParts { data: payload.get(data.clone())?, subject, sid, sign_in })
    }

    /// The same of a payload without the id of a sign-in.
    pub fn split<'a>(&self, payload: &'a [u8]) -> Option<Parts<'a>> {
        let Self::Parts { data, subject } = self else { return None };
        let part = |range: &Range<usize>| payload.get(range.clone());
        Some(Parts { data: part(data)?, subject: subject.as_ref().and_then(part) })
    }
}

/// A text, if there is one.
type Text<'a> = Option<&'a [u8]>;

/// A subject and a sid that are written without escapes, each after a comma.
fn subject_and_sid(names: &[u8]) -> Option<(Text<'_>, Text<'_>)> {
    let (subject, rest) = plain_text(names, b",false")?;
    let (sid, rest) = plain_text(rest, b",null")?;
    rest.is_empty().then_some((subject, sid))
}

/// A text after a comma, or `None` where `missing` stands in its place; and what follows.
fn plain_text<'a>(names: &'a [u8], missing: &[u8]) -> Option<(Text<'a>, &'a [u8])> {
    if let Some(rest) = names.strip_prefix(missing) {
        return Some((None, rest));
    }
    let rest = names.strip_prefix(b",\"")?;
    let (text, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'"')?)?;
    is_plain(text).then_some((Some(text), rest.get(1..)?))
}

/// Whether a text is the same in JSON.
pub(super) fn is_plain(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, b'"' | b'\\' | 0))
}

#[cfg(test)]
mod tests {
    use super::super::entries;
    use super::*;

    #[test]
    fn the_parts_of_one_audience_are_known_if_they_are_written_without_escapes() {
        let as_text = |bytes| std::str::from_utf8(bytes).unwrap();
        let sole = |payload: &'static str| {
            let payload = payload.as_bytes();
            let parts = Sole::of(payload, &entries(payload).unwrap())?.split(payload)?;
            Some((as_text(parts.data), parts.subject.map(as_text)))
        };
        assert_eq!(sole(r#"[[{"a":"],[\""},"shop","ada"]]"#), Some((r#"{"a":"],[\""}"#, Some("ada"))));
        assert_eq!(sole(r#"[["x","",""]]"#), Some((r#""x""#, Some(""))));
        assert_eq!(sole("[[[],\"j\u{f6}hn\"]]"), Some(("[]", None)));
        for other in [
            r"[]",
            r"[[1]]",
            r#"[[1,"a"],[2,"b"]]"#,
            r#"[[1,"a\n"]]"#,
            r#"[[1,"a","\u0062"]]"#,
            r"[[1,2]]",
            r"[[1, 2 ]]",
            r#"[[1,"a",2]]"#,
            r#"[[1,"a",null]]"#,
            r#"[[1,null,"b"]]"#,
            r#"[[1,"a","b",3]]"#,
            r#"[[1, "a"]]"#,
            r#" [[1,"a"]]"#,
            r#"[[1,"a"]] "#,
            "[[1,\"a\0\"]]",
            r#"[[1,"a\"]]"]]"#,
        ] {
            assert_eq!(sole(other), None, "{other}");
        }
    }

    #[test]
    fn the_parts_of_one_audience_with_a_sign_in_id_are_known_if_they_are_written_without_escapes() {
        const ID: &str = "abcdefghijklmnopqrst-_";
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let sole = |payload: &str| {
            let payload = payload.replace("ID", ID).into_bytes();
            let sole = Sole::of(&payload, &entries(&payload).unwrap())?;
            assert!(sole.split(&payload).is_none() || sole.split_signed(&payload).is_none());
            let parts = sole.split_signed(&payload)?;
            assert_eq!(parts.sign_in, ID.as_bytes());
            Some((text(parts.data), parts.subject.map(text), parts.sid.map(text)))
        };
        let parts = |data: &str, subject: Option<&str>, sid: Option<&str>| {
            Some((data.to_owned(), subject.map(str::to_owned), sid.map(str::to_owned)))
        };
        assert_eq!(sole(r#"[[{"a":"],[\""},"shop",false,null,"ID"]]"#), parts(r#"{"a":"],[\""}"#, None, None));
        assert_eq!(sole(r#"[[{},"shop","ada",null,"ID"]]"#), parts("{}", Some("ada"), None));
        assert_eq!(sole(r#"[[{},"shop","ada","op-1","ID"]]"#), parts("{}", Some("ada"), Some("op-1")));
        assert_eq!(sole(r#"[[{},"","","","ID"]]"#), parts("{}", Some(""), Some("")));
        for other in [
            r#"[[{},"a"]]"#,
            r#"[[{},"a","b"]]"#,
            r#"[[{},"a","b","c"]]"#,
            r#"[[{},"a",null,null,"ID"]]"#,
            r#"[[{},"a",false,false,"ID"]]"#,
            r#"[[{},"a",false,null,"ID",1]]"#,
            r#"[[{},"a",false,null,1,"ID"]]"#,
            r#"[[{},"a",false,"x","y","ID"]]"#,
            r#"[[{},"a",false,"x\"","ID"]]"#,
            r#"[[{},"a",false,"\u0061","ID"]]"#,
            r#"[[{},"a","\\",null,"ID"]]"#,
            r#"[[{},"a",false,null,"IDx"]]"#,
            r#"[[{},"a",false,null,"abcdefghijklmnopqrst\\"]]"#,
            r#"[[{},"a",false,null, "ID"]]"#,
            r#"[[{},"a",false,null,"ID"]] "#,
            r#"[[{},"a",false,null,"ID"],[{},"b"]]"#,
            r#"[[{},5,false,null,"ID"]]"#,
            r#"[[{},"a",5,null,"ID"]]"#,
        ] {
            assert_eq!(sole(other), None, "{other}");
        }
    }
}
