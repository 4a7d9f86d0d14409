//! Storms larger than the machine: the broker's policy brings everybody back, naive ones do not.

use petrel_sim::storm::{Policy, Report, Setting, Tally, account, simulate};

const JOBS: usize = 2;

/// A shard's part of a million clients on 16 cores: two such shards.
fn million(patience_s: u64, policy: Policy) -> Setting {
    Setting::new(125_000, patience_s * 1_000, 2, policy)
}

/// A shard's part of ten million clients on 16 cores.
fn ten_million(patience_s: u64, policy: Policy) -> Setting {
    Setting::new(625_000, patience_s * 1_000, 1, policy)
}

fn of_ideal(setting: Setting, tally: &Tally) -> f64 {
    let back_s = tally.back_after_s(1.0).unwrap_or(f64::INFINITY);
    back_s / setting.ideal_s()
}

fn of_ideal_of(setting: Setting) -> f64 {
    of_ideal(setting, &account(&setting, JOBS))
}

#[test]
fn a_million_come_back_whatever_their_patience() {
    for patience_s in [5, 10, 30] {
        let setting = million(patience_s, Policy::Broker);
        let tally = account(&setting, JOBS);
        assert_eq!(tally.back, setting.clients, "{patience_s} s: all are back");
        let ratio = of_ideal(setting, &tally);
        assert!(ratio <= 1.25, "{patience_s} s: {ratio:.2} of the ideal");
        let wasted = tally.wasted(&setting.costs);
        assert!(wasted <= 0.10, "{patience_s} s: {wasted:.3} in vain");
    }
}

#[test]
fn ten_million_come_back_whatever_their_patience() {
    // What is missing to 1.25 for the impatient are the SYNs that the kernel has to refuse.
    for (patience_s, ratio_max) in [(5, 1.35), (10, 1.3), (30, 1.3)] {
        let setting = ten_million(patience_s, Policy::Broker);
        let tally = account(&setting, JOBS);
        assert_eq!(tally.back, setting.clients, "{patience_s} s: all are back");
        let ratio = of_ideal(setting, &tally);
        assert!(ratio <= ratio_max, "{patience_s} s: {ratio:.2} of the ideal");
        let costs = setting.costs;
        let refused_ns = tally.syns_refused * costs.refuse;
        let wasted = (tally.wasted_ns(&costs) - refused_ns) as f64 / tally.connecting_ns as f64;
        assert!(wasted <= 0.10, "{patience_s} s: {wasted:.3} of the work was for nobody");
    }
}

/// Share of the peak that is left at ten times the load, as long as that lasts.
fn goodput(policy: Policy, patience_s: u64, refuse_ns: u64) -> f64 {
    let mut setting = Setting::new(1_000, patience_s * 1_000, 1, policy);
    setting.costs.refuse = refuse_ns;
    simulate(&setting, 1).goodput()
}

#[test]
fn goodput_holds_at_ten_times_the_load() {
    for patience_s in [5, 10] {
        // What the broker does of its own, with SYNs refused for nothing, and with their price.
        let own = goodput(Policy::Broker, patience_s, 0);
        assert!(own >= 0.90, "{patience_s} s: {own:.2} of the peak");
        let all = goodput(Policy::Broker, patience_s, 700);
        assert!(all >= 0.75, "{patience_s} s: {all:.2} of the peak");
    }
}

#[test]
fn a_queue_deeper_than_patience_costs_most_of_the_goodput() {
    let deep = goodput(Policy::DeepQueue, 5, 700);
    assert!(deep < 0.5, "{deep:.2} of the peak");
    let all_accepted = goodput(Policy::NewestFirst, 5, 700);
    assert!(all_accepted < 0.5, "{all_accepted:.2} of the peak");
}

#[test]
fn a_queue_deeper_than_patience_keeps_a_storm_alive_that_comes_gradually() {
    let gradual = |policy| Setting { spread_ms: 10_000, ..ten_million(5, policy) };
    let ratio = of_ideal_of(gradual(Policy::Broker));
    assert!(ratio <= 1.3, "{ratio:.2} of the ideal");
    assert!(of_ideal_of(gradual(Policy::DeepQueue)).is_infinite());
}

#[test]
fn a_long_way_needs_room_for_the_handshakes_on_it() {
    let far = Setting { rtt_us: 200_000, ..million(5, Policy::Broker) };
    let ratio = of_ideal_of(far);
    assert!(ratio <= 1.3, "{ratio:.2} of the ideal");
    let cramped = of_ideal_of(Setting { handshakes_max: 1_000, ..far });
    assert!(cramped > ratio + 0.2, "{cramped:.2} and {ratio:.2} of the ideal");
}

#[test]
fn to_know_who_is_about_to_go_would_hardly_help() {
    let known = of_ideal_of(million(5, Policy::Foresight));
    let unknown = of_ideal_of(million(5, Policy::Broker));
    assert!(unknown - known < 0.03, "{unknown:.3} and {known:.3} of the ideal");
}

#[test]
fn naive_policies_collapse_where_the_broker_does_not() {
    for policy in [Policy::Fifo, Policy::AcceptFirst, Policy::NoGoneCheck, Policy::FixedRate] {
        let tally = account(&ten_million(5, policy), JOBS);
        let back = tally.back as f64 / tally.clients as f64;
        assert!(back < 0.75, "{policy}: {back:.2} are back when five times the ideal is over");
        let wasted = tally.wasted(&Setting::new(1, 1, 1, policy).costs);
        assert!(wasted > 0.5, "{policy}: {wasted:.2} in vain");
    }
}

#[test]
fn every_attempt_ends_in_one_way() {
    for policy in Policy::ALL {
        for (clients, patience_ms, backlog) in [(20_000, 700, 500), (30_000, 5_000, 65_535)] {
            let setting = Setting::new(clients, patience_ms, 2, policy);
            let tally = account(&Setting { backlog, horizon_s: 12, ..setting }, JOBS);
            assert_eq!(tally.attempts, tally.ended(), "{policy}, {clients} clients: {tally:?}");
            assert_eq!(tally.clients, clients, "{policy}");
            let counted = tally.back * setting.costs.client() + tally.wasted_ns(&setting.costs);
            assert_eq!(counted, tally.connecting_ns, "{policy}: useful and in vain are all");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_storm_on_any_number_of_threads() {
    for policy in Policy::ALL {
        let setting = Setting { horizon_s: 10, ..Setting::new(40_000, 3_000, 3, policy) };
        assert_eq!(account(&setting, 1), account(&setting, 3), "{policy}");
    }
    let setting = Setting::new(40_000, 3_000, 3, Policy::Broker);
    let other = Setting { seed: 2, ..setting };
    assert_ne!(account(&setting, 1), account(&other, 1));
}

#[test]
fn a_report_is_a_line_for_people_and_an_object_for_machines() {
    let setting = Setting::new(2_000, 1_000, 1, Policy::Broker);
    let report: Report = simulate(&setting, 1);
    assert!(report.line().starts_with("broker"), "{}", report.line());
    let json = report.json();
    assert!(json.starts_with('{') && json.ends_with('}'), "{json}");
    assert!(json.contains("\"simulated_clients\":2000,"), "{json}");
}
