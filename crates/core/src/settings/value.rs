//! An option's value, and tables of them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;

/// An option's value as a program wrote it. `None` stands for a value that is absent, or null.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// A boolean.
    Boolean(bool),
    /// A number, which may be NaN or infinite.
    Number(f64),
    /// Text, or any other bytes.
    Text(Secret),
    /// An array without the elements that are absent.
    List(Vec<Value>),
    /// A table with named fields.
    Table(Table),
    /// A function of the program.
    Function(Function),
    /// Anything else, by the name of its type.
    Other(&'static str),
}

/// A function of the program, in whatever form its host can call it.
#[derive(Clone)]
pub struct Function(Arc<dyn Any + Send + Sync>);

impl Function {
    /// A function that the host knows by this value.
    pub fn new(known_by: Arc<impl Any + Send + Sync>) -> Self {
        Self(known_by)
    }

    /// Returns what the host knows the function by, or `None` if that is of another type.
    pub fn known_by<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.clone().downcast().ok()
    }
}

/// Two are equal if the host knows them by the same value, not by an equal one.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Value {
    /// Reads JSON; returns `None` for null.
    pub fn from_json(json: serde_json::Value) -> Option<Self> {
        use serde_json::Value as Json;
        Some(match json {
            Json::Null => return None,
            Json::Bool(boolean) => Self::Boolean(boolean),
            Json::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => Self::Text(text.into()),
            Json::Array(values) => Self::List(values.into_iter().filter_map(Self::from_json).collect()),
            Json::Object(fields) => {
                let field = |(name, value): (String, Json)| Some((name.into(), Self::from_json(value)?));
                Self::Table(fields.into_iter().filter_map(field).collect())
            }
        })
    }

    /// The name of the value's type, as Lua calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "boolean",
            Self::Number(number) if number.is_nan() => "NaN",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) | Self::Table(_) => "table",
            Self::Function(_) => "function",
            Self::Other(name) => name,
        }
    }

    /// What is wrong with a value of another type than the expected one.
    pub fn unexpected(&self, expected: &str) -> String {
        format!("{expected} expected, got {}", self.type_name())
    }

    /// The value as a table. The names of an array's fields are their positions, counted from 1.
    ///
    /// # Errors
    ///
    /// The value is neither a table nor an array; the text says so.
    pub fn to_table(&self) -> Result<Table, String> {
        match self {
            Self::Table(table) => Ok(table.clone()),
            Self::List(values) => {
                let field = |(index, value): (usize, &Self)| ((index + 1).to_string().into(), value.clone());
                Ok(values.iter().enumerate().map(field).collect())
            }
            other => Err(other.unexpected("table")),
        }
    }

    /// The elements of an array.
    ///
    /// # Errors
    ///
    /// The value is not an array; the text says so.
    pub fn elements(&self) -> Result<&[Self], String> {
        match self {
            Self::List(values) => Ok(values),
            Self::Table(_) => Err("array expected, got table with named fields".to_owned()),
            other => Err(other.unexpected("array")),
        }
    }
}

/// Shows only the type, because any value may be a secret, even a number.
impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.type_name())
    }
}

/// Named values, each of a name of its own. A name may be a secret that a program wrote in the
/// wrong place.
#[derive(Clone, Default, PartialEq)]
pub struct Table(Vec<(Secret, Value)>);

impl Table {
    /// Returns the value of a field, or `None` if it is absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields().find(|(other, _)| *other == name.as_bytes()).map(|(_, value)| value)
    }

    /// All fields: names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value))
    }
}

impl FromIterator<(Secret, Value)> for Table {
    fn from_iter<I: IntoIterator<Item = (Secret, Value)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// Shows only the type.
impl fmt::Debug for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_read_without_what_is_null() {
        let value = Value::from_json(json!({ "a": [1, null, "x", true], "b": null, "c": {} })).unwrap();
        let Value::Table(table) = &value else { panic!("{value:?}") };
        let list = vec![Value::Number(1.0), Value::Text("x".into()), Value::Boolean(true)];
        assert_eq!(table.get("a"), Some(&Value::List(list)));
        assert_eq!((table.get("b"), table.get("c")), (None, Some(&Value::Table(Table::default()))));
        assert_eq!(Value::from_json(json!(null)), None);
    }

    #[test]
    fn only_types_are_shown() {
        let value = Value::from_json(json!({ "password": "hidden", "list": ["hidden", 271_828] })).unwrap();
        assert_eq!(format!("{value:?} {:?}", value.to_table()), "table Ok(table)");
        let Value::Table(table) = value else { panic!() };
        assert_eq!(
            format!("{:?} {:#?}", table.get("password"), table.get("list")),
            "Some(string) Some(\n    table,\n)"
        );
        assert_eq!(format!("{:?} {:?}", Value::Number(1.0), Value::Number(f64::NAN)), "number NaN");
    }

    #[test]
    fn a_function_equals_itself_alone() {
        let function = Function::new(Arc::new(5_u8));
        assert!(function == function.clone() && function != Function::new(Arc::new(5_u8)));
        assert_eq!((function.known_by::<u8>().as_deref(), function.known_by::<u16>()), (Some(&5), None));
        assert_eq!(format!("{:?}", Value::Function(function)), "function");
    }

    #[test]
    fn an_array_is_a_table_by_its_positions() {
        let table = Value::from_json(json!(["a", 5])).unwrap().to_table().unwrap();
        assert_eq!((table.get("1"), table.get("2")), (Some(&Value::Text("a".into())), Some(&Value::Number(5.0))));
        assert_eq!(Value::Number(1.0).to_table().unwrap_err(), "table expected, got number");
    }
}
