//! Headers as proxies send them, and as they must not.

use proptest::prelude::*;

use super::v2::crc32c;
use super::*;
use crate::certificate::user::USER_BYTES_MAX;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const IPV4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x04, 0xd2, 0x07, 0x5b];

/// A header of version 2 with this body.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

fn part(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// A header with these parts behind IPv4 addresses.
fn with_parts(parts: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[IPV4, &parts.concat()].concat())
}

fn ssl(client: u8, verify: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    part(0x20, &[&[client], &verify.to_be_bytes()[..], &parts.concat()].concat())
}

#[track_caller]
fn read(header: &[u8]) -> Header {
    let with_more = [header, b"\x10\x0d\0\x04MQTT"].concat();
    let (read, length) = parse(&with_more).expect("it is good").expect("it is whole");
    assert_eq!(length, header.len());
    for cut in 0..header.len() {
        assert_eq!(parse(&header[..cut]), Ok(None), "cut at {cut}");
    }
    read
}

fn source(header: &[u8]) -> Option<String> {
    read(header).source.map(|address| address.to_string())
}

#[test]
fn a_line_of_version_1_says_where_a_client_comes_from() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 1234 1883\r\n", Some("192.0.2.7:1234")),
        ("PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n", Some("[2001:db8::7]:0")),
        ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Some("192.0.2.7:1")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f...f:ffff what ever\r\n", None),
    ] {
        assert_eq!(source(line.as_bytes()).as_deref(), expected, "{line}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!((longest.len(), source(longest.as_bytes())), (107, None));
}

#[test]
fn a_line_that_is_no_good_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234 1883\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234 1883 \r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 1234 1883\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 1234 1883\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1234 1883\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 1234 1883\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1234 1883\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1234 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +123 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 0123 1883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 1883\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1234 1883\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 1234 1883\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1234 1883\r\n",
        "PROXY \r\n",
        "PROXY TCP4 192.0.2.7\r\n198.51.100.1 1234 1883\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(ProxyFault::Malformed), "{line}");
    }
    assert_eq!(parse(b"PROXY UNKNOWN \xff\r\n"), Err(ProxyFault::Malformed));
    let endless = [b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat();
    assert_eq!(parse(&endless[..106]), Ok(None));
    assert_eq!(parse(&endless), Err(ProxyFault::TooLong));
}

#[test]
fn what_begins_like_no_header_is_refused_at_once() {
    for bytes in
        [&b"\x10"[..], b"GET", b"\x16\x03", b"PA", b"PROXX", b"\r\n\r\n\0\r\nQUIT\r", b"\0"]
    {
        assert_eq!(parse(bytes), Err(ProxyFault::NoHeader), "{bytes:?}");
    }
    assert_eq!(parse(b""), Ok(None));
}

#[test]
fn a_header_of_version_2_says_where_a_client_comes_from() {
    assert_eq!(source(&v2(0x21, 0x11, IPV4)).as_deref(), Some("192.0.2.7:1234"));
    let mut ipv6 = [0; 36];
    ipv6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    ipv6[15] = 7;
    ipv6[32..34].copy_from_slice(&[0x04, 0xd2]);
    assert_eq!(source(&v2(0x21, 0x21, &ipv6)).as_deref(), Some("[2001:db8::7]:1234"));
    assert_eq!(source(&v2(0x21, 0x31, &[0; 216])), None);
    assert_eq!(source(&v2(0x21, 0x00, b"whatever")), None);
    assert_eq!(source(&v2(0x20, 0x11, IPV4)), None, "the proxy speaks for itself");
    assert_eq!(source(&v2(0x20, 0x00, b"")), None);
}

#[test]
fn a_header_of_version_2_that_is_no_good_is_refused() {
    use ProxyFault::{Malformed, NotTcp, TooLong};
    let long = [SIGNATURE, &[0x21, 0x11, 0x10, 0x01]].concat();
    for (header, fault) in [
        (v2(0x11, 0x11, IPV4), Malformed),
        (v2(0x31, 0x11, IPV4), Malformed),
        (v2(0x22, 0x11, IPV4), Malformed),
        (v2(0x21, 0x11, &IPV4[..11]), Malformed),
        (v2(0x21, 0x11, &[]), Malformed),
        (v2(0x21, 0x21, IPV4), Malformed),
        (v2(0x21, 0x31, IPV4), Malformed),
        (v2(0x21, 0x41, IPV4), Malformed),
        (v2(0x21, 0x13, IPV4), Malformed),
        (v2(0x21, 0x12, IPV4), NotTcp),
        (v2(0x21, 0x22, IPV4), NotTcp),
        (v2(0x21, 0x32, IPV4), NotTcp),
        (long, TooLong),
        (with_parts(&[vec![0x05]]), Malformed),
        (with_parts(&[vec![0x05, 0, 2, 7]]), Malformed),
        (with_parts(&[part(0x02, b"a\0b")]), Malformed),
        (with_parts(&[part(0x02, b"a"), part(0x02, b"b")]), Malformed),
        (with_parts(&[part(0x03, &[1, 2, 3])]), Malformed),
        (with_parts(&[part(0x20, &[1, 0, 0, 0])]), Malformed),
        (with_parts(&[ssl(1, 0, &[vec![0x22, 0, 9, b'a']])]), Malformed),
        (with_parts(&[ssl(1, 0, &[]), ssl(7, 0, &[part(0x22, b"a")])]), Malformed),
    ] {
        assert_eq!(parse(&header), Err(fault), "{header:?}");
    }
    // It is told before all of it is there.
    assert_eq!(parse(&[SIGNATURE, &[0x11]].concat()), Err(Malformed));
    let longest = v2(0x21, 0x11, &[IPV4, &part(0x04, &[0; 4096 - 15])].concat());
    assert_eq!((longest.len(), source(&longest).is_some()), (HEADER_BYTES_MAX, true));
}

#[test]
fn a_verified_certificate_names_the_client() {
    let name = |client, verify| {
        let version = part(0x21, b"TLSv1.3");
        read(&with_parts(&[ssl(client, verify, &[version, part(0x22, b"device-1")])]))
            .user
            .map(|name| name.as_str().to_owned())
    };
    for (client, verify, expected) in [
        (0x07, 0, Some("device-1")),
        (0x03, 0, Some("device-1")),
        (0x05, 0, Some("device-1")),
        // Not verified, none shown, no TLS.
        (0x07, 1, None),
        (0x01, 0, None),
        (0x06, 0, None),
        (0x00, 0, None),
    ] {
        assert_eq!(name(client, verify).as_deref(), expected, "{client} {verify}");
    }
    let host = part(0x02, b"broker.example");
    let header = read(&with_parts(&[part(0x01, b"mqtt"), host, ssl(1, 0, &[])]));
    assert_eq!(
        header.authority.map(|it| it.as_str().to_owned()).as_deref(),
        Some("broker.example")
    );
    assert_eq!(header.user, None);
}

#[test]
fn a_name_with_tricks_is_refused() {
    let long = vec![b'a'; USER_BYTES_MAX + 1];
    for (parts, fault) in [
        (vec![part(0x22, b"admin\0x")], NameFault::Control),
        (vec![part(0x22, b"")], NameFault::Empty),
        (vec![part(0x22, b"\xff")], NameFault::NotText),
        (vec![part(0x22, &long)], NameFault::TooLong),
        (vec![part(0x22, b"a"), part(0x22, b"b")], NameFault::Several),
    ] {
        let header = with_parts(&[ssl(0x07, 0, &parts)]);
        assert_eq!(parse(&header), Err(ProxyFault::Name(fault)));
    }
}

#[test]
fn a_checksum_is_checked_if_there_is_one() {
    // RFC 3720 appendix B.4.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    assert_eq!(crc32c(0..32), 0x46dd_794e);
    let mut header = with_parts(&[part(0x04, b"x"), part(0x03, &[0; 4]), part(0x05, b"id")]);
    let sum = crc32c(header.iter().copied()).to_be_bytes();
    let at = 16 + 12 + 4 + 3;
    header[at..at + 4].copy_from_slice(&sum);
    assert!(source(&header).is_some());
    for changed in [18, at, header.len() - 1] {
        let mut header = header.clone();
        header[changed] ^= 1;
        assert_eq!(parse(&header), Err(ProxyFault::Checksum), "{changed}");
    }
}

#[test]
fn networks_are_bits_of_addresses() {
    let has = |network: &str, address: &str| {
        let trusted = vec![network.parse::<Network>().expect("good")];
        Proxies { trusted, name_users: false }.trusts(address.parse().expect("an address"))
    };
    assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
    assert!(has("10.1.2.3", "10.1.2.3") && !has("10.1.2.3", "10.1.2.2"));
    assert!(has("10.1.2.3/8", "10.9.9.9"), "the bits behind do not count");
    assert!(has("0.0.0.0/0", "192.0.2.1") && !has("0.0.0.0/0", "::1"));
    assert!(has("2001:db8::/32", "2001:db8:ffff::1") && !has("2001:db8::/32", "2001:db9::1"));
    assert!(has("::/0", "2001:db8::1") && has("10.0.0.0/8", "::ffff:10.0.0.1"));
    for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "host"] {
        assert_eq!(wrong.parse::<Network>(), Err(NetworkError), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_make_it_panic_and_no_header_is_longer_than_allowed(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", SIGNATURE]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let input = [start, &bytes].concat();
        if let Ok(Some((_, length))) = parse(&input) {
            prop_assert!(length <= input.len() && length <= HEADER_BYTES_MAX);
            // More bytes behind it change nothing.
            let longer = [&input[..], b"more"].concat();
            prop_assert_eq!(parse(&longer), parse(&input));
        }
    }

    #[test]
    fn changed_bytes_of_a_good_header_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        name in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let parts = [part(0x02, b"host"), part(0x03, &[0; 4]), ssl(7, 0, &[part(0x22, &name)])];
        let mut header = with_parts(&parts);
        for (at, byte) in changes {
            let at = at.index(header.len());
            header[at] = byte;
        }
        let whole = parse(&header);
        let cut = parse(&header[..cut.index(header.len() + 1)]);
        // A part of it says the same, or nothing yet, or shows the fault earlier.
        prop_assert!(cut == Ok(None) || cut == whole);
    }

    #[test]
    fn every_address_comes_out_as_it_went_in(source: SocketAddr, destination: u16) {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (source.ip(), source.port());
        let line = format!("PROXY {family} {ip} {ip} {port} {destination}\r\n");
        let expected = SocketAddr::new(ip.to_canonical(), port);
        let (header, _) = parse(line.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(header.source, Some(expected));
    }
}
