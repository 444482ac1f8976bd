//! Reading a session from its cookies and its record.

use super::audiences::{self, Sole};
use super::info::Found;
use super::{Context, CookieSettings, Error, Kind, Meta, Session, record, times};
use crate::cookie::cipher::CipherError;
use crate::cookie::header::ENCODED_SIZE;
use crate::cookie::{self, Flags, Header, Key, RememberSafety, chunks, request, seal};
use crate::secret::Secret;
use crate::storage::Get;

/// How many cookies of one name are tried: a browser sends several if they have different paths or
/// domains.
const MAX_CANDIDATES: usize = 5;
/// How many cookies of one name are searched for those that a key authenticates.
const MAX_SEARCHED: usize = 4 * MAX_CANDIDATES;
/// How many ways to put chunks together are tried, if there are several cookies of a chunk's name.
const MAX_COMBINATIONS: usize = 32;

/// A session that was read.
pub(super) struct Opened {
    /// Its cookie.
    pub meta: Meta,
    /// JSON, one `[data, audience, subject, sid, sign-in id]` an audience.
    pub payload: Secret,
    /// The current audience's place in the payload.
    pub index: Option<usize>,
    /// The places of the parts, if the current audience is the only one.
    pub sole: Option<Sole>,
    /// JSON of the info, `{audience: {…}}`.
    pub info: Option<Vec<u8>>,
    /// What is wrong, although the session opens.
    pub warning: Option<String>,
}

impl Opened {
    /// The session without the audiences at these places, and without their info.
    ///
    /// # Errors
    ///
    /// No audience is left, or the data have not the form of a payload.
    fn without(mut self, ended: &[usize]) -> Result<Self, Error> {
        let mut entries = audiences::entries(&self.payload)?;
        let mut places = 0..;
        entries.retain(|_| places.next().is_none_or(|place| !ended.contains(&place)));
        if entries.iter().all(|entry| entry.audience.is_none()) {
            return Err(Error::SessionRevoked);
        }
        self.info = self.info.and_then(|info| audiences::retain_info_of(&info, &entries));
        let place = |index: usize| index - ended.iter().filter(|place| **place < index).count();
        self.index = self.index.filter(|index| !ended.contains(index)).map(place);
        let payload = audiences::join(&entries);
        (self.payload, self.sole) = (payload, None);
        Ok(self)
    }
}

impl Session {
    /// Reads and decrypts a cookie and, with a storage, its record. If there are several cookies of
    /// the name, returns the first that opens and has the audience, or else the first that opens.
    ///
    /// # Errors
    ///
    /// The first cookie's error, or that of a copied remember cookie, or of a storage that can't be
    /// asked.
    pub(super) async fn read(&self, context: &Context, kind: Kind) -> Result<Opened, Error> {
        let others = {
            let first = context.candidates(kind).next().ok_or(cookie::Error::Missing)?;
            let result = self.read_candidate(context, kind, first, 0).await;
            let is_good = result.as_ref().is_ok_and(|opened| opened.index.is_some());
            if is_good || context.candidates(kind).nth(1).is_none() {
                return result;
            }
            // Boxed, because it seldom runs. Awaited outside of this block, so that the result does
            // not take up room in the future of every open.
            Box::pin(self.read_others(context, kind, result))
        };
        others.await
    }

    /// Reads the other cookies of that kind, and returns the best result.
    async fn read_others(
        &self,
        context: &Context,
        kind: Kind,
        mut best: Result<Opened, Error>,
    ) -> Result<Opened, Error> {
        let candidates: Vec<&[u8]> = context.candidates(kind).collect();
        let mut alarm = best.as_ref().err().and_then(Error::alarm);
        for (number, candidate) in candidates.iter().enumerate().skip(1) {
            if best.as_ref().is_err_and(Error::is_fault) {
                break;
            }
            if candidates[..number].contains(candidate) {
                continue;
            }
            let read = self.read_candidate(context, kind, candidate, number).await;
            alarm = alarm.or_else(|| read.as_ref().err().and_then(Error::alarm));
            match read {
                Ok(opened) if opened.index.is_some() => {
                    best = Ok(opened);
                    break;
                }
                Err(error) if error.is_fault() => best = Err(error),
                Err(error) if error.is_theft() && best.as_ref().is_err_and(|best| !best.is_theft()) => {
                    best = Err(error)
                }
                Ok(opened) if best.is_err() => best = Ok(opened),
                _ => {}
            }
        }
        if let (Ok(opened), Some(alarm)) = (&mut best, alarm) {
            opened.warning = Some(alarm);
        }
        best
    }

    /// Reads one cookie, whose `value` is the `number`-th of those of its name, from 0.
    pub(super) async fn read_candidate(
        &self,
        context: &Context,
        kind: Kind,
        value: &[u8],
        number: usize,
    ) -> Result<Opened, Error> {
        let cookie = context.cookie(kind);
        let verified = context.verify(cookie, value).await?;
        let (payload, Found { info, warning }) = if context.configuration.stored {
            let record = context.load(cookie, &verified.header).await?;
            record.info.as_deref().map(audiences::check_info).transpose()?;
            let payload = context.open_payload(cookie, &verified, &record.ciphertext).await?;
            let open_info = |info| context.open_info(verified.key_of(cookie), &verified.header, info);
            (payload, record.info.map(open_info).transpose()?.unwrap_or_default())
        } else {
            let first = &value[ENCODED_SIZE..];
            if cookie.derives_slowly() {
                // Nobody makes this server derive the key of a revoked cookie again and again.
                let checked = context.check_id(cookie, &verified.header)?;
                context.look_up(&verified.header, checked).await?;
            }
            (context.open_cookies(cookie, &verified, first, number).await?, Found::default())
        };
        let audience = self.audience.as_ref().unwrap_or(&context.configuration.audience);
        let entries = audiences::entries(&payload)?;
        let index = audiences::position(&entries, audience);
        let sole = index.and_then(|_| Sole::of(&payload, &entries));
        let checked = context.check_marks(cookie, &verified.header, &entries, index)?;
        let with_sign_ins = context.with_sign_ins(&verified.header, &entries)?;
        let ended = context.look_up(&verified.header, checked).await?;
        let (payload, sole) = match with_sign_ins {
            Some(payload) => (payload, sole.map(|_| Sole::Entry)),
            None => (payload, sole),
        };
        let meta = context.meta_of(kind, verified, value);
        let opened = Opened { meta, payload, index, sole, info, warning };
        if ended.is_empty() { Ok(opened) } else { opened.without(&ended) }
    }
}

/// A cookie that a key authenticates.
pub(super) struct Verified {
    header: Header,
    /// The key's place among the cookie's keys.
    key: usize,
}

impl Verified {
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    fn key_of<'a>(&self, cookie: &'a CookieSettings) -> &'a Key {
        &cookie.keys[self.key]
    }
}

impl Context {
    /// The values of the request's first few cookies of that kind.
    pub(super) fn candidates(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        request::values(&self.cookies, &self.cookie(kind).name).take(MAX_CANDIDATES)
    }

    /// Checks all of a cookie that can be checked without its payload.
    async fn verify(&self, cookie: &CookieSettings, value: &[u8]) -> Result<Verified, Error> {
        let header = Header::decode(value)?;
        if header.flags().contains(Flags::STORED) != self.configuration.stored {
            return Err(Error::InvalidFlags);
        }
        if self.configuration.stored && value.len() > ENCODED_SIZE {
            return Err(cookie::Error::BehindHeader.into());
        }
        cookie.check(&header, self.now)?;
        let binding = self.binding(header.flags()).await;
        let key = seal::verify(&header, &cookie.keys, &binding)?;
        times::check_clock(&header, self.now)?;
        self.configuration.protection.check_bound(header.flags())?;
        Ok(Verified { header, key })
    }

    /// The headers of the request's cookies of that kind that a key authenticates, whether they
    /// open or not, and however old they are. Each session id once, and only the first few. Any
    /// client can send hundreds of cookies of one name, so most of them are not looked at.
    pub(super) async fn authentic(&self, kind: Kind) -> Vec<Header> {
        let mut authentic: Vec<Header> = Vec::new();
        for value in request::values(&self.cookies, &self.cookie(kind).name).take(MAX_SEARCHED) {
            let is_known = |header: &Header| authentic.iter().any(|other| other.sid() == header.sid());
            if Header::decode(value).is_ok_and(|header| is_known(&header)) {
                continue;
            }
            authentic.extend(self.authenticate(kind, value).await.map(|verified| verified.header));
            if authentic.len() == MAX_CANDIDATES {
                break;
            }
        }
        authentic
    }

    /// A cookie's header if a key authenticates it, whether the cookie opens or not, and however
    /// old it is.
    pub(super) async fn authenticate(&self, kind: Kind, value: &[u8]) -> Option<Verified> {
        let header = Header::decode(value).ok()?;
        if header.flags().contains(Flags::STORED) != self.configuration.stored {
            return None;
        }
        let binding = self.binding(header.flags()).await;
        let key = seal::verify(&header, &self.cookie(kind).keys, &binding).ok()?;
        Some(Verified { header, key })
    }

    /// The payload of a cookie that a key authenticates, however old it is. `value` is the
    /// `number`-th of those of its name.
    ///
    /// # Errors
    ///
    /// The payload is missing, damaged or not readable now.
    pub(super) async fn payload_of(
        &self,
        kind: Kind,
        verified: &Verified,
        (number, value): (usize, &[u8]),
    ) -> Result<Secret, Error> {
        let cookie = self.cookie(kind);
        if self.configuration.stored {
            let record = self.load(cookie, &verified.header).await?;
            return self.open_payload(cookie, verified, &record.ciphertext).await;
        }
        self.open_cookies(cookie, verified, &value[ENCODED_SIZE..], number).await
    }

    /// The meta of a cookie that opened.
    fn meta_of(&self, kind: Kind, verified: Verified, value: &[u8]) -> Meta {
        let Verified { header, key } = verified;
        let place = request::place(&self.cookies, value).filter(|_| kind == Kind::Session);
        let initial_chunk = match place {
            Some(_) => String::new(),
            // What was decoded as base64url is text.
            None => String::from_utf8_lossy(&value[ENCODED_SIZE..]).into_owned(),
        };
        Meta { header, key, initial_chunk, known_at: self.now, place }
    }

    /// The first of the request's cookies of that kind that a key authenticates.
    pub(super) async fn verified(&self, kind: Kind) -> Option<Meta> {
        for value in self.candidates(kind) {
            if let Ok(Verified { header, key }) = self.verify(self.cookie(kind), value).await {
                return Some(Meta { header, key, initial_chunk: String::new(), known_at: self.now, place: None });
            }
        }
        None
    }

    /// The first of the request's cookies of that kind that a key authenticates and, with a
    /// storage, whose record is there.
    ///
    /// # Errors
    ///
    /// The record of the first one is not there, or the storage can't be asked.
    pub(super) async fn find_verified(&self, kind: Kind) -> Result<Option<Meta>, Error> {
        let Some(meta) = self.verified(kind).await else { return Ok(None) };
        if self.configuration.stored {
            self.load(self.cookie(kind), &meta.header).await?;
        }
        Ok(Some(meta))
    }

    /// Decrypts a payload that is kept in cookies. `first` is its part in the first one, which is
    /// the `number`-th of its name.
    async fn open_cookies(
        &self,
        cookie: &CookieSettings,
        verified: &Verified,
        first: &[u8],
        number: usize,
    ) -> Result<Secret, Error> {
        let size = verified.header.data_size();
        // More than nine cookies can hold was never written by a save.
        let count = chunks::count(&cookie.name, size).map_err(|_| cookie::Error::InvalidPayload)?;
        if count == 1 {
            return self.open_payload(cookie, verified, first).await;
        }
        if first.len() != chunks::part_size(&cookie.name, size, 1) {
            return Err(cookie::Error::InvalidPayload.into());
        }
        let values = request::chunk_values(&self.cookies, &cookie.name, count, MAX_CANDIDATES);
        let of_right_size = |(chunk, values)| chunk_candidates(chunks::part_size(&cookie.name, size, chunk), values);
        let places = (2..).zip(values).map(of_right_size).collect::<Result<Vec<_>, _>>()?;
        // Boxed, because it seldom runs.
        Box::pin(open_chunks(first, &places, number, async |text| self.open_payload(cookie, verified, text).await))
            .await
    }

    /// Decrypts a payload, its base64url text.
    async fn open_payload(&self, cookie: &CookieSettings, verified: &Verified, text: &[u8]) -> Result<Secret, Error> {
        let (header, key) = (&verified.header, verified.key_of(cookie));
        let limit = self.configuration.max_data_size();
        let mut ciphertext = seal::decode(header, text, limit)?;
        if cookie.derives_slowly() && is_of_session(key, header, &mut ciphertext) {
            return Err(cookie::Error::Decrypt(CipherError::Tag).into());
        }
        let encryption = self.encryption(cookie, key, header.sid()).await?;
        Ok(seal::open(header, &encryption, ciphertext, limit)?)
    }

    /// The record of a cookie that a key authenticates.
    async fn load(&self, cookie: &CookieSettings, header: &Header) -> Result<record::Record, Error> {
        let key = self.storage_key(header);
        let get = Get { name: cookie.name.clone(), key, current_time: self.now };
        let text = match self.environment.get(get).await {
            Ok(Some(text)) => text,
            Ok(None) => return Err(Box::pin(self.explain_absence(cookie.kind, header)).await),
            Err(error) => return Err(Error::Load(error.into())),
        };
        if cookie.kind == Kind::Remember {
            Box::pin(self.check_line(cookie.kind, header)).await?;
        }
        record::decode(text, self.configuration.max_data_size())
    }
}

/// Whether this is the ciphertext of a session cookie, which it then decrypts. Such a cookie does
/// not open under the remember cookie's name. Without this check, that would take a slow
/// derivation, which anybody with a session could cause.
fn is_of_session(key: &Key, header: &Header, ciphertext: &mut [u8]) -> bool {
    let key = key.encryption(header.sid(), RememberSafety::None);
    key.decrypt(ciphertext, header.additional_data(), &header.tag()).is_ok()
}

/// Which of the values under a chunk's name are of the right size.
fn chunk_candidates(size: usize, found: Vec<&[u8]>) -> Result<Vec<&[u8]>, Error> {
    let problem = if found.is_empty() { cookie::Error::MissingChunk } else { cookie::Error::InvalidPayload };
    let mut values: Vec<&[u8]> = Vec::with_capacity(1);
    for value in found {
        if value.len() == size && !values.contains(&value) {
            values.push(value);
        }
    }
    if values.is_empty() { Err(problem.into()) } else { Ok(values) }
}

/// Decrypts a payload with several candidates for each chunk. The tag tells which belong together.
/// A browser mostly sends cookies that were set together in the same order, so the `number`-th of
/// each name are tried first.
async fn open_chunks(
    first: &[u8],
    places: &[Vec<&[u8]>],
    number: usize,
    open: impl AsyncFn(&[u8]) -> Result<Secret, Error>,
) -> Result<Secret, Error> {
    let all = places.iter().fold(1_usize, |product, place| product.saturating_mul(place.len()));
    let mut problem = Error::from(cookie::Error::InvalidPayload);
    for attempt in 0..all.min(MAX_COMBINATIONS) {
        let mut rest = attempt;
        let mut parts = vec![first];
        for place in places {
            parts.push(place[(rest + number) % place.len()]);
            rest /= place.len();
        }
        match open(&parts.concat()).await {
            Ok(payload) => return Ok(payload),
            Err(error) if error.is_fault() => return Err(error),
            Err(error) if attempt == 0 => problem = error,
            Err(_) => {}
        }
    }
    Err(problem)
}
