//! Each behaviour, before a server that sends back what it gets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::{Accept, Behaviour, Cut, Proxy, Silent, most_within};
use crate::server::wait_for;

const SOON: Duration = Duration::from_millis(100);

fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    port
}

fn proxy_with(change: impl FnOnce(&mut Behaviour)) -> Proxy {
    let proxy = Proxy::start(echo());
    proxy.set(change);
    proxy
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// What comes back of a text within [`SOON`], or the error.
fn say(mut stream: &TcpStream, text: &str) -> Result<String, ErrorKind> {
    let mut back = [0; 64];
    stream.write_all(text.as_bytes()).map_err(|error| error.kind())?;
    let size = stream.read(&mut back).map_err(|error| error.kind())?;
    Ok(String::from_utf8_lossy(&back[..size]).into_owned())
}

#[test]
fn it_passes_everything_on_and_counts() {
    let proxy = Proxy::start(echo());
    let streams = [connect(&proxy), connect(&proxy)];
    for stream in &streams {
        assert_eq!(say(stream, "hello").as_deref(), Ok("hello"));
    }
    assert_eq!((proxy.connections(), proxy.open(), proxy.most_in_a_second()), (2, 2, 2));
    drop(streams);
    wait_for("the connections' end", || proxy.open() == 0);
    proxy.forget();
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn the_most_in_a_second_is_found_anywhere() {
    let start = Instant::now();
    let moments: Vec<Instant> = [0, 900, 950, 1800, 1899, 3000].map(|ms| start + Duration::from_millis(ms)).into();
    assert_eq!(most_within(Duration::from_secs(1), &moments), 4);
    assert_eq!(most_within(Duration::from_secs(1), &[]), 0);
}

#[test]
fn new_connections_are_refused_cut_or_never_heard_of() {
    let proxy = Proxy::start(echo());
    let before = connect(&proxy);
    assert_eq!(say(&before, "on").as_deref(), Ok("on"));
    for _ in 0..2 {
        proxy.set(|now| now.accept = Accept::Refuse);
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(say(&before, "on").as_deref(), Ok("on"), "those that were open stay");
        proxy.pass();
        assert_eq!(say(&connect(&proxy), "again").as_deref(), Ok("again"));
    }
    for how in [Cut::Finished, Cut::Reset] {
        proxy.set(|now| now.accept = Accept::Cut(how));
        let read = connect(&proxy).read(&mut [0; 8]);
        match how {
            Cut::Finished => assert_eq!(read.unwrap(), 0),
            Cut::Reset => assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset),
        }
    }
    proxy.set(|now| now.accept = Accept::Hang);
    let hanging = connect(&proxy);
    assert_eq!(say(&hanging, "hello"), Err(ErrorKind::WouldBlock));
    proxy.pass();
    assert_eq!(say(&hanging, "hello"), Err(ErrorKind::WouldBlock));
    proxy.cut(Cut::Finished);
    assert_eq!((&hanging).read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn new_connections_may_have_to_wait() {
    let proxy = proxy_with(|now| now.accept = Accept::Wait);
    let address = (Ipv4Addr::LOCALHOST, proxy.port).into();
    let connect = |_| TcpStream::connect_timeout(&address, SOON);
    let streams: Vec<_> = (0..4).map(connect).collect();
    assert_eq!(streams.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(proxy.connections(), 0);
    proxy.pass();
    let first = streams[0].as_ref().unwrap();
    first.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(say(first, "hello").as_deref(), Ok("hello"));
}

#[test]
fn bytes_stop_and_go_on() {
    let proxy = Proxy::start(echo());
    let stream = connect(&proxy);
    assert_eq!(say(&stream, "a").as_deref(), Ok("a"));
    proxy.set(|now| now.stalled = true);
    assert_eq!(say(&stream, "b"), Err(ErrorKind::WouldBlock));
    let another = connect(&proxy);
    assert_eq!(say(&another, "c"), Err(ErrorKind::WouldBlock));
    proxy.pass();
    for (mut stream, expected) in [(&stream, b"b"), (&another, b"c")] {
        let mut back = [0];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, expected);
    }
}

#[test]
fn connections_are_forgotten() {
    let proxy = Proxy::start(echo());
    let stream = connect(&proxy);
    assert_eq!(say(&stream, "a").as_deref(), Ok("a"));
    proxy.forget_connections();
    assert_eq!(say(&stream, "b"), Err(ErrorKind::WouldBlock));
    assert_eq!(say(&connect(&proxy), "c").as_deref(), Ok("c"));
    proxy.pass();
    assert_eq!(say(&stream, "d"), Err(ErrorKind::WouldBlock));
}

#[test]
fn each_direction_may_be_delayed() {
    let proxy = proxy_with(|now| {
        now.to_server.delay = Duration::from_millis(20);
        now.to_client.delay = Duration::from_millis(40);
    });
    let stream = connect(&proxy);
    let start = Instant::now();
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hello"));
    assert!((60..95).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn a_connection_is_cut_after_some_bytes() {
    let proxy = Proxy::start(echo());
    let stream = connect(&proxy);
    assert_eq!(say(&stream, "before").as_deref(), Ok("before"));
    proxy.set(|now| now.to_client.cut_after = Some((8, Cut::Finished)));
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hello"));
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hel"));
    assert_eq!((&stream).read(&mut [0; 8]).unwrap(), 0);
    proxy.set(|now| {
        now.to_client.cut_after = None;
        now.to_server.cut_after = Some((0, Cut::Reset));
    });
    assert_eq!(say(&connect(&proxy), "hello"), Err(ErrorKind::ConnectionReset));
}

#[test]
fn bits_are_flipped_and_pieces_replaced() {
    let proxy = proxy_with(|now| now.to_server.flip_at = Some(6));
    let stream = connect(&proxy);
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hello"));
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hdllo"));
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hello"));
    proxy.set(|now| now.to_client.edit = Some(|piece| [piece, b"!"].concat()));
    assert_eq!(say(&stream, "hello").as_deref(), Ok("hello!"));
}

#[test]
fn idle_connections_are_finished() {
    let proxy = Proxy::start(echo());
    let stream = connect(&proxy);
    proxy.set(|now| now.idle = Some(Duration::from_millis(50)));
    for _ in 0..4 {
        assert_eq!(say(&stream, "hello").as_deref(), Ok("hello"));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((&stream).read(&mut [0; 8]).unwrap(), 0);
    wait_for("the connection's end", || proxy.open() == 0);
}

#[test]
fn all_connections_are_cut_or_some() {
    let proxy = Proxy::start(echo());
    let connect_all = || {
        let streams: Vec<TcpStream> = (0..4).map(|_| connect(&proxy)).collect();
        streams.iter().for_each(|stream| assert_eq!(say(stream, "a").as_deref(), Ok("a")));
        streams
    };
    let streams = connect_all();
    proxy.cut_every(Cut::Reset, 2);
    assert_eq!(say(&streams[1], "a").as_deref(), Ok("a"));
    assert_eq!((&streams[2]).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(streams);
    let streams = connect_all();
    proxy.cut(Cut::Finished);
    streams.iter().for_each(|mut stream| assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0));
}

#[test]
fn connections_of_a_server_that_is_gone_are_reset() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let proxy = Proxy::start(gone);
    assert_eq!(say(&connect(&proxy), "a"), Err(ErrorKind::ConnectionReset));
}

#[test]
fn silent_addresses_say_nothing() {
    for silent in [Silent::on(Ipv4Addr::LOCALHOST), Silent::on(Ipv6Addr::LOCALHOST)] {
        let connected = TcpStream::connect_timeout(&silent.address, 3 * SOON);
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::TimedOut, "{}", silent.address);
        // Another address with the same port is free.
        let other = if silent.address.is_ipv4() { Ipv6Addr::LOCALHOST.into() } else { "127.0.0.2".parse().unwrap() };
        TcpListener::bind(std::net::SocketAddr::new(other, silent.address.port())).unwrap();
    }
}
