//! The core without nginx: sealing, opening and touching payloads of several sizes.
#![allow(clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use resty_session_core::cookie::compression::MAX_INFLATED_SIZE;
use resty_session_core::cookie::seal::{self, Binding, Seal};
use resty_session_core::cookie::{Flags, Header, Key, RememberSafety};
use resty_session_core::time::{Seconds, Timestamp};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const SIZES: [usize; 4] = [100, 1 << 10, 4 << 10, 16 << 10];

/// JSON of about `size` bytes that hardly compresses, as tokens do.
fn payload(size: usize) -> Vec<u8> {
    let token: String = (0..size).map(|at| char::from(b'a' + (at * at * 31 % 26) as u8)).collect();
    format!(r#"[[{{"token":"{}"}},"default","ada"]]"#, &token[..size - 32]).into_bytes()
}

fn sealed(key: &Key, payload: &[u8]) -> (Header, String) {
    let seal = Seal {
        key,
        sid: [7; 32],
        encryption: key.encryption(&[7; 32], RememberSafety::None),
        flags: Flags::default(),
        creation_time: NOW,
        rolling_offset: Seconds::ZERO,
        compression_threshold: 0,
        binding: &Binding::default(),
    };
    let sealed = seal.seal(payload).unwrap();
    (sealed.header, sealed.payload)
}

fn core(criterion: &mut Criterion) {
    let key = Key::from_secret(b"bench");
    let keys = [key.clone()];
    for (name, run) in [("seal", 0), ("open", 1), ("touch", 2)] {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            let payload = payload(size);
            let (header, ciphertext) = sealed(&key, &payload);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &payload, |bencher, payload| match run {
                0 => bencher.iter(|| sealed(&key, payload)),
                1 => bencher.iter(|| {
                    seal::verify(&header, &keys, &Binding::default()).unwrap();
                    let ciphertext = seal::decode(&header, ciphertext.as_bytes(), MAX_INFLATED_SIZE).unwrap();
                    seal::open(
                        &header,
                        &key.encryption(header.sid(), RememberSafety::None),
                        ciphertext,
                        MAX_INFLATED_SIZE,
                    )
                    .unwrap()
                }),
                _ => bencher.iter(|| seal::touch(&header, &key, &Binding::default(), Seconds::from_secs(60)).encode()),
            });
        }
        group.finish();
    }
}

criterion_group!(benches, core);
criterion_main!(benches);
