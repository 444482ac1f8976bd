//! Values that are bound to statements.

use std::error::Error;
use std::fmt;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type};

use resty_session_core::time::Timestamp;

#[derive(Clone)]
pub(super) enum Parameter {
    Text(String),
    /// Text, or NULL.
    Optional(Option<String>),
    Texts(Vec<String>),
    /// Its seconds since the epoch, as `to_timestamp` takes them.
    Time(Timestamp),
}

/// The driver requires this. It shows no values, because they are ids, records and names.
impl fmt::Debug for Parameter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql_checked(ty, out)
    }

    /// Always true, because each value checks the type itself when it is written.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Text(text) => text.to_sql_checked(ty, out),
            Self::Optional(text) => text.to_sql_checked(ty, out),
            Self::Texts(texts) => texts.to_sql_checked(ty, out),
            Self::Time(at) => (at.as_secs() as f64).to_sql_checked(ty, out),
        }
    }
}
