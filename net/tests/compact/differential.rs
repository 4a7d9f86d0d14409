//! Random conversations with rustls on the other side: whatever is said arrives, in both roles.

use bytes::BytesMut;
use petrel_net::tls::compact::CompactSession;
use proptest::prelude::*;
use rustls::Connection;

use crate::rig::{ROLES, SUITES, give_to, pair, take_from};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// We write so many bytes.
    Ours(usize),
    /// Rustls writes so many bytes.
    Theirs(usize),
    /// We change our key, and may ask rustls to do so too.
    OurUpdate(bool),
    /// Rustls changes its key and asks us to do so too.
    TheirUpdate,
    /// So many bytes that are under way reach us.
    ReachUs(usize),
    /// So many bytes that are under way reach rustls.
    ReachThem(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0..200usize, 1 => 16_000..17_000usize, 1 => 0..50_000usize];
    let some = prop_oneof![3 => 1..100usize, 1 => 1..40_000usize];
    prop_oneof![
        3 => size.clone().prop_map(Step::Ours),
        3 => size.prop_map(Step::Theirs),
        1 => any::<bool>().prop_map(Step::OurUpdate),
        1 => Just(Step::TheirUpdate),
        4 => some.clone().prop_map(Step::ReachUs),
        4 => some.prop_map(Step::ReachThem),
    ]
}

/// Both ends, what is under way, and what each side has said and heard.
struct Talk {
    ours: CompactSession,
    theirs: Connection,
    to_us: Vec<u8>,
    to_them: Vec<u8>,
    said_by_us: Vec<u8>,
    said_by_them: Vec<u8>,
    heard_by_us: BytesMut,
    heard_by_them: Vec<u8>,
    count: u8,
    /// Rustls has said that it is done.
    closed: bool,
}

impl Talk {
    fn new(role: usize, suite: usize, update_after_log2: u8) -> Self {
        let (mut ours, theirs) = pair(ROLES[role], SUITES[suite]);
        ours.set_update_after_log2(update_after_log2);
        Self {
            ours,
            theirs,
            to_us: Vec::new(),
            to_them: Vec::new(),
            said_by_us: Vec::new(),
            said_by_them: Vec::new(),
            heard_by_us: BytesMut::new(),
            heard_by_them: Vec::new(),
            count: 0,
            closed: false,
        }
    }

    fn words(&mut self, length: usize) -> Vec<u8> {
        self.count = self.count.wrapping_add(1);
        (0..length).map(|at| (at as u8).wrapping_mul(31) ^ self.count).collect()
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Ours(length) => {
                let words = self.words(length);
                self.ours.write(&words, &mut self.to_them).unwrap();
                self.said_by_us.extend(words);
            }
            Step::Theirs(length) => {
                let words = self.words(length);
                std::io::Write::write_all(&mut self.theirs.writer(), &words).unwrap();
                self.said_by_them.extend(words);
            }
            Step::OurUpdate(ask) => self.ours.update_keys(ask, &mut self.to_them).unwrap(),
            Step::TheirUpdate => self.theirs.refresh_traffic_keys().unwrap(),
            Step::ReachUs(count) => self.reach_us(count),
            Step::ReachThem(count) => self.reach_them(count),
        }
        take_from(&mut self.theirs, &mut self.to_us);
    }

    fn reach_us(&mut self, count: usize) {
        let mut part: Vec<u8> = self.to_us.drain(..count.min(self.to_us.len())).collect();
        let closed = self.ours.read(&mut part, &mut self.heard_by_us, &mut self.to_them).unwrap();
        assert_eq!(closed, self.closed);
    }

    fn reach_them(&mut self, count: usize) {
        let part: Vec<u8> = self.to_them.drain(..count.min(self.to_them.len())).collect();
        self.heard_by_them.extend(give_to(&mut self.theirs, &part).unwrap());
    }

    fn finish(&mut self) {
        while !self.to_us.is_empty() || !self.to_them.is_empty() {
            self.reach_us(usize::MAX);
            self.reach_them(usize::MAX);
            take_from(&mut self.theirs, &mut self.to_us);
        }
        assert_eq!(self.ours.tail_bytes(), 0);
        assert!(self.heard_by_us == self.said_by_them, "we heard something else");
        assert!(self.heard_by_them == self.said_by_us, "they heard something else");
    }

    fn close(&mut self, we_first: bool) {
        if we_first {
            self.ours.close_notify(&mut self.to_them);
            self.reach_them(usize::MAX);
            assert!(self.theirs.process_new_packets().unwrap().peer_has_closed());
        } else {
            self.theirs.send_close_notify();
            take_from(&mut self.theirs, &mut self.to_us);
            let mut plain = BytesMut::new();
            assert!(self.ours.read(&mut self.to_us, &mut plain, &mut self.to_them).unwrap());
            self.closed = true;
            // Our direction is still open.
            self.to_us.clear();
            self.run(&Step::Ours(10));
            self.finish();
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_said_arrives(
        role in 0..2usize,
        suite in 0..3usize,
        update_after_log2 in prop_oneof![Just(23u8), 2..6u8],
        steps in prop::collection::vec(step(), 1..60),
        we_first in any::<bool>(),
    ) {
        let mut talk = Talk::new(role, suite, update_after_log2);
        for step in &steps {
            talk.run(step);
        }
        talk.finish();
        talk.close(we_first);
    }

    #[test]
    fn a_changed_byte_is_told_to_rustls_and_nothing_of_its_record_is_heard(
        role in 0..2usize,
        suite in 0..3usize,
        at in any::<prop::sample::Index>(),
        change in 1..=255u8,
        split in any::<prop::sample::Index>(),
    ) {
        let (mut ours, mut theirs) = pair(ROLES[role], SUITES[suite]);
        let mut wire = crate::rig::says(&mut theirs, b"good");
        let second = wire.len();
        wire.extend(crate::rig::says(&mut theirs, &[7; 100]));
        let at = second + at.index(wire.len() - second);
        wire[at] ^= change;
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let (first, rest) = wire.split_at_mut(split.index(122));
        let result = ours.read(first, &mut plain, &mut out)
            .and_then(|_| ours.read(rest, &mut plain, &mut out));
        prop_assert_eq!(&plain[..], b"good");
        match result {
            // A length that grew: the rest is waited for.
            Ok(_) => prop_assert!(at - second == 3 || at - second == 4),
            Err(fault) => {
                let told = give_to(&mut theirs, &out);
                let alert = rustls::AlertDescription::from(fault.alert().unwrap());
                prop_assert_eq!(told, Err(rustls::Error::AlertReceived(alert)));
            }
        }
    }
}
