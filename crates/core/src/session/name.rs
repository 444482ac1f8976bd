//! Names of audiences and subjects, which a program may give as text or as numbers.

use std::borrow::Cow;
use std::fmt;

/// The name of an audience or a subject. The number 5 and the text "5" are two names.
#[derive(Clone)]
pub enum Name<'a> {
    /// Text, which need not be UTF-8.
    Text(Cow<'a, [u8]>),
    /// A finite number.
    Number(f64),
    /// Any other JSON value, as it is written.
    Other(Cow<'a, [u8]>),
}

/// Shows the kind alone, because a subject identifies a person.
impl fmt::Debug for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text(_) => "Text(…)",
            Self::Number(_) => "Number(…)",
            Self::Other(_) => "Other(…)",
        })
    }
}

impl<'a> Name<'a> {
    /// The name for a JSON value other than a string.
    pub(super) fn from_json(json: &'a [u8]) -> Self {
        let number = std::str::from_utf8(json).ok().and_then(|text| text.parse::<f64>().ok());
        match number.filter(|number| number.is_finite()) {
            Some(number) => Self::Number(number),
            None => Self::Other(Cow::Borrowed(json)),
        }
    }

    /// The same name with bytes of its own.
    pub fn into_owned(self) -> Name<'static> {
        match self {
            Self::Text(text) => Name::Text(Cow::Owned(text.into_owned())),
            Self::Number(number) => Name::Number(number),
            Self::Other(json) => Name::Other(Cow::Owned(json.into_owned())),
        }
    }

    /// The name as text, a number as Lua prints it.
    pub fn text(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) | Self::Other(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(lua_number(*number).into_bytes()),
        }
    }

    /// As [`text`](Self::text), for as long as the name's own bytes live.
    pub(super) fn into_text(self) -> Cow<'a, [u8]> {
        match self {
            Self::Text(text) | Self::Other(text) => text,
            Self::Number(number) => Cow::Owned(lua_number(number).into_bytes()),
        }
    }
}

/// Some JSON libraries write only fourteen digits of a number. Such a number is the same name as
/// each number that it may have been. Two numbers with more digits are the same name only if they
/// are equal.
impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(text), Self::Text(other)) | (Self::Other(text), Self::Other(other)) => text == other,
            (Self::Number(number), Self::Number(other)) => number == other || may_be_one(*number, *other),
            _ => false,
        }
    }
}

/// Whether one of two numbers may be the other one, written with fourteen digits.
fn may_be_one(number: f64, other: f64) -> bool {
    let text = lua_number(number);
    text == lua_number(other) && text.parse().is_ok_and(|rounded: f64| rounded == number || rounded == other)
}

impl From<&str> for Name<'static> {
    fn from(text: &str) -> Self {
        Self::Text(Cow::Owned(text.as_bytes().to_vec()))
    }
}

/// A number as Lua and cjson print it, which is C's `%.14g`: fourteen digits, without zeros at the
/// end.
pub fn lua_number(number: f64) -> String {
    /// Significant digits.
    const DIGITS: i32 = 14;
    if !number.is_finite() {
        return number.to_string().to_lowercase();
    }
    let scientific = format!("{number:.*e}", DIGITS as usize - 1);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..DIGITS).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(digits), exponent.abs());
    }
    without_zeros(&format!("{number:.*}", (DIGITS - 1 - exponent) as usize)).to_owned()
}

/// A decimal fraction without zeros at its end.
fn without_zeros(number: &str) -> &str {
    match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_lua_prints_them() {
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (5.0, "5"),
            (-42.5, "-42.5"),
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333"),
            (100_000.0, "100000"),
            (99_999_999_999_999.0, "99999999999999"),
            (999_999_999_999_999.0, "1e+15"),
            (1e14, "1e+14"),
            (1_234_567_890_123_456.0, "1.2345678901235e+15"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.25e-05"),
            (1e100, "1e+100"),
            (5e-324, "4.9406564584125e-324"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(lua_number(number), text);
        }
    }

    #[test]
    fn two_long_numbers_are_two_names() {
        let [one, other] = [Name::from_json(b"1234567890123456"), Name::from_json(b"1234567890123457")];
        let rounded = Name::from_json(b"1.2345678901235e+15");
        assert_ne!(one, other);
        assert!(one == rounded && other == rounded, "either may have been written so");
        assert_ne!(Name::Number(0.1 + 0.2), Name::Number(0.300_000_000_000_000_1));
        assert_eq!(Name::Number(0.1 + 0.2), Name::Number(0.3));
    }

    #[test]
    fn a_number_is_not_its_text() {
        assert_eq!(Name::from_json(b"5"), Name::Number(5.0));
        assert_eq!(Name::from_json(b"5.0"), Name::Number(5.0));
        assert_eq!(Name::from_json(b"1.2345678901235e+15"), Name::Number(1_234_567_890_123_456.0));
        assert_ne!(Name::from_json(b"5"), Name::from("5"));
        assert_ne!(Name::from_json(b"true"), Name::from("true"));
        assert_eq!(Name::from_json(b"true"), Name::from_json(b"true"));
        assert_eq!(Name::from_json(b"1e999"), Name::Other(b"1e999".into()));
        assert_eq!(Name::Number(5.0).text(), Name::from("5").text());
    }
}
