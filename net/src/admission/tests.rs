//! Whole turns with invented costs.

use proptest::prelude::*;

use super::*;

const HELLO: Duration = Duration::from_micros(100);
const FINISH: Duration = Duration::from_micros(30);
const ACCEPT: Duration = Duration::from_micros(8);
const ESTABLISHED: Duration = Duration::from_micros(2);

fn usual_cost(step: Next) -> Duration {
    match step {
        Next::Established => ESTABLISHED,
        Next::Finish => FINISH,
        Next::Hello => HELLO,
        Next::Accept | Next::AcceptPlain => ACCEPT,
        Next::Nothing => Duration::ZERO,
    }
}

/// What a step changes, with nobody coming.
fn done(admission: &mut Admission, waiting: &mut Waiting, step: Next) {
    match step {
        Next::Established => waiting.established -= 1,
        Next::Finish => waiting.finishing -= 1,
        Next::Hello => {
            waiting.hellos -= 1;
            admission.begun();
        }
        Next::Accept | Next::AcceptPlain | Next::Nothing => {}
    }
}

/// One turn at the usual costs.
fn turn(admission: &mut Admission, waiting: &mut Waiting) -> Vec<Next> {
    admission.begin_turn(*waiting);
    let mut steps = Vec::new();
    loop {
        let step = admission.next(*waiting);
        if step == Next::Nothing {
            return steps;
        }
        done(admission, waiting, step);
        admission.spent(step, usual_cost(step));
        steps.push(step);
    }
}

#[test]
fn the_connected_come_first_then_what_has_begun_then_the_new() {
    let mut admission = Admission::new(1000);
    let mut waiting = Waiting { established: 2, finishing: 2, hellos: 2, ..Waiting::default() };
    use Next::{Established, Finish, Hello};
    let first = turn(&mut admission, &mut waiting);
    assert_eq!(first, [Established, Established, Finish, Finish]);
    assert_eq!(turn(&mut admission, &mut waiting), [Hello], "the first of its turn or not at all");
    assert_eq!(turn(&mut admission, &mut waiting), [Hello]);
    assert_eq!(waiting, Waiting::default());
    assert!(!admission.has_work(waiting));
}

#[test]
fn nobody_is_accepted_for_a_handshake_while_one_waits_to_be_begun() {
    let mut admission = Admission::new(1000);
    let mut waiting = Waiting { hellos: 1, accepts: true, ..Waiting::default() };
    assert_eq!(turn(&mut admission, &mut waiting), [Next::Hello]);
    let accepts = turn(&mut admission, &mut waiting);
    assert_eq!(accepts, [Next::Accept; 7], "until 50 µs are spent at 8 µs each");
}

#[test]
fn at_the_cap_nothing_is_begun_and_nobody_spins() {
    let mut admission = Admission::new(3);
    let mut waiting = Waiting { hellos: 10, accepts: true, ..Waiting::default() };
    for _ in 0..3 {
        assert_eq!(turn(&mut admission, &mut waiting), [Next::Hello]);
    }
    assert_eq!(turn(&mut admission, &mut waiting), []);
    assert!(!admission.has_work(waiting));
    assert!(!admission.has_work(Waiting { accepts: true, ..Waiting::default() }));
    admission.ended();
    assert!(admission.has_work(waiting));
    assert_eq!(turn(&mut admission, &mut waiting), [Next::Hello]);
}

#[test]
fn handshakes_at_their_cap_keep_nobody_out_who_needs_none() {
    let mut admission = Admission::new(0);
    let mut waiting =
        Waiting { hellos: 5, accepts: true, plain_accepts: true, ..Waiting::default() };
    assert!(admission.has_work(waiting));
    assert_eq!(turn(&mut admission, &mut waiting)[0], Next::AcceptPlain);
}

/// What the new get of 10 seconds if there is always more than can be done on both sides: so many of a
/// kind wait, and a handshake takes so long to begin.
fn share_of_new(kinds: Waiting, hello: Duration) -> f64 {
    let mut admission = Admission::new(usize::MAX);
    let (mut established, mut new) = (Duration::ZERO, Duration::ZERO);
    while established + new < Duration::from_secs(10) {
        let waiting = Waiting { established: 5000, ..kinds };
        admission.begin_turn(waiting);
        // The turn may be cut at any point.
        for _ in 0..100 {
            let step = admission.next(waiting);
            let cost = if step == Next::Hello { hello } else { usual_cost(step) };
            admission.spent(step, cost);
            match step {
                Next::Nothing => break,
                Next::Established => established += cost,
                _ => new += cost,
            }
        }
    }
    new.as_secs_f64() / (established + new).as_secs_f64()
}

#[test]
fn under_overload_from_both_sides_each_has_its_share() {
    let everything = Waiting { finishing: 5000, hellos: 5000, ..Waiting::default() };
    let share = share_of_new(everything, HELLO);
    assert!((0.08..0.13).contains(&share), "the new have {share}");
}

/// One that takes most of the time of the new is not followed by another in its turn, and that must
/// not make the new be owed theirs for ever.
#[test]
fn handshakes_have_no_more_than_their_share_however_fast_they_are() {
    let hellos = Waiting { hellos: 5000, ..Waiting::default() };
    for micros in [1, 20, 50, 90, 99, 100, 101, 500] {
        let share = share_of_new(hellos, Duration::from_micros(micros));
        let in_a_turn = (micros * (50 / micros).max(1)) as f64;
        let fair = in_a_turn / (500.0 + in_a_turn);
        assert!((0.9..1.05).contains(&(share / fair)), "{share} at {micros} µs");
    }
}

/// Steps of a few kinds, with what each of them costs in microseconds, and who comes meanwhile.
#[derive(Debug, Clone)]
struct Load {
    established: usize,
    finishing: usize,
    hellos: usize,
    accepts: bool,
    plain_accepts: bool,
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    let few = || prop_oneof![3 => Just(0usize), 2 => 1..5usize, 1 => 100..300usize];
    let load = (few(), few(), few(), any::<bool>(), any::<bool>()).prop_map(
        |(established, finishing, hellos, accepts, plain_accepts)| Load {
            established,
            finishing,
            hellos,
            accepts,
            plain_accepts,
        },
    );
    proptest::collection::vec(load, 1..60)
}

proptest! {
    /// Whatever comes and whatever it costs: in a turn the new get their time and at most one step
    /// more, all who were connected at its beginning are read or are owed to be first in the next, and
    /// the connected never have more than their time and one step while somebody new can be helped.
    #[test]
    fn shares_hold_whatever_comes(
        loads in loads(),
        costs in proptest::collection::vec(1u64..3000, 1..50),
        cut in 1usize..500,
    ) {
        let step_max = Duration::from_micros(3000);
        let mut admission = Admission::new(50);
        let mut waiting = Waiting::default();
        let mut cost = costs.iter().cycle();
        let mut since_new = Duration::ZERO;
        for load in loads {
            waiting.established += load.established;
            waiting.finishing += load.finishing;
            waiting.hellos += load.hellos;
            waiting.accepts = load.accepts;
            waiting.plain_accepts = load.plain_accepts;
            admission.begin_turn(waiting);
            let mut new = Duration::ZERO;
            for _ in 0..cut {
                let could = admission.next_new(waiting) != Next::Nothing;
                let step = admission.next(waiting);
                if step == Next::Nothing {
                    let begins = !new.is_zero() && admission.next_new(waiting) == Next::Hello;
                    prop_assert!(new >= NEW_PER_TURN || begins || waiting.established == 0);
                    break;
                }
                done(&mut admission, &mut waiting, step);
                if step == Next::Finish && admission.in_flight() > 0 {
                    admission.ended();
                }
                let time = Duration::from_micros(*cost.next().expect("it cycles"));
                admission.spent(step, time);
                match step {
                    Next::Established => {
                        since_new = if could { since_new + time } else { Duration::ZERO };
                    }
                    _ => {
                        new += time;
                        since_new = Duration::ZERO;
                    }
                }
                prop_assert!(new < NEW_PER_TURN + step_max);
                prop_assert!(since_new < ESTABLISHED_BEFORE_NEW + step_max);
                prop_assert!(admission.in_flight() <= 50);
            }
        }
    }

    /// When nobody comes any more, everybody is helped, in as many turns as their work takes.
    #[test]
    fn nobody_starves(established in 0usize..500, finishing in 0usize..500, hellos in 0usize..500) {
        let mut admission = Admission::new(usize::MAX);
        let mut waiting = Waiting { established, finishing, hellos, ..Waiting::default() };
        let work = FINISH * finishing as u32 + HELLO * hellos as u32;
        let turns_max = work.as_micros() / NEW_PER_TURN.as_micros() + 2;
        let mut turns = 0;
        while admission.has_work(waiting) {
            prop_assert!(!turn(&mut admission, &mut waiting).is_empty());
            turns += 1;
        }
        prop_assert_eq!(waiting, Waiting::default());
        prop_assert!(turns <= turns_max, "{} turns for {:?}", turns, work);
    }
}

/// Clients that send their CONNECT byte by byte are always there again.
#[test]
fn those_who_dribble_do_not_hold_up_a_handshake_for_long() {
    let mut admission = Admission::new(10);
    let waiting = Waiting { finishing: 1000, hellos: 1, ..Waiting::default() };
    let mut before = 0;
    loop {
        admission.begin_turn(waiting);
        loop {
            match admission.next(waiting) {
                Next::Hello => return assert_eq!(before, FINISHES_IN_A_ROW_MAX),
                Next::Nothing => break,
                step => {
                    before += 1;
                    assert!(before <= FINISHES_IN_A_ROW_MAX);
                    admission.spent(step, FINISH);
                }
            }
        }
    }
}

/// Clients that send their ClientHello byte by byte are always there again.
#[test]
fn those_who_dribble_their_first_bytes_keep_nobody_in_the_queue_of_the_kernel() {
    let mut admission = Admission::new(10);
    let waiting = Waiting { hellos: 1000, accepts: true, ..Waiting::default() };
    let mut before = 0;
    for _ in 0..1000 {
        admission.begin_turn(waiting);
        loop {
            match admission.next(waiting) {
                Next::Accept => return assert_eq!(before, HELLOS_IN_A_ROW_MAX),
                Next::Nothing => break,
                step => {
                    before += 1;
                    admission.spent(step, Duration::from_micros(5));
                }
            }
        }
    }
    panic!("nobody was accepted");
}
