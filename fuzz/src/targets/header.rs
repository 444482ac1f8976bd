//! A cookie's header, against the table of docs/formats.md. And base64url on the way.

use resty_session_core::cookie::{Header, base64url};

use crate::{obvious, seeds};

pub fn seeds() -> Vec<Vec<u8>> {
    seeds::cookie_values()
}

pub fn run(data: &[u8]) {
    assert_eq!(base64url::decode(data).ok(), obvious::base64url(data));
    let expected = data.get(..110).and_then(obvious::base64url).filter(|bytes| bytes[0] == 1);
    let header = Header::decode(data).ok();
    assert_eq!(header.is_some(), expected.is_some());
    let (Some(header), Some(bytes)) = (header, expected) else { return };
    assert_eq!(header.as_bytes().as_slice(), bytes);
    assert_eq!(u64::from(header.flags().bits()), obvious::number(&bytes[1..3]));
    assert_eq!(header.sid(), &bytes[3..35]);
    let creation_time = obvious::number(&bytes[35..40]);
    let save_time = creation_time + obvious::number(&bytes[40..44]);
    assert_eq!(header.creation_time().as_secs(), creation_time);
    assert_eq!(header.save_time().as_secs(), save_time);
    assert_eq!(header.data_size() as u64, obvious::number(&bytes[44..47]));
    assert_eq!(header.tag().as_slice(), &bytes[47..63]);
    assert_eq!(header.touch_time().as_secs(), save_time + obvious::number(&bytes[63..66]));
    assert_eq!(header.mac().as_slice(), &bytes[66..82]);
    assert_eq!(header.encode().as_bytes(), &data[..110]);
}
