//! Whether a whole open with a remember cookie tells something of other users' cookies.

use std::hint::black_box;
use std::rc::Rc;

use resty_session_core::cookie::Header;
use resty_session_core::session::effect::{Need, Step, Supply, Task};
use resty_session_core::session::{self, Configuration, Context, KnownMarks, Options, Session};
use resty_session_core::storage::Reply;
use resty_session_core::time::Timestamp;

use super::support::{World, options, use_sids};
use super::{is_constant, is_found, leaky, t, with_wrong_byte};

const NOW: u64 = 1_700_000_000;

/// A site with records and marks, where Ada is remembered, and has signed out elsewhere.
struct Site {
    world: World,
    /// Her remember cookie.
    ada: Header,
}

impl Site {
    fn new() -> Self {
        let options = Options { remember: Some(true), ..options("the secret of the benches") };
        let mut world = World::stored(options, NOW);
        let configuration = Rc::into_inner(world.configuration).unwrap();
        world.configuration = Rc::new(configuration.with_revocation(Some(KnownMarks::default())).unwrap());
        world.has_marks = true;
        let ada = sign_in(&mut world, 0);
        let (cookies, records) = (world.cookies.clone(), world.memory.records.clone());
        assert!(world.destroy().result.is_ok());
        (world.cookies, world.memory.records) = (cookies, records);
        assert_eq!(world.open_error().as_deref(), Some("session revoked"), "the marks are known");
        Self { world, ada }
    }

    /// The remember cookie of somebody whose id has all but the last of its 32 bytes in common with
    /// Ada's. Its record is not there any more.
    fn near(&mut self) -> Header {
        sign_in(&mut self.world, 16)
    }

    /// The same with an id that has nothing in common with hers.
    fn far(&mut self) -> Header {
        sign_in(&mut self.world, 255)
    }
}

/// Remembers a user with an id that is given, but for its last byte, which is `first` or little
/// more; at random if that is 255.
fn sign_in(world: &mut World, first: u8) -> Header {
    let sids = (first..255).take(8).map(|last| {
        let mut sid = [9; 32];
        sid[31] = last;
        sid
    });
    use_sids(sids);
    world.cookies.clear();
    world.sign_in(r#"[[{"n":1},"default","ada"]]"#);
    use_sids([]);
    Header::decode(world.cookies["remember"].as_bytes()).unwrap()
}

/// The request's Cookie header, and the id in it.
fn request(header: &Header) -> (Vec<u8>, Vec<u8>) {
    (format!("remember={}", header.encode()).into_bytes(), header.sid().to_vec())
}

/// Opens the session of a request whose record does not exist. Returns how many things the act
/// needed from outside.
fn open(configuration: &Rc<Configuration>, cookies: &[u8]) -> usize {
    let mut task = Task::new(|environment| {
        let context = Context {
            configuration: configuration.clone(),
            environment,
            cookies: cookies.to_vec(),
            unsendable: None,
            now: Timestamp::from_secs(NOW),
            random: getrandom::fill,
        };
        async move {
            let mut session = Session::new(&context.configuration);
            session::open(&context, &mut session).await.result.is_ok()
        }
    });
    let (mut step, mut needs) = (task.start(), 0);
    while let Step::Needs(need) = step {
        needs += 1;
        step = match need {
            Need::Storage(_) | Need::Revocation(_) => task.resume(Supply::Storage(Ok(Reply::Absent))),
            need => panic!("an open needs no {need:?}"),
        };
    }
    assert!(matches!(step, Step::Done(false)), "the session opens");
    needs
}

/// Returns whether it holds.
pub fn check() -> bool {
    let mut site = Site::new();
    let (near, far) = (site.near(), site.far());
    assert_eq!(near.sid()[..31], site.ada.sid()[..31]);
    let configuration = site.world.configuration.clone();
    let forged = |header: &Header| request(&with_wrong_byte(header, 3));
    let refuse = |(cookies, _): &(Vec<u8>, Vec<u8>)| assert_eq!(open(&configuration, cookies), 0, "looked up");
    let miss = |(cookies, _): &(Vec<u8>, Vec<u8>)| assert!(black_box(open(&configuration, cookies)) > 0);
    let mut holds = true;
    let of_ada = [forged(&site.ada), forged(&far)];
    holds &= is_constant("a forged remember cookie has a user's id, or nobody's", t(&of_ada, refuse));
    let like_hers = [forged(&near), forged(&far)];
    holds &= is_constant("its id has 31 bytes of a user's, or none", t(&like_hers, refuse));
    let authentic = [request(&near), request(&far)];
    holds &= is_constant("the same for an authentic one without a record", t(&authentic, miss));
    let known = site.ada.sid().to_vec();
    let control = t(&of_ada, |input| {
        refuse(input);
        black_box(leaky(&input.1, &known));
    });
    holds & is_found("the control, which compares with known ids before it refuses", control)
}
