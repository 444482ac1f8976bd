//! Reads options out of a table by their names.

use std::borrow::Cow;
use std::cell::RefCell;

use super::{Error, Names, Setting, Table, Value, Whole, hint};
use crate::secret::Password;

/// A table of options.
///
/// The options of storages all have a default, or may be missing: `false` and the empty text count
/// as absent there, which is how [`text`](Self::text), [`password`](Self::password),
/// [`number`](Self::number) and [`whole`](Self::whole) read them.
pub struct Reader<'a> {
    storage: Option<&'static str>,
    names: Names,
    table: Cow<'a, Table>,
    hints: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    /// Reads the options of a session.
    pub(crate) fn of_session(names: Names, table: &'a Table) -> Self {
        Self { storage: None, names, table: Cow::Borrowed(table), hints: RefCell::default() }
    }

    /// Reads the options of a storage.
    pub(super) fn of_storage(storage: &'static str, names: Names, table: &'a Table) -> Self {
        let hints = hints(storage, names, table);
        Self { storage: Some(storage), names, table: Cow::Borrowed(table), hints: RefCell::new(hints) }
    }

    /// The hints for names that are not an option's.
    pub(super) fn into_hints(self) -> Vec<String> {
        self.hints.into_inner()
    }

    /// An error about an option. The cause must not show the option's value, which may be a secret.
    pub fn invalid(&self, option: &str, cause: impl Into<String>) -> Error {
        let storage = self.storage.map(|storage| format!("{storage} ")).unwrap_or_default();
        Error::new(storage + option, cause)
    }

    /// Reads an option; returns `None` if it is absent.
    ///
    /// # Errors
    ///
    /// The value is not of this type.
    pub fn get<T: Setting>(&self, option: &str) -> Result<Option<T>, Error> {
        let value = self.value(option);
        value.map(T::from_value).transpose().map_err(|cause| self.invalid(option, cause))
    }

    fn value(&self, option: &str) -> Option<&Value> {
        debug_assert!(self.names.iter().any(|names| names.contains(&option)), "{option} is not among the names");
        self.table.get(option)
    }

    /// Reads an option that is text.
    ///
    /// # Errors
    ///
    /// The value is neither text nor a finite number, or not valid UTF-8.
    pub fn text(&self, option: &str) -> Result<Option<String>, Error> {
        Ok(self.get(option)?.filter(|text: &String| !text.is_empty()))
    }

    /// Reads one text or an array of texts. The empty text and `false` count as absent.
    ///
    /// # Errors
    ///
    /// The value is neither, the array or one of its texts is empty, or a text is not valid UTF-8.
    pub fn texts(&self, option: &str) -> Result<Option<Vec<String>>, Error> {
        if !matches!(self.value(option), Some(Value::List(_))) {
            return Ok(self.text(option)?.map(|text| vec![text]));
        }
        let texts = self.get::<Vec<String>>(option)?.unwrap_or_default();
        match texts.iter().any(String::is_empty) || texts.is_empty() {
            true => Err(self.invalid(option, "it is empty")),
            false => Ok(Some(texts)),
        }
    }

    /// Reads an option that is a password.
    ///
    /// # Errors
    ///
    /// The value is neither text nor a finite number, or not valid UTF-8.
    pub fn password(&self, option: &str) -> Result<Option<Password>, Error> {
        Ok(self.get(option)?.filter(|password: &Password| !password.is_empty()))
    }

    /// Reads how much or how many, rounded up.
    ///
    /// # Errors
    ///
    /// The value is not a number that is not negative, nor the text of one.
    pub fn number(&self, option: &str) -> Result<Option<u64>, Error> {
        Ok(self.get::<Option<u64>>(option)?.flatten())
    }

    /// Reads a number that names something.
    ///
    /// # Errors
    ///
    /// As [`number`](Self::number), or the number has a fraction.
    pub fn whole(&self, option: &str) -> Result<Option<u64>, Error> {
        Ok(self.get::<Option<Whole>>(option)?.flatten().map(|Whole(number)| number))
    }

    /// Reads a boolean.
    ///
    /// # Errors
    ///
    /// The value is anything else.
    pub fn switch(&self, option: &str) -> Result<Option<bool>, Error> {
        self.get(option)
    }

    /// Checks options that are accepted and not needed.
    ///
    /// # Errors
    ///
    /// One of the first is not a number, or one of the others is not text.
    pub fn check_unneeded(&self, numbers: &[&str], texts: &[&str]) -> Result<(), Error> {
        numbers.iter().try_for_each(|option| self.number(option).map(drop))?;
        texts.iter().try_for_each(|option| self.text(option).map(drop))
    }

    /// Reads an array of tables. Each has options of its own, whose names are given; `form` shows
    /// how to write one. The names that are not among them become hints of this reader.
    ///
    /// # Errors
    ///
    /// The value is not an array, or one of its elements is not a table.
    pub fn tables(&self, option: &str, names: Names, form: &str) -> Result<Option<Vec<Reader<'static>>>, Error> {
        let elements = match self.value(option) {
            None | Some(Value::Boolean(false)) => return Ok(None),
            Some(value) => value.elements().map_err(|cause| self.invalid(option, cause))?,
        };
        let owner = format!("{} {option}", self.storage.unwrap_or_default());
        let read = |element: &Value| {
            let table = element.to_table().map_err(|_| self.invalid(option, format!("each must be {form}")))?;
            self.hints.borrow_mut().extend(hints(&owner, names, &table));
            Ok(Reader { storage: self.storage, names, table: Cow::Owned(table), hints: RefCell::default() })
        };
        elements.iter().map(read).collect::<Result<_, _>>().map(Some)
    }
}

/// A hint for each field that is not an option's.
fn hints(owner: &str, names: Names, table: &Table) -> Vec<String> {
    let known = names.concat();
    let is_unknown = |name: &&[u8]| !known.iter().any(|known| known.as_bytes() == *name);
    let unknown = table.fields().map(|(name, _)| name).filter(is_unknown);
    unknown.map(|name| hint(Some(owner), name, &known)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAMES: Names = &[&["text", "number", "list"], &["switch"]];

    fn with<T>(json: serde_json::Value, read: impl FnOnce(&Reader) -> T) -> (T, Vec<String>) {
        let table = Value::from_json(json).unwrap().to_table().unwrap();
        let reader = Reader::of_storage("redis", NAMES, &table);
        (read(&reader), reader.into_hints())
    }

    #[test]
    fn false_and_empty_text_count_as_absent() {
        for json in [json!({}), json!({ "text": false, "number": false }), json!({ "text": "" })] {
            with(json, |reader| {
                assert_eq!((reader.text("text"), reader.number("number")), (Ok(None), Ok(None)));
                assert_eq!((reader.whole("number"), reader.password("text")), (Ok(None), Ok(None)));
            });
        }
        with(json!({ "text": "", "switch": false }), |reader| {
            assert_eq!(reader.get("text"), Ok(Some(String::new())));
            assert_eq!(reader.switch("switch"), Ok(Some(false)));
        });
    }

    #[test]
    fn one_text_or_several() {
        for (json, texts) in [
            (json!({ "list": "a" }), Ok(Some(vec!["a"]))),
            (json!({ "list": ["a", 5] }), Ok(Some(vec!["a", "5"]))),
            (json!({ "list": "" }), Ok(None)),
            (json!({ "list": false }), Ok(None)),
            (json!({ "list": [] }), Err("invalid redis list (it is empty)")),
            (json!({ "list": ["a", ""] }), Err("invalid redis list (it is empty)")),
            (json!({ "list": ["a", true] }), Err("invalid redis list (element 2: string expected, got boolean)")),
            (json!({ "list": { "host": "a" } }), Err("invalid redis list (string expected, got table)")),
        ] {
            let read = with(json, |reader| reader.texts("list")).0.map_err(|error| error.to_string());
            let texts = texts.map(|texts| texts.map(|texts| texts.into_iter().map(str::to_owned).collect::<Vec<_>>()));
            assert_eq!(read, texts.map_err(str::to_owned));
        }
    }

    #[test]
    fn errors_name_storage_and_option() {
        let read = |json, read: fn(&Reader) -> Option<Error>| with(json, read).0.unwrap().to_string();
        assert_eq!(
            read(json!({ "text": {} }), |reader| reader.text("text").err()),
            "invalid redis text (string expected, got table)"
        );
        assert_eq!(
            read(json!({ "switch": "true" }), |reader| reader.switch("switch").err()),
            "invalid redis switch (boolean expected, got string)"
        );
        let form = |reader: &Reader| reader.tables("list", &[&["host"]], "{ host = … }").err();
        assert_eq!(read(json!({ "list": ["a"] }), form), "invalid redis list (each must be { host = … })");
        let named = "invalid redis list (array expected, got table with named fields)";
        assert_eq!(read(json!({ "list": { "host": "a" } }), form), named);
    }

    #[test]
    fn unknown_names_are_told_also_those_in_arrays() {
        let json = json!({ "test": 1, "list": [{ "hots": "a" }, { "host": "b" }] });
        let (hosts, hints) = with(json, |reader| {
            let tables = reader.tables("list", &[&["host"]], "").unwrap().unwrap();
            tables.iter().map(|table| table.text("host").unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(hosts, [None, Some("b".to_owned())]);
        assert_eq!(
            hints,
            [
                r#"unknown redis option "test" is ignored: did you mean "text"?"#,
                r#"unknown redis list option "hots" is ignored: did you mean "host"?"#
            ]
        );
    }
}
