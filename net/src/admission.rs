//! What a shard does next when more waits than it can do at once.
//!
//! A reconnect storm is more work than there is time for, so its order decides whether it ends. Those
//! who are connected come first and all of them; a handshake that has begun is finished before another
//! is begun, since half a handshake is work for nothing when its client loses patience; a new one is
//! begun before another connection is accepted, since the kernel's queue costs nobody anything. How
//! much of the new is done in one turn is bounded, so that the connected are looked at again soon.

/// Connections taken from the kernel in one turn, at most.
const ACCEPTS_PER_TURN_MAX: usize = 64;
/// Steps of handshakes and first packets in one turn, at most. Some 30 µs each.
const FINISHES_PER_TURN_MAX: usize = 64;
/// Handshakes begun in one turn, at most. Some 100 µs each.
const HELLOS_PER_TURN_MAX: usize = 8;

/// Decides by kind; who of a kind comes first is who came first.
#[derive(Debug)]
pub struct Admission {
    in_flight: usize,
    in_flight_max: usize,
    established_left: usize,
    finishing_left: usize,
    hellos_left: usize,
    accepts_left: usize,
}

/// How many of each kind wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Connections that have sent their CONNECT and can be read.
    pub established: usize,
    /// Connections on their way to it, whose handshake has begun or that need none.
    pub finishing: usize,
    /// Connections whose first bytes of a handshake are there.
    pub hellos: usize,
    /// There are connections to accept.
    pub accepts: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read a connection that is established.
    Established,
    /// Go on with a handshake or a first packet.
    Finish,
    /// Begin a handshake.
    Hello,
    /// Accept a connection.
    Accept,
    /// Nothing in this turn.
    Nothing,
}

impl Admission {
    /// With at most so many handshakes begun and not finished.
    #[must_use]
    pub const fn new(in_flight_max: usize) -> Self {
        Self {
            in_flight: 0,
            in_flight_max,
            established_left: 0,
            finishing_left: 0,
            hellos_left: 0,
            accepts_left: 0,
        }
    }

    /// A turn begins with these waiting. Who comes later belongs to the next.
    pub fn begin_turn(&mut self, waiting: Waiting) {
        self.established_left = waiting.established;
        self.finishing_left = waiting.finishing.min(FINISHES_PER_TURN_MAX);
        self.hellos_left = waiting.hellos.min(HELLOS_PER_TURN_MAX);
        self.accepts_left = ACCEPTS_PER_TURN_MAX;
    }

    /// What to do next in this turn.
    pub const fn next(&mut self, waiting: Waiting) -> Next {
        if self.established_left > 0 {
            self.established_left -= 1;
            return Next::Established;
        }
        if self.finishing_left > 0 {
            self.finishing_left -= 1;
            return Next::Finish;
        }
        if self.hellos_left > 0 && self.may_begin() {
            self.hellos_left -= 1;
            return Next::Hello;
        }
        if self.accepts_left > 0 && self.may_accept(waiting) {
            self.accepts_left -= 1;
            return Next::Accept;
        }
        Next::Nothing
    }

    /// True if there is something to do that no event will announce.
    #[must_use]
    pub const fn has_work(&self, waiting: Waiting) -> bool {
        waiting.established > 0
            || waiting.finishing > 0
            || (waiting.hellos > 0 && self.may_begin())
            || self.may_accept(waiting)
    }

    const fn may_begin(&self) -> bool {
        self.in_flight < self.in_flight_max
    }

    const fn may_accept(&self, waiting: Waiting) -> bool {
        waiting.accepts && waiting.hellos == 0 && self.may_begin()
    }

    /// A handshake has begun.
    pub const fn begun(&mut self) {
        self.in_flight += 1;
    }

    /// A handshake has ended, one way or the other.
    pub const fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Handshakes begun and not ended.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(admission: &mut Admission, mut waiting: Waiting) -> Vec<Next> {
        admission.begin_turn(waiting);
        let mut done = Vec::new();
        loop {
            let next = admission.next(waiting);
            match next {
                Next::Nothing => return done,
                Next::Established => waiting.established -= 1,
                Next::Finish => waiting.finishing -= 1,
                Next::Hello => {
                    waiting.hellos -= 1;
                    admission.begun();
                }
                Next::Accept => {}
            }
            done.push(next);
        }
    }

    #[test]
    fn the_connected_come_first_then_what_has_begun_then_the_new() {
        let mut admission = Admission::new(1000);
        let waiting = Waiting { established: 2, finishing: 2, hellos: 2, accepts: true };
        let done = turn(&mut admission, waiting);
        let accepts = vec![Next::Accept; ACCEPTS_PER_TURN_MAX];
        let before = vec![
            Next::Established,
            Next::Established,
            Next::Finish,
            Next::Finish,
            Next::Hello,
            Next::Hello,
        ];
        assert_eq!(done, [before, accepts].concat());
    }

    #[test]
    fn a_turn_is_bounded_however_much_is_new() {
        let mut admission = Admission::new(usize::MAX);
        let many = Waiting { established: 3, finishing: 10_000, hellos: 10_000, accepts: true };
        let done = turn(&mut admission, many);
        let count = |what| done.iter().filter(|next| **next == what).count();
        assert_eq!(count(Next::Established), 3);
        assert_eq!(count(Next::Finish), FINISHES_PER_TURN_MAX);
        assert_eq!(count(Next::Hello), HELLOS_PER_TURN_MAX);
        assert_eq!(count(Next::Accept), 0, "a ClientHello waits");
        assert!(admission.has_work(many));
    }

    #[test]
    fn at_the_cap_nothing_new_is_begun_and_nobody_spins() {
        let mut admission = Admission::new(3);
        let hellos = Waiting { hellos: 10, accepts: true, ..Waiting::default() };
        assert_eq!(turn(&mut admission, hellos), [Next::Hello; 3]);
        assert_eq!(turn(&mut admission, hellos), []);
        assert!(!admission.has_work(hellos));
        assert!(!admission.has_work(Waiting { accepts: true, ..Waiting::default() }));
        admission.ended();
        assert!(admission.has_work(hellos));
        assert_eq!(turn(&mut admission, hellos), [Next::Hello]);
    }
}
