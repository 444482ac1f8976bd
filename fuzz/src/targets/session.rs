//! Whole lives: two users sign in, and an attacker who has both their cookies, and may write to the
//! storage, changes what he likes. A session opens as it was saved, or not at all.

use std::collections::BTreeMap;
use std::rc::Rc;

use arbitrary::{Arbitrary as _, Result, Unstructured};
use resty_session_core::cookie::Binding;
use resty_session_core::session::effect::{Need, Step, Supply, Task};
use resty_session_core::session::{self, Configuration, Context, Options, Session};
use resty_session_core::storage::{self, Reply, Request};
use resty_session_core::time::Timestamp;

use crate::obvious;

const NOW: u64 = 1_700_000_000;

pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |options: u8, size: u8| {
        let changes: Vec<u8> = (0..40).map(|at: u8| at.wrapping_mul(37).wrapping_add(size)).collect();
        [&[options, size, 1, 0, 9][..], &changes].concat()
    };
    (0..=255).step_by(5).zip((0..=255).rev().step_by(5)).map(|(options, size)| seed(options, size)).collect()
}

pub fn run(data: &[u8]) {
    let _ = check(&mut Unstructured::new(data));
}

/// Random bytes that are the same in each run.
fn random(bytes: &mut [u8]) -> std::result::Result<(), getrandom::Error> {
    thread_local!(static NEXT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    for chunk in bytes.chunks_mut(8) {
        let next = NEXT.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        NEXT.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        chunk.copy_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

struct World {
    configuration: Rc<Configuration>,
    records: BTreeMap<String, Vec<u8>>,
    cookies: Vec<u8>,
}

fn options(bits: u8) -> Options {
    let stage = |on: bool| Some(if on { session::Stage::On } else { session::Stage::Off });
    Options {
        secret: Some("a secret".into()),
        compression_threshold: Some(u64::from(bits & 1)),
        remember: Some(bits & 2 != 0),
        remember_safety: Some(b"None".to_vec()),
        separate_keys: stage(bits & 4 != 0),
        seal_info: stage(bits & 8 != 0),
        bind: (bits & 16 != 0).then(|| vec![b"ip".to_vec()]),
        hash_storage_key: Some(bits & 32 != 0),
        ..Options::default()
    }
}

fn check(input: &mut Unstructured) -> Result<()> {
    let (bits, size) = (u8::arbitrary(input)?, u16::arbitrary(input)?);
    let mut configuration = session::init(options(bits), None, random).unwrap();
    configuration.stored = bits & 64 != 0;
    let mut world = World { configuration: Rc::new(configuration), records: BTreeMap::new(), cookies: Vec::new() };
    // What deflates well, and what does not.
    let filling: String = input.bytes(2)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let payloads = ["ada", "eve"].map(|name| {
        let data = filling.repeat(usize::from(size % 16_384) / filling.len());
        format!(r#"[[{{"data":"{data}"}},"default","{name}"]]"#).into_bytes()
    });
    let mut saved = Vec::new();
    for payload in &payloads {
        world.cookies.clear();
        if world.save(payload).is_err() {
            // Nine cookies do not hold it.
            assert!(!world.configuration.stored);
            return Ok(());
        }
        assert!(world.open().is_ok_and(|session| session.payload == *payload), "it does not open as it was saved");
        saved.push(world.cookies.clone());
    }
    world.cookies = saved.join(&b"; "[..]);
    world.change(input)?;
    if let Ok(session) = world.open() {
        let payload = session.payload.as_slice();
        assert!(payloads.iter().any(|saved| saved == payload), "it opens as it was never saved");
    }
    Ok(())
}

impl World {
    fn save(&mut self, payload: &[u8]) -> std::result::Result<(), session::Error> {
        let mut own = Session::new(&self.configuration);
        (own.payload, own.index) = (payload.into(), Some(0));
        own.info = self.configuration.stored.then(|| br#"{"default":{"a":1}}"#.to_vec());
        own.remember = true;
        let (saved, result) = self.act(async move |context: &Context| {
            let result = own.save(context).await;
            (own, result)
        });
        let pairs = saved.lines.iter().map(|line| line.split(';').next().unwrap().to_owned());
        self.cookies = pairs.filter(|pair| !pair.ends_with('=')).collect::<Vec<_>>().join("; ").into_bytes();
        result
    }

    fn open(&mut self) -> std::result::Result<Session, session::Error> {
        let mut own = Session::new(&self.configuration);
        let (opened, outcome) = self.act(async move |context: &Context| {
            let outcome = session::open(context, &mut own).await;
            (own, outcome)
        });
        outcome.result.map(|()| opened)
    }

    fn act<T: 'static>(&mut self, act: impl AsyncFnOnce(&Context) -> T + 'static) -> T {
        let (configuration, cookies) = (self.configuration.clone(), self.cookies.clone());
        let mut task = Task::new(|environment| async move {
            let now = Timestamp::from_secs(NOW);
            let context = Context { configuration, environment, cookies, unsendable: None, now, random };
            act(&context).await
        });
        let mut step = task.start();
        loop {
            step = match step {
                Step::Done(result) => return result,
                Step::Needs(need) => task.resume(self.supply(need)),
                Step::Over => panic!("nothing to go on with"),
            };
        }
    }

    fn supply(&mut self, need: Need) -> Supply {
        match need {
            Need::Binding => Supply::Binding(Binding { remote_addr: b"192.0.2.1".to_vec(), ..Binding::default() }),
            Need::Derive(derivation) => Supply::Key(Ok(Box::new(derivation.derive()))),
            Need::Storage(request) | Need::Revocation(request) => Supply::Storage(self.perform(request)),
        }
    }

    fn perform(&mut self, request: Request) -> std::result::Result<Reply, storage::Error> {
        Ok(match request {
            Request::Get(get) => {
                self.records.get(&format!("{}:{}", get.name, get.key)).cloned().map_or(Reply::Absent, Reply::Record)
            }
            Request::Set(set) => {
                self.records.insert(format!("{}:{}", set.name, set.key), set.value);
                Reply::Done
            }
            _ => Reply::Done,
        })
    }

    /// Changes the cookies and the records as the input says.
    fn change(&mut self, input: &mut Unstructured) -> Result<()> {
        for _ in 0..input.int_in_range(1..=6)? {
            let (kind, at, byte) = (input.int_in_range(0..=7)?, u16::arbitrary(input)? as usize, u8::arbitrary(input)?);
            match kind {
                0..=5 => change_bytes(&mut self.cookies, (kind, at, byte)),
                6 => {
                    // The record of one session becomes another's.
                    let values: Vec<Vec<u8>> = self.records.values().cloned().collect();
                    let count = values.len().max(1);
                    if let Some(record) = self.records.values_mut().nth(at % count) {
                        record.clone_from(&values[usize::from(byte) % count]);
                    }
                }
                _ => {
                    let count = self.records.len().max(1);
                    if let Some(record) = self.records.values_mut().nth(usize::from(byte) % count) {
                        change_bytes(record, (input.int_in_range(0..=3)?, at, byte));
                    }
                }
            }
        }
        Ok(())
    }
}

fn change_bytes(bytes: &mut Vec<u8>, (kind, at, byte): (u8, usize, u8)) {
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    match kind {
        0 => bytes[at] = byte,
        1 => bytes[at] ^= 1 << (byte % 8),
        2 => bytes.insert(at, byte),
        3 => drop(bytes.remove(at)),
        // Pairs change their order, or one goes.
        4 | 5 => {
            let mut pairs = obvious::split(bytes, b';');
            let (one, other) = (at % pairs.len(), usize::from(byte) % pairs.len());
            match kind {
                4 => pairs.swap(one, other),
                _ => drop(pairs.remove(one)),
            }
            *bytes = pairs.join(&b';');
        }
        _ => {}
    }
}
