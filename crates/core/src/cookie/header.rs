//! The cookie's header: 82 bytes that stand, base64url encoded, at the start of every session cookie.
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
//! Integers are unsigned and little-endian. The bytes are kept as they are and read where they are: a header
//! that is only passed on is never taken apart.

use std::fmt;

use bitflags::bitflags;

use super::Error;
use super::base64url;
use crate::secret::show_only;

/// Size of the header in bytes.
pub const SIZE: usize = 82;
/// Length of the header's base64url text.
pub const ENCODED_SIZE: usize = base64url::encoded_size(SIZE);
/// Largest creation time: 40 bits of seconds.
pub const MAX_CREATION_TIME: u64 = (1 << 40) - 1;
/// Largest rolling offset, and so the longest life of a session, in seconds.
pub const MAX_ROLLING_OFFSET: u64 = (1 << 32) - 1;
/// Largest idling offset in seconds.
pub const MAX_IDLING_OFFSET: u64 = (1 << 24) - 1;
/// Largest length of a payload's base64url text.
pub const MAX_DATA_SIZE: usize = (1 << 24) - 1;

/// How far the clock of a server that made a header may be ahead, in seconds.
pub const CLOCK_SKEW: u64 = 24 * 60 * 60;

const TYPE: u8 = 1;
const FLAGS_AT: usize = 1;
const SID_AT: usize = 3;
const CREATION_TIME_AT: usize = 35;
const ROLLING_OFFSET_AT: usize = 40;
const DATA_SIZE_AT: usize = 44;
const TAG_AT: usize = 47;
const IDLING_OFFSET_AT: usize = 63;
const MAC_AT: usize = 66;

/// Size of a session id in bytes.
pub const SID_SIZE: usize = 32;
/// A session id as raw bytes.
pub type Sid = [u8; SID_SIZE];
/// The GCM tag, and the truncated HMAC: 16 bytes each.
pub type Tag = [u8; 16];

bitflags! {
    /// The header's flags. Bits without a name are kept as they are: the MAC covers them too.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// The payload lives in a storage, not in the cookie.
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

    /// Whether every bit that is set has a name above.
    pub const fn are_known(self) -> bool {
        Self::all().contains(self)
    }

    /// Whether the MAC covers anything of the request.
    pub const fn is_bound(self) -> bool {
        self.intersects(Self::BIND)
    }

    /// These flags, and `other` if `condition` holds.
    #[must_use]
    pub fn with(self, other: Self, condition: bool) -> Self {
        if condition { self | other } else { self }
    }
}

/// What a save writes into a header, before there are a tag and a MAC.
#[derive(Clone)]
pub struct Fields {
    pub flags: Flags,
    pub sid: Sid,
    pub creation_time: u64,
    pub rolling_offset: u64,
    pub data_size: usize,
}

show_only!(Fields { flags, creation_time, rolling_offset, data_size });

/// A header, as its raw bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Header([u8; SIZE]);

/// Shows neither the id nor the tag and the MAC, because together they make the cookie.
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
    /// A header without tag and MAC.
    ///
    /// # Errors
    ///
    /// A field beyond what its bytes can hold.
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
        header.put(CREATION_TIME_AT, 5, fields.creation_time);
        header.put(ROLLING_OFFSET_AT, 4, fields.rolling_offset);
        header.put(DATA_SIZE_AT, 3, fields.data_size as u64);
        Ok(header)
    }

    /// Reads the header at the start of a cookie's value. Only the type is checked: nothing in it can be
    /// trusted before [`verify`](super::seal::verify).
    pub fn decode(cookie: &[u8]) -> Result<Self, Error> {
        let text = cookie.get(..ENCODED_SIZE).ok_or(Error::InvalidHeader)?;
        let mut bytes = [0; SIZE];
        base64url::decode_exact(text, &mut bytes).map_err(Error::HeaderEncoding)?;
        Self::from_bytes(bytes)
    }

    /// A header from its raw bytes, as [`as_bytes`](Self::as_bytes) gives them.
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

    pub fn as_bytes(&self) -> &[u8; SIZE] {
        &self.0
    }

    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.get(FLAGS_AT, 2) as u16)
    }

    pub fn sid(&self) -> &[u8] {
        &self.0[SID_AT..CREATION_TIME_AT]
    }

    pub fn creation_time(&self) -> u64 {
        self.get(CREATION_TIME_AT, 5)
    }

    pub fn rolling_offset(&self) -> u64 {
        self.get(ROLLING_OFFSET_AT, 4)
    }

    pub fn data_size(&self) -> usize {
        self.get(DATA_SIZE_AT, 3) as usize
    }

    pub fn idling_offset(&self) -> u64 {
        self.get(IDLING_OFFSET_AT, 3)
    }

    pub fn tag(&self) -> Tag {
        self.sixteen(TAG_AT)
    }

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

    /// Clamps to what three bytes can hold.
    pub(super) fn set_idling_offset(&mut self, seconds: u64) {
        self.put(IDLING_OFFSET_AT, 3, seconds.min(MAX_IDLING_OFFSET));
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
        fn fields_come_back_as_they_went_in(
            flags: u16, sid: [u8; 32], creation_time in 0..=MAX_CREATION_TIME,
            rolling_offset in 0..=MAX_ROLLING_OFFSET, data_size in 0..=MAX_DATA_SIZE, idling: u64, tag: [u8; 16], mac: [u8; 16],
        ) {
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
            prop_assert_eq!(header.mac(), mac);
        }

        #[test]
        fn no_bytes_make_it_panic(cookie: Vec<u8>) {
            let _ = Header::decode(&cookie);
        }
    }

    #[test]
    fn a_field_too_large_is_an_error() {
        let fields = Fields { flags: Flags::empty(), sid: [0; 32], creation_time: 0, rolling_offset: 0, data_size: 0 };
        let with = |change: fn(&mut Fields)| {
            let mut fields = fields.clone();
            change(&mut fields);
            Header::new(&fields).unwrap_err().to_string()
        };
        assert_eq!(with(|f| f.creation_time = 1 << 40), "session maximum creation time exceeded");
        assert_eq!(with(|f| f.rolling_offset = 1 << 32), "session maximum rolling offset exceeded");
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
