//! What the process tells a shard, and how its pump obeys.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use petrel_access::scram::ByListener;
use petrel_net::Protocol;
use petrel_proto::{Publish, ReasonCode, Text};
use petrel_shard::access::Rules;
use petrel_shard::{Input, Limits};

use super::drain::Drain;
use super::held::Why;
use super::rate::PublishRate;
use super::{BANNED_AGAIN_MS, LAST_PARCELS_MS_MAX, Pump};
use crate::guard::Target;
use crate::shards::{Look, View};
use crate::trace::Watch;

/// What the process tells a shard.
#[derive(Debug)]
pub enum Command {
    /// Publish the wills that the end of the broker sets free, and say when they are given away.
    LastWills(mpsc::Sender<()>),
    /// Take leave of everybody and end.
    Stop,
    /// New connections of this listener get this.
    SetProtocol(u16, Protocol),
    /// What clients may do from now on.
    SetRules(Option<Arc<Rules>>),
    /// The users of SCRAM.
    SetScram(ByListener),
    /// How much each client may publish from now on.
    SetRate(PublishRate),
    /// What shards keep from now on.
    SetLimits(Box<Limits>),
    /// Whoever this is about is disconnected.
    Ban(Target),
    /// A listener stops, or listens again at an address; says what came of it.
    SetListening(u16, Option<SocketAddr>, mpsc::Sender<io::Result<()>>),
    /// Everybody is sent away until a time, to a server that is named; or nobody any more.
    Drain(Option<(u64, Option<Text>)>),
    /// The shard handles this.
    Feed(Box<Input>),
    /// Somebody asks something.
    Look(Look),
    /// Publish this, which no client has sent, and say to whoever wants to know what has become of it: see
    /// [`Shard::publish_own`]. Goes to the home of its topic, so that there is one order of all that is told.
    Publish(Box<Publish>, Option<crossbeam_channel::Sender<ReasonCode>>),
    /// This is watched from now on, or nothing.
    Watch(Option<Watch>),
}

impl Pump {
    /// Takes the commands of the process.
    pub(super) fn obey(&mut self) {
        while let Ok(command) = self.parts.commands.try_recv() {
            match command {
                Command::LastWills(asked) => {
                    self.parts.wire.stop_listening();
                    self.parts.wire.drop_unknown();
                    self.feed(Input::LastWills);
                    self.last_wills.push(asked);
                }
                Command::Stop => {
                    let deadline_ms = self.now.mono_ms + LAST_PARCELS_MS_MAX;
                    self.stop_after = Some((self.parts.mesh.now(), deadline_ms));
                }
                Command::SetRules(rules) => self.feed(Input::Rules(rules)),
                Command::SetScram(users) => {
                    if let Some(scram) = &mut self.parts.scram {
                        scram.set_users(users);
                    }
                }
                Command::SetRate(rate) => {
                    self.rates.set(rate);
                    let wire = &mut self.parts.wire;
                    self.held.release(Why::Rate(u64::MAX), |conn| wire.resume(conn));
                }
                Command::SetLimits(limits) => self.feed(Input::Limits(limits)),
                Command::SetListening(index, address, asked) => {
                    // Whoever asked may have lost patience.
                    let _ = asked.send(self.parts.wire.set_listening(index, address));
                }
                Command::Drain(drain) => {
                    self.drain = drain.map(|(until_ms, reference)| Drain::new(until_ms, reference));
                    if self.drain.is_some() {
                        self.parts.wire.drop_unknown();
                    }
                }
                Command::Feed(input) => self.feed(*input),
                Command::Look(look) => {
                    look.answer(&View {
                        index: self.parts.index,
                        shard: &self.shard,
                        out: &self.outbox,
                        now: self.now,
                        wire: &self.parts.wire,
                        history: &self.history,
                        held: &self.held,
                    });
                    // The next turn takes the next.
                    return;
                }
                Command::Ban(target) => {
                    let later = BANNED_AGAIN_MS.map(|ms| (target.clone(), self.now.mono_ms + ms));
                    self.banned.extend(later);
                    self.feed(Input::Ban(target));
                }
                Command::Publish(publish, asked) => {
                    let mut reason = ReasonCode::Success;
                    self.work_on(|shard, now, out| reason = shard.publish_own(now, *publish, out));
                    if let Some(asked) = asked {
                        // Whoever asked may have lost patience.
                        let _ = asked.send(reason);
                    }
                }
                Command::Watch(watch) => {
                    let watched = watch.as_ref().map(|watch| Arc::clone(&watch.watched));
                    self.parts.tracer.set(watch);
                    self.feed(Input::Watch(watched));
                }
                Command::SetProtocol(index, protocol) => {
                    for listener in self.parts.wire.listeners_mut() {
                        if listener.index() == index {
                            listener.set_protocol(protocol.clone());
                        }
                    }
                }
            }
        }
    }
}
