//! Records as bytes.
//!
//! A stored message is an MQTT 5 PUBLISH packet of QoS 0 behind the little that such a packet does not
//! say, so that the codec of the wire reads and writes it. Numbers are big-endian; moments are
//! milliseconds of the wall clock, since the monotonic clock begins anew with each process.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use petrel_proto::{
    ClientId, Packet, PublishHead, PublishProperties, Qos, RetainHandling, SubscriptionOptions,
    Text, TopicFilter, Version, Will, decode,
};
use petrel_shard::message::expiry;
use petrel_shard::peer::GroupKey;
use petrel_shard::record::{
    DeliveryRecord, Incarnation, Provided, SessionRecord, Stream, SubscriptionRecord,
};
use petrel_shard::{Author, Message};
use smallvec::SmallVec;

use crate::shared::Shared;

/// Translates moments of the process into moments of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// What the wall clock showed when the monotonic clock was at 0, in milliseconds since 1970.
    pub origin_ms: u64,
}

impl Clock {
    /// A moment of the monotonic clock on the wall clock; never stays never.
    #[must_use]
    pub const fn to_wall(self, mono_ms: u64) -> u64 {
        if mono_ms == u64::MAX { u64::MAX } else { mono_ms.saturating_add(self.origin_ms) }
    }

    /// A moment of the wall clock on the monotonic clock; what was before its beginning is its
    /// beginning.
    #[must_use]
    pub const fn to_mono(self, wall_ms: u64) -> u64 {
        if wall_ms == u64::MAX { u64::MAX } else { wall_ms.saturating_sub(self.origin_ms) }
    }
}

/// What a value that cannot be read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable {
    /// What was expected.
    pub expected: &'static str,
}

const fn unreadable(expected: &'static str) -> Unreadable {
    Unreadable { expected }
}

/// Bits of the first byte of a message.
const MESSAGE_RETAIN: u8 = 4;
/// Its author stands behind it, and how long that is in four bytes behind the author.
const MESSAGE_AUTHORED: u8 = 8;
/// Bits of the first byte of a delivery, above the QoS.
const DELIVERY_RETAIN: u8 = 4;
const DELIVERY_STORED: u8 = 8;
const DELIVERY_PROVIDED: u8 = 16;
const DELIVERY_RELEASED: u8 = 32;
const DELIVERY_SHARED: u8 = 64;

/// A message that waits for a session, as it is read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Waiting {
    /// It has not been delivered, as far as is known.
    Queued(Queued, Source),
    /// The client has it and has not completed it.
    Released,
}

/// What is said of a message that waits, but not the message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queued {
    flags: u8,
    pub(crate) qos: Qos,
    pub(crate) provided: Option<Provided>,
    identifiers: SmallVec<[u32; 1]>,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// Here; see [`message`].
    Here(Bytes),
    /// Elsewhere, for several sessions.
    Shared(Shared),
}

impl Queued {
    /// The whole, once the message has been read.
    pub(crate) fn with(self, message: Arc<Message>) -> DeliveryRecord {
        DeliveryRecord {
            message,
            qos: self.qos,
            retain: self.flags & DELIVERY_RETAIN != 0,
            identifiers: self.identifiers,
            stored: self.flags & DELIVERY_STORED != 0,
            provided: self.provided,
        }
    }
}

/// Appends a message.
pub fn put_message(out: &mut BytesMut, message: &Message, clock: Clock) {
    out.put_u8(message.qos as u8 | if message.retain { MESSAGE_RETAIN } else { 0 });
    out.put_u64(clock.to_wall(message.expires_at_ms));
    out.put_u64(message.publisher);
    let head = PublishHead {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: message.retain,
        topic: message.topic.as_bytes(),
        packet_id: None,
        payload_bytes: message.payload.len(),
        message_expiry_interval_s: None,
        topic_alias: None,
        subscription_identifiers: &[],
        properties: &message.properties,
    };
    head.encode(Version::V5, out);
    out.put_slice(&message.payload);
}

/// Appends a message that is retained, with its author.
pub(crate) fn put_retained(
    out: &mut BytesMut,
    message: &Message,
    author: Option<&Author>,
    clock: Clock,
) {
    let start = out.len();
    put_message(out, message, clock);
    if let Some(author) = author {
        out[start] |= MESSAGE_AUTHORED;
        out.put_slice(author.as_bytes());
        out.put_u32(author.as_bytes().len() as u32);
    }
}

/// Reads a message that is retained, and its author.
pub(crate) fn retained(
    mut bytes: Bytes,
    clock: Clock,
) -> Result<(Message, Option<Author>), Unreadable> {
    const WHAT: &str = "the author of a message";
    let is_authored = bytes.first().is_some_and(|flags| flags & MESSAGE_AUTHORED != 0);
    let author = if is_authored {
        let (rest, length) = bytes.split_last_chunk().ok_or(unreadable(WHAT))?;
        let start = rest.len().checked_sub(u32::from_be_bytes(*length) as usize);
        let start = start.ok_or(unreadable(WHAT))?;
        let author = Author::kept(&rest[start..]).ok_or(unreadable(WHAT))?;
        bytes.truncate(start);
        Some(author)
    } else {
        None
    };
    Ok((message(bytes, clock)?, author))
}

/// Reads a message that takes all of `bytes`. It shares their memory.
///
/// # Errors
/// They are no message.
pub fn message(mut bytes: Bytes, clock: Clock) -> Result<Message, Unreadable> {
    const WHAT: &str = "a message";
    if bytes.len() < 17 {
        return Err(unreadable(WHAT));
    }
    let flags = bytes.get_u8();
    let expires_at_ms = clock.to_mono(bytes.get_u64());
    let publisher = bytes.get_u64();
    let qos = Qos::from_u8(flags & 3).ok_or(unreadable(WHAT))?;
    let Ok(Packet::Publish(publish)) = decode(&bytes, Some(Version::V5)) else {
        return Err(unreadable(WHAT));
    };
    Ok(Message {
        topic: publish.topic,
        payload: publish.payload,
        qos,
        retain: flags & MESSAGE_RETAIN != 0,
        properties: publish.properties.message,
        publisher,
        expires_at_ms,
    })
}

/// The QoS at which a message was published.
pub(crate) fn message_qos(bytes: &[u8]) -> Option<Qos> {
    Qos::from_u8(bytes.first()? & 3)
}

/// When a message expires, on the wall clock; `u64::MAX` for never.
#[must_use]
pub fn message_expires_at_wall_ms(bytes: &[u8]) -> Option<u64> {
    bytes.get(1..)?.first_chunk::<8>().map(|ms| u64::from_be_bytes(*ms))
}

/// Appends a message that waits, or what stands for it.
pub(crate) fn put_delivery(
    out: &mut BytesMut,
    delivery: &DeliveryRecord,
    shared: Option<Shared>,
    clock: Clock,
) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.put_u8(
        delivery.qos as u8
            | flag(delivery.retain, DELIVERY_RETAIN)
            | flag(delivery.stored, DELIVERY_STORED)
            | flag(delivery.provided.is_some(), DELIVERY_PROVIDED)
            | flag(shared.is_some(), DELIVERY_SHARED),
    );
    if let Some(Provided { stream, number }) = delivery.provided {
        out.put_u64(stream.to_u64());
        out.put_u64(number);
    }
    // A session has fewer subscriptions than a u32 can say.
    out.put_u32(delivery.identifiers.len() as u32);
    for &identifier in &delivery.identifiers {
        out.put_u32(identifier);
    }
    match shared {
        Some(shared) => shared.put(out),
        None => put_message(out, &delivery.message, clock),
    }
}

/// What stands for the message that waits, if it is stored once for several sessions.
pub(crate) fn shared(bytes: &[u8]) -> Option<Shared> {
    let (&flags, rest) = bytes.split_first()?;
    (flags & DELIVERY_SHARED != 0).then(|| Shared::read(behind_identifiers(flags, rest)?))?
}

/// The bytes of what waits and of its message, about.
pub(crate) fn weight(bytes: &[u8]) -> usize {
    bytes.len() + shared(bytes).map_or(0, |shared| shared.cost_bytes as usize)
}

/// What stands behind the subscription identifiers of what waits, without its first byte.
fn behind_identifiers(flags: u8, bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.get(if flags & DELIVERY_PROVIDED == 0 { 0 } else { 16 }..)?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    rest.get(u32::from_be_bytes(*count) as usize * 4..)
}

/// Appends what is left of a QoS 2 message that the client has.
pub fn put_released(out: &mut BytesMut) {
    out.put_u8(DELIVERY_RELEASED);
}

/// When what waits is of no use any more since it has expired, on the wall clock; `u64::MAX` for never:
/// the client may have been sent a message of QoS 2, and has to be told that its exchange is over.
pub fn expires_at_wall_ms(bytes: &[u8]) -> Option<u64> {
    let (&flags, rest) = bytes.split_first()?;
    if flags & DELIVERY_RELEASED != 0 || flags & 3 == Qos::ExactlyOnce as u8 {
        return Some(u64::MAX);
    }
    let rest = behind_identifiers(flags, rest)?;
    if flags & DELIVERY_SHARED != 0 {
        return Shared::read(rest).map(|shared| shared.expires_at_wall_ms);
    }
    message_expires_at_wall_ms(rest)
}

/// Reads what waits and takes all of `bytes`.
///
/// # Errors
/// They are nothing that waits.
pub(crate) fn waiting(mut bytes: Bytes) -> Result<Waiting, Unreadable> {
    const WHAT: &str = "a message that waits";
    let short = |bytes: &Bytes, least: usize| {
        if bytes.len() < least { Err(unreadable(WHAT)) } else { Ok(()) }
    };
    short(&bytes, 1)?;
    let flags = bytes.get_u8();
    if flags & DELIVERY_RELEASED != 0 {
        return Ok(Waiting::Released);
    }
    let provided = if flags & DELIVERY_PROVIDED != 0 {
        short(&bytes, 16)?;
        let stream = Stream::from_u64(bytes.get_u64());
        Some(Provided { stream, number: bytes.get_u64() })
    } else {
        None
    };
    short(&bytes, 4)?;
    let count = bytes.get_u32() as usize;
    short(&bytes, count.saturating_mul(4))?;
    let identifiers: SmallVec<[u32; 1]> = (0..count).map(|_| bytes.get_u32()).collect();
    let qos = Qos::from_u8(flags & 3).ok_or(unreadable(WHAT))?;
    let message = if flags & DELIVERY_SHARED == 0 {
        Source::Here(bytes)
    } else {
        Source::Shared(Shared::read(&bytes).ok_or(unreadable(WHAT))?)
    };
    Ok(Waiting::Queued(Queued { flags, qos, provided, identifiers }, message))
}

/// Reads all of what waits, but not a message that stands elsewhere.
///
/// # Errors
/// They are nothing that waits.
pub(crate) fn judge_waiting(bytes: Bytes) -> Result<(), Unreadable> {
    if let Waiting::Queued(_, Source::Here(bytes)) = waiting(bytes)? {
        message(bytes, Clock::default())?;
    }
    Ok(())
}

/// Bits of the first byte of a session.
const SESSION_ONLINE: u8 = 1;
const SESSION_WILL: u8 = 2;
const SESSION_LEAVING: u8 = 4;
const SESSION_USER: u8 = 8;
/// It is no session but a shared group.
const GROUP: u8 = 128;
/// Bits of the first byte of a will.
const WILL_DELAY: u8 = 1;
const WILL_EXPIRY: u8 = 2;

/// Appends a session, without its incarnation, which is its key.
pub fn put_session(out: &mut BytesMut, session: &SessionRecord, clock: Clock) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    out.put_u8(
        flag(session.expires_at_ms.is_none(), SESSION_ONLINE)
            | flag(session.will.is_some(), SESSION_WILL)
            | flag(!session.leaving.is_empty(), SESSION_LEAVING)
            | flag(session.user.is_some(), SESSION_USER),
    );
    out.put_u32(session.expiry_interval_s);
    out.put_u64(clock.to_wall(session.expires_at_ms.unwrap_or(u64::MAX)));
    out.put_u64(clock.to_wall(session.will_at_ms));
    // A client identifier is never longer than a u16 can say.
    out.put_u16(session.client_id.len() as u16);
    out.put_slice(session.client_id.as_bytes());
    if let Some(user) = &session.user {
        // Nor is a user name.
        out.put_u16(user.len() as u16);
        out.put_slice(user.as_bytes());
    }
    for will in session.will.as_deref().into_iter().chain(&session.leaving) {
        put_will(out, will, clock);
    }
}

/// Appends a shared group, without its incarnation, which is its key, among those of sessions.
pub fn put_group(out: &mut BytesMut, group: &GroupKey) {
    out.put_u8(GROUP);
    // A share name is part of a filter, which is never longer than a u16 can say.
    out.put_u16(group.share.len() as u16);
    out.put_slice(group.share.as_bytes());
    out.put_slice(group.filter.as_bytes());
}

/// True if what is kept under an incarnation is a shared group and no session.
#[must_use]
pub fn is_group(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|flags| flags & GROUP != 0)
}

/// Reads a shared group that takes all of `bytes`.
///
/// # Errors
/// They are no shared group.
pub fn group(mut bytes: Bytes) -> Result<GroupKey, Unreadable> {
    const WHAT: &str = "a shared group";
    if bytes.len() < 3 || !is_group(&bytes) {
        return Err(unreadable(WHAT));
    }
    bytes.advance(1);
    let share_bytes = usize::from(bytes.get_u16());
    if bytes.len() < share_bytes {
        return Err(unreadable(WHAT));
    }
    let share = Bytes::copy_from_slice(&bytes.split_to(share_bytes));
    let share = Text::new(share).map_err(|_| unreadable(WHAT))?;
    Ok(GroupKey { share, filter: filter(&bytes)? })
}

/// Appends a will behind its length.
fn put_will(out: &mut BytesMut, will: &Will, clock: Clock) {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let at = out.len();
    out.put_u32(0);
    out.put_u8(
        flag(will.delay_interval_s.is_some(), WILL_DELAY)
            | flag(will.properties.message_expiry_interval_s.is_some(), WILL_EXPIRY),
    );
    out.put_u32(will.delay_interval_s.unwrap_or(0));
    out.put_u32(will.properties.message_expiry_interval_s.unwrap_or(0));
    let message = Message {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        properties: will.properties.message.clone(),
        publisher: 0,
        expires_at_ms: expiry(None, 0),
    };
    put_message(out, &message, clock);
    // A will is part of a packet of at most 256 MiB.
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
}

/// Reads a session that takes all of `bytes`.
///
/// # Errors
/// They are no session.
pub fn session(
    incarnation: Incarnation,
    mut bytes: Bytes,
    clock: Clock,
) -> Result<SessionRecord, Unreadable> {
    const WHAT: &str = "a session";
    if bytes.len() < 23 {
        return Err(unreadable(WHAT));
    }
    let flags = bytes.get_u8();
    let expiry_interval_s = bytes.get_u32();
    let expires_at_ms = clock.to_mono(bytes.get_u64());
    let will_at_ms = clock.to_mono(bytes.get_u64());
    let mut text = || {
        let length = usize::from(bytes.try_get_u16().ok()?);
        let text = (bytes.len() >= length).then(|| bytes.split_to(length))?;
        Text::new(Bytes::copy_from_slice(&text)).ok()
    };
    let client_id: ClientId = text().ok_or_else(|| unreadable(WHAT))?;
    let user = match flags & SESSION_USER {
        0 => None,
        _ => Some(text().ok_or_else(|| unreadable(WHAT))?),
    };
    let pending = (flags & SESSION_WILL != 0).then(|| will(&mut bytes, clock)).transpose()?;
    let mut leaving = Vec::new();
    while flags & SESSION_LEAVING != 0 && !bytes.is_empty() {
        leaving.push(will(&mut bytes, clock)?);
    }
    Ok(SessionRecord {
        incarnation,
        client_id,
        expiry_interval_s,
        expires_at_ms: (flags & SESSION_ONLINE == 0).then_some(expires_at_ms),
        will: pending.map(Box::new),
        will_at_ms,
        leaving,
        user,
    })
}

/// Reads a will from the front of `bytes`.
fn will(bytes: &mut Bytes, clock: Clock) -> Result<Will, Unreadable> {
    const WHAT: &str = "a will";
    let length = bytes.try_get_u32().map_err(|_| unreadable(WHAT))? as usize;
    if bytes.len() < length || length < 9 {
        return Err(unreadable(WHAT));
    }
    let mut own = bytes.split_to(length);
    let flags = own.get_u8();
    let delay_s = own.get_u32();
    let expiry_s = own.get_u32();
    let message = message(own, clock)?.into_owned();
    let properties = PublishProperties {
        message_expiry_interval_s: (flags & WILL_EXPIRY != 0).then_some(expiry_s),
        message: message.properties,
        ..PublishProperties::default()
    };
    Ok(Will {
        topic: message.topic,
        payload: message.payload,
        qos: message.qos,
        retain: message.retain,
        delay_interval_s: (flags & WILL_DELAY != 0).then_some(delay_s),
        properties,
    })
}

/// Reads the filter in the key of a subscription.
///
/// # Errors
/// It is no filter.
pub fn filter(bytes: &[u8]) -> Result<TopicFilter, Unreadable> {
    let text = Text::new(Bytes::copy_from_slice(bytes));
    text.and_then(TopicFilter::new).map_err(|_| unreadable("a topic filter"))
}

/// Appends a subscription, without its incarnation and filter, which are its key.
pub fn put_subscription(out: &mut BytesMut, subscription: &SubscriptionRecord) {
    let options = subscription.options;
    out.put_u8(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | (options.retain_handling as u8) << 4
            | u8::from(subscription.awaits_retained) << 6,
    );
    out.put_u32(subscription.identifier);
}

/// Reads a subscription's options, its identifier, and whether it awaits retained messages.
///
/// # Errors
/// They are no subscription.
pub fn subscription(bytes: &[u8]) -> Result<(SubscriptionOptions, u32, bool), Unreadable> {
    const WHAT: &str = "a subscription";
    let [flags, identifier @ ..] = bytes else { return Err(unreadable(WHAT)) };
    let identifier = identifier.try_into().map_err(|_| unreadable(WHAT))?;
    let retain_handling = match flags >> 4 & 3 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(unreadable(WHAT)),
    };
    let options = SubscriptionOptions {
        qos: Qos::from_u8(flags & 3).ok_or(unreadable(WHAT))?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling,
    };
    Ok((options, u32::from_be_bytes(identifier), flags & 64 != 0))
}
