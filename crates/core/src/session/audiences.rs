//! The payload's outer shape: a JSON array with one `[data, audience, subject, sid, sign-in id]`
//! for each audience. What is missing at the end is left out.
//!
//! The data themselves are not decoded, because they are the program's, as its JSON library wrote
//! them, and may hold bytes that are not UTF-8. Only the names behind them are read. Nesting is
//! counted without recursion, so that deep data can't exhaust the stack.

use std::borrow::Cow;

mod scanner;
mod sole;

use self::scanner::Scanner;
use self::sole::is_plain;
pub use self::sole::{Parts, SignedParts, Sole};
use super::Error;
use super::name::Name;
use super::sign_in;
use crate::secret::{Secret, show_only};
use crate::storage::Owner;

/// One audience's part of a payload.
pub struct Entry<'a> {
    /// The whole `[data, audience, subject]`, as it was written.
    text: &'a [u8],
    data: &'a [u8],
    /// The audience's name, if it has one.
    pub audience: Option<Name<'a>>,
    /// The user's name, if the session has one for this audience.
    pub subject: Option<Name<'a>>,
    /// What follows the subject, as it was written.
    more: &'a [u8],
}

show_only!(Entry<'_> {});

impl<'a> Entry<'a> {
    /// The id of the sign-in that the entry comes from, if it is written in the entry.
    pub fn sign_in(&self) -> Option<Name<'a>> {
        self.sid_and_sign_in().1
    }

    /// The identity provider's session id, if the entry has one, and the id of the sign-in that the
    /// entry comes from, if it is written there.
    pub fn sid_and_sign_in(&self) -> (Option<Name<'a>>, Option<Name<'a>>) {
        if self.more.is_empty() {
            return (None, None);
        }
        if let Some(id) = self.lone_sign_in() {
            return (None, Some(Name::Text(id.into())));
        }
        let mut scanner = Scanner::new(self.more);
        let mut name = || scanner.name().ok().flatten();
        (name(), name())
    }

    /// The id of the sign-in, if a save has written it without a sid before it: that is told at
    /// once, and an open with marks asks for it each time.
    fn lone_sign_in(&self) -> Option<&'a [u8]> {
        let id = self.more.strip_prefix(b",null,\"")?.strip_suffix(b"\"")?;
        (id.len() == sign_in::SIZE && is_plain(id)).then_some(id)
    }

    /// The entry with a sign-in id. A missing subject becomes false, because readers that know of
    /// neither sids nor sign-in ids would take null for a subject; a missing sid becomes null.
    fn with_sign_in(&self, sign_in: &str) -> Result<Secret, Error> {
        let mut values = Scanner::new(self.text).values()?;
        let is_missing = |value: Option<&&[u8]>| matches!(value, None | Some(&(b"null" | b"false")));
        let (subject, sid) = (values.get(2), values.get(3));
        let subject: &[u8] = if is_missing(subject) { b"false" } else { subject.copied().unwrap_or_default() };
        let sid: &[u8] = if is_missing(sid) { b"null" } else { sid.copied().unwrap_or_default() };
        let sign_in = [b"\"", sign_in.as_bytes(), b"\""].concat();
        let after = values.split_off(values.len().min(5));
        values.truncate(2);
        values.extend([subject, sid, &sign_in]);
        values.extend(after);
        Ok(array(&values))
    }

    /// Audience and subject, if it has both. An empty subject counts as absent.
    pub(super) fn owner(&self) -> Option<(&Name<'a>, &Name<'a>)> {
        let subject = self.subject.as_ref().filter(|subject| !subject.text().is_empty())?;
        Some((self.audience.as_ref()?, subject))
    }
}

/// Splits a payload into its audiences.
///
/// # Errors
///
/// The payload is not an array of arrays.
pub fn entries(payload: &[u8]) -> Result<Vec<Entry<'_>>, Error> {
    let mut scanner = Scanner::new(payload);
    let mut entries = Vec::with_capacity(1);
    scanner.demand(b'[', "array expected")?;
    if !scanner.accept(b']') {
        loop {
            entries.push(scanner.entry()?);
            if !scanner.accept(b',') {
                break;
            }
        }
        scanner.demand(b']', "end of array expected")?;
    }
    match scanner.peek() {
        None => Ok(entries),
        Some(_) => Err(Error::PayloadFormat("end of text expected")),
    }
}

/// The position of an audience.
pub(super) fn position(entries: &[Entry<'_>], audience: &Name<'_>) -> Option<usize> {
    entries.iter().position(|entry| entry.audience.as_ref() == Some(audience))
}

/// Whether one of the entries is the audience whose info has this key: its text, or for a number a
/// NUL and the number as Lua prints it.
fn has_info(entries: &[Entry<'_>], key: &[u8]) -> bool {
    entries.iter().filter_map(|entry| entry.audience.as_ref()).any(|audience| match audience {
        Name::Text(text) => **text == *key,
        other => key.strip_prefix(b"\0").is_some_and(|key| *other.text() == *key),
    })
}

/// Checks that a payload, once it is saved, opens again with the current audience at `index`.
///
/// # Errors
///
/// [`Error::InvalidData`], which says what is wrong.
pub(super) fn check(payload: &[u8], index: Option<usize>) -> Result<(), Error> {
    let problem = |problem| Err(Error::InvalidData(problem));
    let Ok(entries) = entries(payload) else { return problem("an array of { data, audience, subject } expected") };
    if entries.iter().any(|entry| !matches!(entry.data.first(), Some(b'{' | b'['))) {
        return problem("an audience's data must be a table");
    }
    let Some(current) = index.and_then(|index| entries.get(index)) else {
        return problem("there is no audience at data_index");
    };
    let Some(audience @ (Name::Text(_) | Name::Number(_))) = &current.audience else {
        return problem("the audience must be a string or a number");
    };
    if position(&entries, audience) != index {
        return problem("the audience must not be there twice");
    }
    Ok(())
}

/// The payload of some of the entries.
pub(super) fn join<'a>(entries: impl IntoIterator<Item = &'a Entry<'a>>) -> Secret {
    array(&entries.into_iter().map(|entry| entry.text).collect::<Vec<_>>())
}

/// The payload of entries with a sign-in id in each that has an audience and lacks one, or `None`
/// if none does.
///
/// # Errors
///
/// `sign_in` fails.
pub(super) fn with_sign_ins(
    entries: &[Entry<'_>],
    sign_in: impl Fn(&Entry<'_>) -> Result<String, Error>,
) -> Result<Option<Secret>, Error> {
    let lacks = |entry: &Entry| entry.audience.is_some() && entry.sign_in().is_none();
    if !entries.iter().any(lacks) {
        return Ok(None);
    }
    let text = |entry: &Entry| match lacks(entry) {
        true => sign_in(entry).and_then(|id| entry.with_sign_in(&id)),
        false => Ok(Secret::from(entry.text)),
    };
    let texts = entries.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(array(&texts.iter().map(|text| text.as_slice()).collect::<Vec<_>>())))
}

/// A JSON array of values.
fn array(texts: &[&[u8]]) -> Secret {
    let size = texts.iter().map(|text| text.len() + 1).sum::<usize>();
    let mut array = Secret::from(Vec::with_capacity(size + 2));
    array.push(b'[');
    for (number, text) in texts.iter().enumerate() {
        if number > 0 {
            array.push(b',');
        }
        array.extend_from_slice(text);
    }
    array.push(b']');
    array
}

/// The owners of a record: one for each entry that has a subject. See [`Owner::new`] for
/// `hash_subject`.
pub fn owners(entries: &[Entry<'_>], hash_subject: bool) -> Vec<Owner> {
    let both = entries.iter().filter_map(|entry| Some((entry.audience.as_ref()?, entry.subject.as_ref()?)));
    both.map(|(audience, subject)| Owner::new(&audience.text(), &subject.text(), hash_subject)).collect()
}

/// The info of these entries' audiences only; see [`retain_info`].
pub(super) fn retain_info_of(info: &[u8], entries: &[Entry<'_>]) -> Option<Vec<u8>> {
    retain_info(info, |key| has_info(entries, key))
}

/// The info of some audiences only, or `None` if nothing is left, or if it is not info.
pub(super) fn retain_info(info: &[u8], mut keep: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
    let kept: Vec<&[u8]> =
        members(info).ok()?.into_iter().filter(|member| keep(&member.audience)).map(|member| member.text).collect();
    (!kept.is_empty()).then(|| [b"{", kept.join(&b","[..]).as_slice(), b"}"].concat())
}

/// The JSON of the info under one name.
pub(super) fn info_of<'a>(info: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    members(info).ok()?.into_iter().find(|member| *member.audience == *name).map(|member| member.value)
}

/// Checks that it is an object of objects, as info is. An empty Lua table may be written as an
/// array.
///
/// # Errors
///
/// [`Error::InfoFormat`]
pub(super) fn check_info(info: &[u8]) -> Result<(), Error> {
    if info.trim_ascii() == b"[]" {
        return Ok(());
    }
    let is_table = |member: &Member| matches!(member.value.first(), Some(b'{' | b'['));
    if members(info)?.iter().all(is_table) { Ok(()) } else { Err(Error::InfoFormat("object of an audience expected")) }
}

/// One audience's part of the info: `"audience":{…}`.
struct Member<'a> {
    text: &'a [u8],
    audience: Cow<'a, [u8]>,
    value: &'a [u8],
}

fn members(info: &[u8]) -> Result<Vec<Member<'_>>, Error> {
    const PROBLEM: Error = Error::InfoFormat("object expected");
    let mut scanner = Scanner::new(info);
    let mut members = Vec::new();
    scanner.demand(b'{', "").map_err(|_| PROBLEM)?;
    while scanner.peek() == Some(b'"') {
        members.push(scanner.member().map_err(|_| PROBLEM)?);
        if !scanner.accept(b',') {
            break;
        }
    }
    scanner.demand(b'}', "").map_err(|_| PROBLEM)?;
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Name = Option<Vec<u8>>;

    fn names(payload: &[u8]) -> Vec<(Name, Name)> {
        let own = |name: Option<super::Name>| name.map(|name| name.text().into_owned());
        entries(payload).unwrap().into_iter().map(|entry| (own(entry.audience), own(entry.subject))).collect()
    }

    #[test]
    fn names_are_found_behind_any_data() {
        let payload = br#" [ [ {"a":"]\"},[","b":[[1,2],{}]} , "shop" , "j\u00f6hn\/\ud83d\ude00" ],["x\\","blog"],[[],null,null],[1]]"#;
        let some = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(names(payload), [(some("shop"), some("jöhn/😀")), (some("blog"), None), (None, None), (None, None)]);
    }

    #[test]
    fn the_id_of_a_sign_in_is_found_however_it_is_written() {
        let id = "0123456789abcdefghij-_";
        for (more, sid, sign_in) in [
            (format!(r#","ada",null,"{id}""#), None, Some(id)),
            (format!(r#",false, null , "{id}""#), None, Some(id)),
            (format!(r#",false,"op","{id}",1"#), Some("op"), Some(id)),
            (r#",false,null,"0123456789abcdefghij\n""#.to_owned(), None, Some("0123456789abcdefghij\n")),
            (r#",false,null,"0123456789","abcdefghi""#.to_owned(), None, Some("0123456789")),
            (r#",false,null,"short""#.to_owned(), None, Some("short")),
            (r#",false,"op""#.to_owned(), Some("op"), None),
            (",false".to_owned(), None, None),
        ] {
            let payload = format!(r#"[[{{}},"shop"{more}]]"#);
            let entries = entries(payload.as_bytes()).unwrap();
            let text =
                |name: Option<super::Name>| name.map(|name| String::from_utf8(name.text().into_owned()).unwrap());
            let (found_sid, found) = entries[0].sid_and_sign_in();
            assert_eq!((text(found_sid).as_deref(), text(found).as_deref()), (sid, sign_in), "{more}");
        }
    }

    #[test]
    fn names_may_hold_any_bytes() {
        assert_eq!(
            names(b"[[{\"k\":\"\xff\xfe\"},\"\xff\",\"\x80\\n\"]]"),
            [(Some(vec![0xff]), Some(vec![0x80, b'\n']))]
        );
    }

    #[test]
    fn other_text_than_a_payload_is_an_error() {
        for payload in [
            "",
            "[",
            "[[",
            "[[{}",
            "[[{}]",
            "[[{},]]",
            "[{}]",
            "[[{},\"a]]",
            "[[{}]] x",
            "[[\"\\",
            "[[{},\"\\x\"]]",
            "[[],]",
        ] {
            assert!(entries(payload.as_bytes()).is_err(), "{payload}");
        }
    }

    #[test]
    fn data_that_would_not_open_again_are_refused() {
        let problem = |payload: &str, index| check(payload.as_bytes(), index).err().map(|error| error.to_string());
        for payload in [r#"[[{},"a"]]"#, r#" [ [ [] , -5 ] ]"#, r#"[[{},"a",{"any":"thing"}]]"#, r#"[[{},""]]"#] {
            assert_eq!(problem(payload, Some(0)), None, "{payload}");
        }
        assert_eq!(problem(r#"[[{}],[[],"a",null]]"#, Some(1)), None, "another audience may be odd");
        for (expected, payloads) in [
            (
                "an array of { data, audience, subject } expected",
                &["{}", r#"{"1":[{},"a"],"name":"x"}"#, "null", r#"["a"]"#][..],
            ),
            ("an audience's data must be a table", &[r#"[["x","a"]]"#, r#"[[null,"a"]]"#, r#"[[{},"a"],[5,"b"]]"#]),
            ("there is no audience at data_index", &["[]"]),
            (
                "the audience must be a string or a number",
                &["[[{}]]", "[[{},null]]", "[[{},{}]]", "[[{},true]]", "[[{},[]]]"],
            ),
            ("the audience must not be there twice", &[]),
        ] {
            for payload in payloads {
                assert_eq!(problem(payload, Some(0)), Some(format!("invalid session data ({expected})")), "{payload}");
            }
        }
        let twice = r#"[[{},"a"],[{},"a"]]"#;
        assert_eq!(problem(twice, Some(0)), None);
        assert_eq!(problem(twice, Some(1)).unwrap(), "invalid session data (the audience must not be there twice)");
        assert_eq!(problem(twice, None).unwrap(), "invalid session data (there is no audience at data_index)");
    }

    #[test]
    fn a_number_is_found_by_a_number_and_not_by_its_text() {
        let payload = br#"[[{},"5","5"],[{},5,5.0],[{},true,1e2],[{},2.5e-05]]"#;
        let entries = entries(payload).unwrap();
        let at = |name: super::Name| position(&entries, &name);
        assert_eq!((at("5".into()), at(super::Name::Number(5.0))), (Some(0), Some(1)));
        assert_eq!(
            (at("true".into()), at("2.5e-05".into()), at(super::Name::Number(0.000_025))),
            (None, None, Some(3))
        );
        assert_ne!(entries[0].subject, entries[1].subject);
        assert!(has_info(&entries, b"\x002.5e-05") && !has_info(&entries, b"2.5e-05") && !has_info(&entries, b"\x006"));
        let expected: [(&[u8], &[u8]); 3] = [(b"5", b"5"), (b"5", b"5"), (b"true", b"100")];
        let expected = expected.map(|(audience, subject)| Owner::new(audience, subject, false));
        assert!(owners(&entries, false) == expected);
    }

    #[test]
    fn entries_can_be_dropped() {
        let payload = br#"[[{"a":1},"a"],[{"b":2},"b","s"],[{"c":3},"c"]]"#;
        let all = entries(payload).unwrap();
        assert_eq!(join(&all), payload);
        assert_eq!(join(all.iter().filter(|entry| entry.subject.is_none())), br#"[[{"a":1},"a"],[{"c":3},"c"]]"#);
        assert_eq!(join([]), b"[]");
    }

    #[test]
    fn subjects_are_hashed_for_every_audience() {
        let payload = br#"[[{},"a","john"],[{},"b"],[{},"c","jane"]]"#;
        let hashed = owners(&entries(payload).unwrap(), true);
        assert!(hashed == [Owner::new(b"a", b"john", true), Owner::new(b"c", b"jane", true)]);
    }

    #[test]
    fn info_is_kept_by_audience() {
        let info = b" { \"a\":{\"x\":\"},{\"} , \"b\\/c\" : [] ,\"\xff\":{} } ";
        assert!(check_info(info).is_ok());
        assert_eq!(retain_info(info, |audience| audience == b"b/c").unwrap(), br#"{"b\/c" : []}"#);
        assert_eq!(retain_info(info, |audience| audience != b"b/c").unwrap(), b"{\"a\":{\"x\":\"},{\"},\"\xff\":{}}");
        assert_eq!(retain_info(info, |_| false), None);
        assert!(check_info(b"[]").is_ok() && check_info(b"{}").is_ok());
        for info in ["", "5", "null", "{\"a\":5}", "{\"a\"}", "{\"a\":{}", "{5:{}}"] {
            let error = check_info(info.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("unable to json decode session info ("), "{info}: {error}");
        }
    }

    proptest! {
        #[test]
        fn quotes_and_escapes_are_found_at_any_place(text in "[!#\\[\\]a\u{a2}\u{71c}]{0,50}[\"\\\\a]{0,3}") {
            let found = text.bytes().position(|byte| byte == b'"' || byte == b'\\');
            prop_assert_eq!(scanner::find_quote_or_escape(text.as_bytes()), found);
        }

        #[test]
        fn no_info_makes_it_panic(info in "[\\[\\]{},:\"\\\\ a0]{0,40}") {
            let _ = check_info(info.as_bytes());
            let _ = retain_info(info.as_bytes(), |_| true);
        }

        #[test]
        fn no_bytes_make_it_panic(payload: Vec<u8>) {
            let _ = entries(&payload);
        }

        #[test]
        fn no_near_json_makes_it_panic(payload in "[\\[\\]{},:\"\\\\ a0]{0,40}") {
            let _ = entries(payload.as_bytes());
        }
    }
}
