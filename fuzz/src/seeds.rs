//! Seeds from the sessions that lua-resty-session wrote.

use resty_session_testing::vectors::{Vector, all, with_sid};

/// All vectors.
pub fn vectors() -> Vec<Vector> {
    all().into_iter().chain(with_sid()).collect()
}

/// Their Cookie headers.
pub fn cookie_headers() -> Vec<Vec<u8>> {
    let header = |vector: &Vector| {
        let pairs = vector.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ").into_bytes()
    };
    vectors().iter().map(header).collect()
}

/// The values of their cookies.
pub fn cookie_values() -> Vec<Vec<u8>> {
    vectors().iter().flat_map(|vector| vector.cookies.values().map(|value| value.clone().into_bytes())).collect()
}

/// Their payloads, as JSON.
pub fn payloads() -> Vec<Vec<u8>> {
    vectors().iter().map(|vector| vector.data.to_string().into_bytes()).collect()
}

/// Their info, as JSON.
pub fn infos() -> Vec<Vec<u8>> {
    vectors().iter().filter_map(|vector| Some(vector.info.as_ref()?.to_string().into_bytes())).collect()
}

/// Their records.
pub fn records() -> Vec<Vec<u8>> {
    let values = |vector: Vector| vector.records.into_iter().filter_map(|record| Some(record.value?.into_bytes()));
    vectors().into_iter().flat_map(values).collect()
}

/// Texts as bytes.
pub fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
