//! One round: two clients, one message.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_proto::{Qos, TopicFilter, TopicName};

use super::Plan;
use crate::client::{self, Connection, Event, Exchanges, Happening};
use crate::failure::Failure;
use crate::options::{self, Common};
use crate::step::{Failed, Step};

/// What a round took, step by step, and where it ended if it was not good.
#[derive(Debug, Clone, Default)]
pub struct Round {
    times: [Option<Duration>; Step::ALL.len()],
    /// The step that failed; those after it have no time.
    pub failed: Option<Failed>,
}

impl Round {
    /// How long a step took; `None` if it did not come to its end.
    pub fn time(&self, step: Step) -> Option<Duration> {
        self.times[step as usize]
    }

    /// True if it ended by SIGINT or SIGTERM, which says nothing about the broker.
    pub fn was_interrupted(&self) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.failure == Failure::interrupted())
    }
}

/// A topic that nobody else has.
pub fn topic_of_its_own() -> Result<TopicName, Failure> {
    options::topic_name(&format!("petrelctl/probe/{}", options::random_word()?))
        .map_err(Failure::new)
}

/// Does one round, which ends within its time.
pub fn run(plan: &Plan) -> Round {
    let mut round = Round::default();
    round.failed = attempt(plan, &mut round).err();
    round
}

fn attempt(plan: &Plan, round: &mut Round) -> Result<(), Failed> {
    let deadline = Instant::now() + plan.timeout;
    let mut times = Times { round, began: Instant::now() };
    let mut subscriber = connect(&plan.subscriber, deadline)?;
    times.ends(Step::Connect);
    // A topic name is a filter that matches itself alone.
    let filter = TopicFilter::new(plan.topic.text().clone())
        .map_err(|error| Step::Subscribe.failed()(Failure::new(error.what)))?;
    client::subscribe(&mut subscriber, filter, plan.qos, deadline)
        .map_err(Step::Subscribe.failed())?;
    times.ends(Step::Subscribe);
    let publisher = connect(&plan.publisher, deadline)?;
    times.ends(Step::Connect);
    let mut exchange = Exchange {
        publisher,
        subscriber,
        published: Exchanges::default(),
        received: Exchanges::default(),
        payload: options::random_word().map_err(Step::Publish.failed())?.into(),
        is_back: false,
    };
    exchange.go_on(plan, deadline, &mut times)?;
    let Exchange { publisher, subscriber, .. } = exchange;
    // The message is back, so a broker that does not let go in good order is no failure of it.
    let _ = publisher.disconnect(&plan.publisher);
    let _ = subscriber.disconnect(&plan.subscriber);
    Ok(())
}

/// What is measured from one step to the next.
struct Times<'r> {
    round: &'r mut Round,
    began: Instant,
}

impl Times<'_> {
    /// The step is done, and the next begins. Of two connections the one that took longer counts.
    fn ends(&mut self, step: Step) {
        let took = self.began.elapsed();
        let time = &mut self.round.times[step as usize];
        *time = (*time).max(Some(took));
        self.began = Instant::now();
    }

    /// The same for steps that began together.
    fn ends_beside(&mut self, step: Step) {
        self.round.times[step as usize] = Some(self.began.elapsed());
    }
}

fn connect(options: &Common, deadline: Instant) -> Result<Connection, Failed> {
    let left = deadline.saturating_duration_since(Instant::now());
    let options = Common { time_limit: Some(left), ..options.clone() };
    Connection::open(&options).map_err(Step::Connect.failed())
}

/// A message on its way.
struct Exchange {
    publisher: Connection,
    subscriber: Connection,
    published: Exchanges,
    received: Exchanges,
    payload: Bytes,
    is_back: bool,
}

impl Exchange {
    fn go_on(
        &mut self,
        plan: &Plan,
        deadline: Instant,
        times: &mut Times<'_>,
    ) -> Result<(), Failed> {
        let [publish, round_trip] = [Step::Publish, Step::RoundTrip];
        times.began = Instant::now();
        self.published
            .publish(&mut self.publisher, &plan.topic, plan.qos, self.payload.clone())
            .map_err(publish.failed())?;
        loop {
            while let Some(packet) = self.publisher.arrived().map_err(publish.failed())? {
                let event = self.published.on_packet(&mut self.publisher, packet);
                if matches!(event.map_err(publish.failed())?, Event::Accepted) {
                    times.ends_beside(publish);
                }
            }
            while let Some(packet) = self.subscriber.arrived().map_err(round_trip.failed())? {
                let event = self.received.on_packet(&mut self.subscriber, packet);
                if let Event::Message(message) = event.map_err(round_trip.failed())?
                    && message.payload == self.payload
                {
                    times.ends_beside(round_trip);
                    self.is_back = true;
                }
            }
            if self.is_back && self.published.is_at_rest() && self.received.is_at_rest() {
                return Ok(());
            }
            if self.has_heard(deadline)? {
                return Err(self.too_late(plan));
            }
        }
    }

    /// Sends what is queued and waits until one of the two has heard something; true if the time is up.
    fn has_heard(&mut self, deadline: Instant) -> Result<bool, Failed> {
        let (publisher, subscriber) = (&mut self.publisher, &mut self.subscriber);
        let mut happened =
            subscriber.wait(Some(Instant::now()), None).map_err(Step::RoundTrip.failed())?;
        if happened == Happening::Deadline {
            happened = publisher
                .wait(Some(deadline), Some(subscriber.as_fd()))
                .map_err(Step::Publish.failed())?;
        } else if happened != Happening::Interrupted {
            return Ok(deadline <= Instant::now());
        }
        match happened {
            Happening::Interrupted => Err(Step::RoundTrip.failed()(Failure::interrupted())),
            Happening::Deadline => Ok(true),
            Happening::Received | Happening::Written | Happening::Input => {
                Ok(deadline <= Instant::now())
            }
        }
    }

    fn too_late(&self, plan: &Plan) -> Failed {
        let seconds = plan.timeout.as_secs_f64();
        let (step, what) = match (self.published.in_flight(), self.is_back) {
            (0, false) => (Step::RoundTrip, "the message did not come back"),
            (0, true) => (Step::RoundTrip, "the broker did not end the delivery"),
            _ => (Step::Publish, "the broker did not acknowledge the message"),
        };
        let mut text = format!("{what} within {seconds} s");
        if step == Step::RoundTrip && !self.is_back && plan.qos == Qos::AtMostOnce {
            text += "; at QoS 0 a broker says nothing of what it does not let through";
        }
        step.failed()(Failure::new(text))
    }
}
