//! The cookie's header: 82 bytes, whose base64url text is the start of every session cookie.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | type, always 1 |
//! | 1 | 2 | [`Flags`] |
//! | 3 | 32 | session id |
//! | 35 | 5 | creation time, seconds since the Unix epoch |
//! | 40 | 4 | rolling offset: seconds from the creation to the save |
//! | 44 | 3 | data size: length of the payload's base64url text |
//! | 47 | 16 | AES-GCM tag of the payload |
//! | 63 | 3 | idling offset: seconds from the save to the last touch |
//! | 66 | 16 | message authentication code |
//!
//! Integers are unsigned and little-endian. A [`Header`] keeps the bytes as they are, and reads a
//! field when it is asked for it.

use std::fmt;

use bitflags::bitflags;

use super::Error;
use super::base64url;
use crate::secret::show_only;
use crate::time::{Seconds, Timestamp};

/// The size of the header in bytes.
pub const SIZE: usize = 82;
/// The length of the header's base64url text.
pub const ENCODED_SIZE: usize = base64url::encoded_size(SIZE);
/// The latest creation time: 40 bits of seconds.
pub const MAX_CREATION_TIME: Timestamp = Timestamp::from_secs((1 << 40) - 1);
/// The largest rolling offset, and so the longest life of a session: 32 bits of seconds.
pub const MAX_ROLLING_OFFSET: Seconds = Seconds::from_secs((1 << 32) - 1);
/// The largest idling offset: 24 bits of seconds.
pub const MAX_IDLING_OFFSET: Seconds = Seconds::from_secs((1 << 24) - 1);
/// The largest length of a payload's base64url text: 24 bits.
pub const MAX_DATA_SIZE: usize = (1 << 24) - 1;

/// How far the clock of a server that made a header may be ahead.
pub const CLOCK_SKEW: Seconds = Seconds::from_days(1);

const TYPE: u8 = 1;
const FLAGS_AT: usize = 1;
const SID_AT: usize = 3;
const CREATION_TIME_AT: usize = 35;
const ROLLING_OFFSET_AT: usize = 40;
const DATA_SIZE_AT: usize = 44;
const TAG_AT: usize = 47;
const IDLING_OFFSET_AT: usize = 63;
const MAC_AT: usize = 66;

/// The size of a session id in bytes.
pub const SID_SIZE: usize = 32;
/// The raw bytes of a session id.
pub type Sid = [u8; SID_SIZE];
/// The GCM tag, and the truncated HMAC: 16 bytes each.
pub type Tag = [u8; 16];

bitflags! {
    /// The header's flags. Bits without a name are kept as they are: the MAC covers them too.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// The payload is kept in a storage, not in the cookie.
        const STORED = 0x0001;
        /// The user does not want to be remembered.
        const FORGET = 0x0002;
        /// The payload was deflated before it was encrypted.
        const DEFLATED = 0x0010;
        /// The MAC covers the client's address.
        const BIND_IP = 0x0100;
        /// The MAC covers the request's scheme.
        const BIND_SCHEME = 0x0200;
        /// The MAC covers the request's User-Agent.
        const BIND_USER_AGENT = 0x0400;
    }
}

impl Flags {
    const BIND: Self = Self::BIND_IP.union(Self::BIND_SCHEME).union(Self::BIND_USER_AGENT);

    /// Whether all flags that are set are among those above.
    pub(super) const fn are_known(self) -> bool {
        Self::all().contains(self)
    }

    /// Whether the MAC covers any value of the request.
    pub const fn is_bound(self) -> bool {
        self.intersects(Self::BIND)
    }

    /// These flags, and `other` if `condition` holds.
    #[must_use]
    pub(crate) fn with(self, other: Self, condition: bool) -> Self {
        if condition { self | other } else { self }
    }
}

/// What a save writes into a header before it knows the tag and the MAC.
#[derive(Clone)]
pub struct Fields {
    /// What the payload is, and which values the MAC covers.
    pub flags: Flags,
    /// The session id.
    pub sid: Sid,
    /// When the session was created.
    pub creation_time: Timestamp,
    /// How long after its creation it is saved.
    pub rolling_offset: Seconds,
    /// The length of the payload's base64url text.
    pub data_size: usize,
}

show_only!(Fields { flags, creation_time, rolling_offset, data_size });

/// A header, as its raw bytes.
// Aligned, because an open moves it several times: bytes at odd places are moved in pieces that
// overlap, and the processor waits where bytes are read that were just written as parts of two.
#[derive(Clone, PartialEq, Eq)]
#[repr(align(8))]
pub struct Header([u8; SIZE]);

/// Shows neither the id nor the tag and the MAC, because somebody who knows them can make the
/// cookie.
impl fmt::Debug for Header {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Header")
            .field("flags", &self.flags())
            .field("creation_time", &self.creation_time())
            .field("rolling_offset", &self.rolling_offset())
            .field("idling_offset", &self.idling_offset())
            .field("data_size", &self.data_size())
            .finish_non_exhaustive()
    }
}

impl Header {
    /// A header whose tag and MAC are zeros.
    ///
    /// # Errors
    ///
    /// A field is larger than its bytes can hold.
    pub fn new(fields: &Fields) -> Result<Self, Error> {
        if fields.creation_time > MAX_CREATION_TIME {
            return Err(Error::CreationTimeExceeded);
        }
        if fields.rolling_offset > MAX_ROLLING_OFFSET {
            return Err(Error::RollingOffsetExceeded);
        }
        if fields.data_size > MAX_DATA_SIZE {
            return Err(Error::DataSizeExceeded);
        }
        let mut header = Self([0; SIZE]);
        header.0[0] = TYPE;
        header.put(FLAGS_AT, 2, u64::from(fields.flags.bits()));
        header.0[SID_AT..CREATION_TIME_AT].copy_from_slice(&fields.sid);
        header.put(CREATION_TIME_AT, 5, fields.creation_time.as_secs());
        header.put(ROLLING_OFFSET_AT, 4, fields.rolling_offset.as_secs());
        header.put(DATA_SIZE_AT, 3, fields.data_size as u64);
        Ok(header)
    }

    /// Reads the header at the start of a cookie's value. It can't be trusted before
    /// [`verify`](super::seal::verify), because only its type is checked here.
    ///
    /// # Errors
    ///
    /// The value does not start with the text of a header of this type.
    pub fn decode(cookie: &[u8]) -> Result<Self, Error> {
        let text = cookie.get(..ENCODED_SIZE).ok_or(Error::InvalidHeader)?;
        let mut bytes = [0; SIZE];
        base64url::decode_exact(text, &mut bytes).map_err(Error::HeaderEncoding)?;
        Self::from_bytes(bytes)
    }

    /// A header from its raw bytes, as [`as_bytes`](Self::as_bytes) returns them.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidType`]
    pub fn from_bytes(bytes: [u8; SIZE]) -> Result<Self, Error> {
        if bytes[0] != TYPE {
            return Err(Error::InvalidType);
        }
        Ok(Self(bytes))
    }

    /// The header's base64url text.
    pub fn encode(&self) -> String {
        base64url::encode(&self.0)
    }

    /// The header's raw bytes.
    pub fn as_bytes(&self) -> &[u8; SIZE] {
        &self.0
    }

    /// The header's flags.
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.get(FLAGS_AT, 2) as u16)
    }

    /// The session id's raw bytes.
    pub fn sid(&self) -> &[u8] {
        &self.0[SID_AT..CREATION_TIME_AT]
    }

    /// When the session was created.
    pub fn creation_time(&self) -> Timestamp {
        Timestamp::from_secs(self.get(CREATION_TIME_AT, 5))
    }

    /// How long after its creation the session was last saved.
    pub fn rolling_offset(&self) -> Seconds {
        Seconds::from_secs(self.get(ROLLING_OFFSET_AT, 4))
    }

    /// When the session was last saved.
    pub fn save_time(&self) -> Timestamp {
        self.creation_time() + self.rolling_offset()
    }

    /// How long after its save the session was last touched; zero if it was not.
    pub fn idling_offset(&self) -> Seconds {
        Seconds::from_secs(self.get(IDLING_OFFSET_AT, 3))
    }

    /// When the session was last saved or touched.
    pub fn touch_time(&self) -> Timestamp {
        self.save_time() + self.idling_offset()
    }

    /// The length of the payload's base64url text.
    pub fn data_size(&self) -> usize {
        self.get(DATA_SIZE_AT, 3) as usize
    }

    /// The GCM tag of the payload.
    pub fn tag(&self) -> Tag {
        self.sixteen(TAG_AT)
    }

    /// The message authentication code.
    pub fn mac(&self) -> Tag {
        self.sixteen(MAC_AT)
    }

    /// The bytes before the tag: GCM's additional data.
    pub fn additional_data(&self) -> &[u8] {
        &self.0[..TAG_AT]
    }

    /// The bytes that the MAC covers.
    pub fn authenticated(&self) -> &[u8] {
        &self.0[..MAC_AT]
    }

    pub(super) fn set_tag(&mut self, tag: &Tag) {
        self.0[TAG_AT..IDLING_OFFSET_AT].copy_from_slice(tag);
    }

    pub(super) fn set_mac(&mut self, mac: &Tag) {
        self.0[MAC_AT..].copy_from_slice(mac);
    }

    /// Sets the idling offset, or the largest one that three bytes can hold.
    pub(crate) fn set_idling_offset(&mut self, offset: Seconds) {
        self.put(IDLING_OFFSET_AT, 3, offset.min(MAX_IDLING_OFFSET).as_secs());
    }

    fn get(&self, at: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.0[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    fn put(&mut self, at: usize, size: usize, value: u64) {
        self.0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn sixteen(&self, at: usize) -> Tag {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[at..at + 16]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_survive_encoding(
            (flags, sid) in any::<(u16, [u8; 32])>(), creation_time in 0..=MAX_CREATION_TIME.as_secs(),
            rolling_offset in 0..=MAX_ROLLING_OFFSET.as_secs(), data_size in 0..=MAX_DATA_SIZE, idling: u64,
            (tag, mac) in any::<([u8; 16], [u8; 16])>(),
        ) {
            let creation_time = Timestamp::from_secs(creation_time);
            let [rolling_offset, idling] = [rolling_offset, idling].map(Seconds::from_secs);
            let fields = Fields { flags: Flags::from_bits_retain(flags), sid, creation_time, rolling_offset, data_size };
            let mut header = Header::new(&fields).unwrap();
            header.set_tag(&tag);
            header.set_idling_offset(idling);
            header.set_mac(&mac);
            let header = Header::decode(header.encode().as_bytes()).unwrap();
            prop_assert_eq!(header.flags(), Flags::from_bits_retain(flags));
            prop_assert_eq!(header.sid(), &sid);
            prop_assert_eq!(header.creation_time(), creation_time);
            prop_assert_eq!(header.rolling_offset(), rolling_offset);
            prop_assert_eq!(header.data_size(), data_size);
            prop_assert_eq!(header.tag(), tag);
            prop_assert_eq!(header.idling_offset(), idling.min(MAX_IDLING_OFFSET));
            prop_assert_eq!(header.save_time(), creation_time + rolling_offset);
            prop_assert_eq!(header.touch_time(), header.save_time() + header.idling_offset());
            prop_assert_eq!(header.mac(), mac);
        }

        #[test]
        fn no_bytes_make_it_panic(cookie: Vec<u8>) {
            let _ = Header::decode(&cookie);
        }
    }

    #[test]
    fn a_field_too_large_is_an_error() {
        let (creation_time, rolling_offset) = (Timestamp::default(), Seconds::ZERO);
        let fields = Fields { flags: Flags::empty(), sid: [0; 32], creation_time, rolling_offset, data_size: 0 };
        let with = |change: fn(&mut Fields)| {
            let mut fields = fields.clone();
            change(&mut fields);
            Header::new(&fields).unwrap_err().to_string()
        };
        assert_eq!(with(|f| f.creation_time = Timestamp::from_secs(1 << 40)), "session maximum creation time exceeded");
        assert_eq!(with(|f| f.rolling_offset = Seconds::from_secs(1 << 32)), "session maximum rolling offset exceeded");
        assert_eq!(with(|f| f.data_size = 1 << 24), "session maximum data size exceeded");
    }

    #[test]
    fn flags_without_a_name_are_told_apart() {
        for bit in 0..16 {
            let flag = Flags::from_bits_retain(1 << bit);
            assert_eq!(flag.are_known(), [0, 1, 4, 8, 9, 10].contains(&bit), "{bit}");
            assert_eq!((Flags::STORED | flag).is_bound(), [8, 9, 10].contains(&bit), "{bit}");
        }
    }
}
