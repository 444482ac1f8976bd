//! A note of a turn: its bytes against the table in the code, and sealed.

use resty_session_core::cookie::{Header, base64url};
use resty_session_core::session::note::{MAX_IDS, Note};
use resty_session_core::session::{self, Options, readers};

use crate::obvious;

pub fn seeds() -> Vec<Vec<u8>> {
    let note = |ids: u16, cookies: &str| {
        let ids_bytes: Vec<u8> = (0..ids * 8).map(|byte| byte as u8).collect();
        let plain = [&1_700_000_000_u64.to_le_bytes()[..], &ids.to_le_bytes(), &ids_bytes, cookies.as_bytes()].concat();
        [b"\0\0".as_slice(), &plain].concat()
    };
    vec![note(1, ""), note(2, "session=AQAA; remember=AQAA"), note(0, ""), note(256, "session=x"), note(257, "")]
}

fn constant(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    bytes.fill(7);
    Ok(())
}

fn options() -> Options {
    Options { secret: Some("a secret".into()), ..Options::default() }
}

/// Two bytes for the bit that is flipped, and what is encrypted.
pub fn run(data: &[u8]) {
    let Some((bit, plain)) = data.split_first_chunk::<2>() else { return };
    let note = readers::note(plain);
    let count = plain.get(8..10).map_or(0, |count| obvious::number(count) as usize);
    let is_note = count > 0 && count <= MAX_IDS && plain.len() >= 10 + 8 * count;
    assert_eq!(note.is_some(), is_note);
    let configuration = session::init(options(), None, constant).unwrap();
    assert!(Note::open(&configuration, b"lock", plain).is_err(), "nobody has sealed it");
    let Some(note) = note else { return };
    assert!(readers::note_bytes(&note) == plain);
    assert_eq!(note.cookies(), &plain[10 + 8 * count..]);
    for at in 0..count.min(3) {
        let id = &plain[10 + 8 * at..18 + 8 * at];
        assert!(note.knows(&header_of(id)));
    }
    let Ok(sealed) = note.seal(&configuration, b"lock", constant) else { return };
    assert!(Note::open(&configuration, b"lock", sealed.as_bytes()).unwrap() == note);
    assert!(Note::open(&configuration, b"other", sealed.as_bytes()).is_err());
    let mut flipped = obvious::base64url(sealed.as_bytes()).unwrap();
    let bit = obvious::number(bit) as usize % (8 * flipped.len());
    flipped[bit / 8] ^= 1 << (bit % 8);
    let flipped = base64url::encode(&flipped);
    assert!(Note::open(&configuration, b"lock", flipped.as_bytes()).is_err());
}

/// A header whose session id starts with these bytes.
fn header_of(id: &[u8]) -> Header {
    let mut bytes = [0; 82];
    bytes[0] = 1;
    bytes[3..11].copy_from_slice(id);
    Header::from_bytes(bytes).unwrap()
}
