//! Buckets with invented time.

use std::net::Ipv6Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn other(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
}

#[test]
fn a_burst_is_let_in_and_then_the_rate() {
    let buckets = Buckets::new(Rate { per_s: 10, burst: 3 });
    let admitted = |now_ms| (0..20).filter(|_| buckets.admit(ADDRESS, now_ms)).count();
    assert_eq!(admitted(5_000), 3);
    assert_eq!(admitted(5_099), 0);
    assert_eq!(admitted(5_100), 1);
    assert_eq!(admitted(5_400), 3);
    assert_eq!(admitted(1_000_000), 3);
    assert!(buckets.admit(other(1), 5_000), "another address has its own");
}

#[test]
fn a_site_is_one_source_whatever_addresses_it_takes() {
    let buckets = Buckets::new(Rate { per_s: 1, burst: 2 });
    let of = |site: u16, host: u16| {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, site, host, host, host, host))
    };
    assert_eq!((0..9).filter(|host| buckets.admit(of(1, *host), 0)).count(), 2);
    assert!(buckets.admit(of(2, 0), 0));
    // IPv4 in the form of IPv6 is IPv4.
    let mapped = |n: u8| IpAddr::V6(Ipv4Addr::new(192, 0, 2, n).to_ipv6_mapped());
    assert_eq!((0..9).filter(|n| buckets.admit(mapped(*n), 0)).count(), 9);
    assert!(buckets.admit(Ipv4Addr::new(192, 0, 2, 0).into(), 0));
    assert!(!buckets.admit(mapped(0), 0));
}

#[test]
fn memory_stays_and_nobody_new_is_refused_however_many_come() {
    let buckets = Buckets::with(Rate { per_s: 1, burst: 1 }, 64, RandomState::new());
    assert_eq!(buckets.entries.len(), 64);
    for n in 0..100_000 {
        assert!(buckets.admit(other(n), 0));
    }
}

/// Those who flood stay in the table: who would be full first is forgotten first.
#[test]
fn a_flood_is_not_forgotten_for_a_crowd() {
    let buckets = Buckets::with(Rate { per_s: 1, burst: 10 }, WAYS, RandomState::new());
    let mut flood = 0;
    for n in 0..1000 {
        flood += u32::from(buckets.admit(ADDRESS, 0));
        assert!(buckets.admit(other(n), 0));
    }
    assert_eq!(flood, 10);
}

#[test]
fn shards_that_ask_at_once_share_one_bucket() {
    const THREADS: u32 = 8;
    let buckets = Arc::new(Buckets::new(Rate { per_s: 1, burst: 1000 }));
    let asking: Vec<_> = (0..THREADS)
        .map(|_| {
            let buckets = Arc::clone(&buckets);
            std::thread::spawn(move || {
                (0..1000).map(|_| u32::from(buckets.admit(ADDRESS, 0))).sum::<u32>()
            })
        })
        .collect();
    let admitted: u32 = asking.into_iter().map(|it| it.join().expect("no panic")).sum();
    assert!((1000..=1000 + THREADS).contains(&admitted), "{admitted}");
}

fn rates() -> impl Strategy<Value = Rate> {
    (1u32..5000, 1u32..200).prop_map(|(per_s, burst)| Rate { per_s, burst })
}

proptest! {
    /// In no span of time more than the burst and what the rate gives in it.
    #[test]
    fn no_span_has_more_than_burst_and_rate(
        rate in rates(),
        pauses in proptest::collection::vec(prop_oneof![4 => Just(0u64), 2 => 0..5u64, 1 => 0..2000u64], 1..400),
    ) {
        let buckets = Buckets::new(rate);
        let mut now_ms = 0;
        let mut admitted = Vec::new();
        for pause in pauses {
            now_ms += pause;
            if buckets.admit(ADDRESS, now_ms) {
                admitted.push(now_ms);
            }
        }
        for (from, &begin) in admitted.iter().enumerate() {
            for (to, &end) in admitted.iter().enumerate().skip(from) {
                let given = u64::from(rate.burst) + (end - begin) * u64::from(rate.per_s) / 1000;
                let admitted = (to - from) as u64;
                prop_assert!(admitted < given + 1, "{rate:?}: {from} to {to}");
            }
        }
    }

    /// Who keeps to the rate is never refused, whatever it tried in between and whoever floods.
    #[test]
    fn who_keeps_to_the_rate_is_let_in(rate in rates(), tries in 1usize..300, crowd in 0u32..2000) {
        let buckets = Buckets::new(rate);
        let interval_ms = 1000u64.div_ceil(u64::from(rate.per_s));
        for n in 0..tries as u64 {
            prop_assert!(buckets.admit(ADDRESS, n * interval_ms));
            for m in 0..crowd / 100 {
                buckets.admit(other(m), n * interval_ms);
            }
        }
    }

    /// What is refused changes nothing.
    #[test]
    fn a_refusal_takes_no_token(rate in rates(), full_at_ns in 0u64..1 << 50, now_ns in 0u64..1 << 50) {
        match rate.take(full_at_ns, now_ns) {
            Some(after) => prop_assert!(after > now_ns && after >= full_at_ns),
            None => {
                let later = full_at_ns;
                prop_assert!(rate.take(full_at_ns, later).is_some());
            }
        }
    }
}
