//! What was sealed opens again, and no flipped bit does.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use resty_session_core::cookie::seal::{self, Seal, Sealed};
use resty_session_core::cookie::{Binding, Flags, Header, Key, RememberSafety};
use resty_session_core::session::readers;
use resty_session_core::time::{Seconds, Timestamp};

use crate::seeds;

const LIMIT: usize = 1 << 20;

pub fn seeds() -> Vec<Vec<u8>> {
    let start: Vec<u8> = (0..120).collect();
    seeds::payloads().into_iter().map(|payload| [start.as_slice(), &payload].concat()).collect()
}

pub fn run(data: &[u8]) {
    let _ = check(&mut Unstructured::new(data));
}

struct Case {
    key: Key,
    sid: [u8; 32],
    binding: Binding,
    bit: usize,
}

fn check(input: &mut Unstructured) -> Result<()> {
    let (sid, flags) =
        (<[u8; 32]>::arbitrary(input)?, Flags::from_bits_retain(u16::arbitrary(input)?) - Flags::DEFLATED);
    let (creation_time, rolling_offset) = (u64::arbitrary(input)? >> 24, u64::from(u32::arbitrary(input)?));
    let compression_threshold = u64::from(u8::arbitrary(input)?);
    let bound = |input: &mut Unstructured| Ok(input.bytes(3)?.to_vec());
    let binding = Binding { remote_addr: bound(input)?, scheme: bound(input)?, user_agent: bound(input)? };
    let case =
        Case { key: Key::from_ikm(&<[u8; 32]>::arbitrary(input)?), sid, binding, bit: u32::arbitrary(input)? as usize };
    let plaintext = input.bytes(input.len())?.repeat(1 + case.bit % 3);
    let seal = Seal {
        key: &case.key,
        sid,
        encryption: case.key.encryption(&sid, RememberSafety::None),
        flags,
        creation_time: Timestamp::from_secs(creation_time),
        rolling_offset: Seconds::from_secs(rolling_offset),
        compression_threshold,
        binding: &case.binding,
    };
    let sealed = seal.seal(&plaintext).unwrap();
    let header = Header::decode(sealed.header.encode().as_bytes()).unwrap();
    assert_eq!((header.flags() - Flags::DEFLATED, header.creation_time().as_secs()), (flags, creation_time));
    assert_eq!((header.rolling_offset().as_secs(), header.sid()), (rolling_offset, sid.as_slice()));
    case.check_open(&header, &sealed, &plaintext);
    case.check_flipped(&header, &sealed);
    case.check_info(&header, &plaintext);
    Ok(())
}

impl Case {
    fn open(&self, header: &Header, payload: &[u8]) -> Option<Vec<u8>> {
        seal::verify(header, std::slice::from_ref(&self.key), &self.binding).ok()?;
        let ciphertext = seal::decode(header, payload, LIMIT).ok()?;
        let key = self.key.encryption(header.sid(), RememberSafety::None);
        Some(seal::open(header, &key, ciphertext, LIMIT).ok()?.to_vec())
    }

    fn check_open(&self, header: &Header, sealed: &Sealed, plaintext: &[u8]) {
        assert_eq!(self.open(header, sealed.payload.as_bytes()).as_deref(), Some(plaintext));
        let touched = seal::touch(header, &self.key, &self.binding, Seconds::from_secs(self.bit as u64));
        assert_eq!(self.open(&touched, sealed.payload.as_bytes()).as_deref(), Some(plaintext));
        let other = Key::from_secret(b"another");
        assert!(seal::verify(header, &[other], &self.binding).is_err());
        let elsewhere = Binding { remote_addr: [&self.binding.remote_addr[..], b"x"].concat(), ..self.binding.clone() };
        let is_bound = header.flags().contains(Flags::BIND_IP);
        assert_eq!(seal::verify(header, std::slice::from_ref(&self.key), &elsewhere).is_err(), is_bound);
    }

    fn check_flipped(&self, header: &Header, sealed: &Sealed) {
        let mut bytes = *header.as_bytes();
        let bit = self.bit % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let opened = Header::from_bytes(bytes).ok().and_then(|header| self.open(&header, sealed.payload.as_bytes()));
        assert_eq!(opened, None, "bit {bit} of the header");
        let mut payload = sealed.payload.clone().into_bytes();
        if !payload.is_empty() {
            let bit = self.bit % (8 * payload.len());
            payload[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(self.open(header, &payload), None, "bit {bit} of the payload");
        }
    }

    fn check_info(&self, header: &Header, info: &[u8]) {
        let nonce = [self.bit as u8; 12];
        let sealed = readers::seal_info(&self.key, header, nonce, info).unwrap();
        assert_eq!(readers::open_info(&self.key, header, sealed.as_bytes()).unwrap(), info);
        let mut flipped = sealed.into_bytes();
        let bit = self.bit % (8 * flipped.len());
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(readers::open_info(&self.key, header, &flipped).is_err(), "bit {bit} of the info");
        assert_eq!(header.sid(), self.sid);
    }
}
