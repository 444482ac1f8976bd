//! The types that options can have.

use super::{Function, Value};
use crate::secret::{Password, Secret};
use crate::session::name::lua_number;

/// A type that an option can have.
pub trait Setting: Sized {
    /// Reads an option's value.
    ///
    /// # Errors
    ///
    /// The value is not of this type. The text says why, and does not repeat the value, which may
    /// be a secret.
    fn from_value(value: &Value) -> Result<Self, String>;
}

/// Only a boolean: in Lua, the text "false" would count as true.
impl Setting for bool {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(boolean) => Ok(*boolean),
            other => Err(other.unexpected("boolean")),
        }
    }
}

/// How much or how many. A fraction is rounded up, because 0 switches many an option off; an
/// infinite number is very large.
impl Setting for u64 {
    fn from_value(value: &Value) -> Result<Self, String> {
        number(value).map(|number| number.ceil() as Self)
    }
}

/// A number that names something, such as a port: a fraction names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole(pub u64);

impl Setting for Whole {
    fn from_value(value: &Value) -> Result<Self, String> {
        match number(value)? {
            number if number.fract() != 0.0 => Err("whole number expected".to_owned()),
            number => Ok(Self(number as u64)),
        }
    }
}

/// A number that is not negative. It may be given as text, but infinity and NaN may not.
fn number(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Number(number) => Some(*number),
        Value::Text(text) => {
            let text = std::str::from_utf8(text).unwrap_or_default();
            text.trim().parse().ok().filter(|number: &f64| number.is_finite())
        }
        _ => None,
    };
    let number = number.filter(|number| *number >= 0.0);
    number.ok_or_else(|| value.unexpected("number that is not negative"))
}

/// Bytes; a finite number stands for its text.
impl Setting for Secret {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            Value::Number(number) if number.is_finite() => Ok(lua_number(*number).into()),
            other => Err(other.unexpected("string")),
        }
    }
}

/// Bytes, as [`Secret`] reads them.
impl Setting for Vec<u8> {
    fn from_value(value: &Value) -> Result<Self, String> {
        Secret::from_value(value).map(|text| text.to_vec())
    }
}

/// Text; a finite number stands for its text, and `false` for no text.
impl Setting for String {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(false) => Ok(Self::new()),
            value => {
                let text = Secret::from_value(value)?;
                std::str::from_utf8(&text).map(str::to_owned).map_err(|_| "not valid UTF-8".to_owned())
            }
        }
    }
}

/// Text, as [`String`] reads it.
impl Setting for Password {
    fn from_value(value: &Value) -> Result<Self, String> {
        String::from_value(value).map(Self::from)
    }
}

impl Setting for Function {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Function(function) => Ok(function.clone()),
            other => Err(other.unexpected("function")),
        }
    }
}

/// `false` stands for none.
impl<T: Setting> Setting for Option<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        match value {
            Value::Boolean(false) => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// `false` stands for an empty list.
impl<T: Setting> Setting for Vec<T> {
    fn from_value(value: &Value) -> Result<Self, String> {
        if *value == Value::Boolean(false) {
            return Ok(Self::new());
        }
        let element = |(index, value)| T::from_value(value).map_err(|cause| format!("element {}: {cause}", index + 1));
        value.elements()?.iter().enumerate().map(element).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn numbers_may_be_text() {
        for (value, expected) in [
            (Value::Number(0.0), 0),
            (Value::Number(0.5), 1),
            (Value::Number(f64::INFINITY), u64::MAX),
            (text("900"), 900),
            (text(" 1.5 "), 2),
        ] {
            assert_eq!(u64::from_value(&value), Ok(expected));
        }
        for (value, found) in [
            (Value::Number(-1.0), "number"),
            (Value::Number(f64::NAN), "NaN"),
            (Value::Boolean(false), "boolean"),
            (text("15m"), "string"),
            (text("inf"), "string"),
            (text("nan"), "string"),
            (text(""), "string"),
            (text("-1"), "string"),
            (Value::Text(b"\xff1".into()), "string"),
        ] {
            assert_eq!(u64::from_value(&value), Err(format!("number that is not negative expected, got {found}")));
        }
        assert_eq!(Whole::from_value(&text("80")), Ok(Whole(80)));
        assert_eq!(Whole::from_value(&Value::Number(80.5)), Err("whole number expected".into()));
    }

    #[test]
    fn text_may_be_a_number() {
        assert_eq!(String::from_value(&Value::Number(5.0)), Ok("5".into()));
        assert_eq!(String::from_value(&Value::Boolean(false)), Ok(String::new()));
        assert_eq!(String::from_value(&Value::Text(b"\xff".into())), Err("not valid UTF-8".into()));
        assert_eq!(String::from_value(&Value::Number(f64::INFINITY)), Err("string expected, got number".into()));
        assert_eq!(Vec::<u8>::from_value(&Value::Text(b"\xff".into())), Ok(vec![0xff]));
        assert_eq!(Vec::<u8>::from_value(&Value::Boolean(false)), Err("string expected, got boolean".into()));
        assert_eq!(Option::<Vec<u8>>::from_value(&Value::Boolean(false)), Ok(None));
    }

    #[test]
    fn an_element_that_is_wrong_is_named_by_its_position() {
        let list = Value::List(vec![text("a"), Value::Boolean(true)]);
        assert_eq!(Vec::<String>::from_value(&list), Err("element 2: string expected, got boolean".into()));
        assert_eq!(Vec::<String>::from_value(&Value::Boolean(false)), Ok(vec![]));
        let table = Value::Table([("a".into(), text("b"))].into_iter().collect());
        assert_eq!(Vec::<String>::from_value(&table), Err("array expected, got table with named fields".into()));
        assert_eq!(Vec::<String>::from_value(&text("a")), Err("array expected, got string".into()));
    }
}
