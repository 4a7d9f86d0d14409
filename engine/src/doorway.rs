//! What is not even looked at while lanes have all that they may have to write: CONNECTs and PUBLISHes
//! that would cause more; PUBLISHes as well while a disk has failed or has no room.
//!
//! To hold back a connection after its packet bounds what one connection causes, and nobody is bound to
//! one connection. Each that stands here has one packet here and is not read.

use std::collections::VecDeque;

use petrel_net::{ConnKey, WireEvent};
use petrel_proto::{Connect, Packet, Version};

/// After so many bytes somebody looks who has gone.
const FRESH_BYTES_MAX: usize = 8 << 20;

/// Connections that wait with a packet, in the order in which they came.
#[derive(Debug, Default)]
pub struct Doorway {
    /// With a CONNECT. They go in first, since who comes may take what waits.
    connects: VecDeque<(ConnKey, WireEvent)>,
    /// With a PUBLISH.
    packets: VecDeque<(ConnKey, WireEvent)>,
    /// About the bytes that have come since somebody looked who has gone.
    fresh_bytes: usize,
}

impl Doorway {
    /// True if nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connects.is_empty() && self.packets.is_empty()
    }

    /// True if somebody waits with a CONNECT.
    #[must_use]
    pub fn has_connects(&self) -> bool {
        !self.connects.is_empty()
    }

    /// Those who wait.
    pub fn connections(&self) -> impl Iterator<Item = ConnKey> {
        self.connects.iter().chain(&self.packets).map(|(conn, _)| *conn)
    }

    /// Has a CONNECT or another packet of a connection wait behind the others.
    pub fn push(&mut self, conn: ConnKey, event: WireEvent) {
        self.fresh_bytes += match &event {
            WireEvent::Connect { connect, .. } => {
                connect.will.as_ref().map_or(0, |will| will.payload.len())
            }
            WireEvent::Packet { packet: Packet::Publish(publish), .. } => publish.payload.len(),
            _ => 0,
        };
        match event {
            WireEvent::Connect { .. } => self.connects.push_back((conn, event)),
            _ => self.packets.push_back((conn, event)),
        }
    }

    /// Takes who has waited longest with a CONNECT.
    pub fn pop_connect(&mut self) -> Option<(ConnKey, WireEvent)> {
        self.connects.pop_front()
    }

    /// Takes who has waited longest with another packet.
    pub fn pop_packet(&mut self) -> Option<(ConnKey, WireEvent)> {
        self.packets.pop_front()
    }

    /// Takes those for whom this is true, with what they wait with.
    pub fn take_if(&mut self, is_it: impl Fn(ConnKey) -> bool) -> Vec<(ConnKey, WireEvent)> {
        let mut taken = Vec::new();
        for waiting in [&mut self.connects, &mut self.packets] {
            let all = std::mem::take(waiting).into_iter();
            let (gone, rest): (Vec<_>, Vec<_>) = all.partition(|(conn, _)| is_it(*conn));
            *waiting = rest.into();
            taken.extend(gone);
        }
        taken
    }

    /// True if so much has come since this was asked last, and was true, that somebody should look who
    /// has gone.
    pub fn wants_a_look(&mut self) -> bool {
        let does = self.fresh_bytes > FRESH_BYTES_MAX;
        if does {
            self.fresh_bytes = 0;
        }
        does
    }
}

/// With what somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// A CONNECT.
    Connect,
    /// Another packet.
    Packet,
}

/// What a CONNECT causes that is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causes {
    /// Nothing.
    Nothing,
    /// At most that a session goes on: its client may come for what waits.
    Little,
    /// A will, or a session that begins anew.
    Much,
}

/// What a CONNECT causes.
#[must_use]
pub fn causes(connect: &Connect) -> Causes {
    let is_kept = match connect.version {
        Version::V5 => connect.properties.session_expiry_interval_s.unwrap_or(0) > 0,
        _ => !connect.clean_start,
    };
    match (connect.will.is_some(), is_kept, connect.clean_start) {
        (true, ..) | (false, true, true) => Causes::Much,
        (false, true, false) => Causes::Little,
        (false, false, _) => Causes::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use petrel_proto::{ConnectProperties, PublishProperties, Qos, Text, TopicName, Will};

    use super::*;

    fn connect(client_id: &str) -> Box<Connect> {
        Box::new(Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive_s: 0,
            client_id: Text::try_from(client_id).unwrap(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        })
    }

    fn key(index: u32) -> ConnKey {
        ConnKey { index, generation: 1 }
    }

    #[test]
    fn all_go_in_as_they_came_but_who_has_gone() {
        let mut doorway = Doorway::default();
        for index in 0..5 {
            let conn = key(index);
            doorway.push(conn, WireEvent::Packet { conn, packet: Packet::PingReq });
        }
        let gone: Vec<_> = doorway.take_if(|conn| conn == key(3)).into_iter().collect();
        assert_eq!(gone.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [key(3)]);
        let rest: Vec<_> =
            std::iter::from_fn(|| doorway.pop_packet()).map(|(conn, _)| conn).collect();
        assert_eq!(rest, [0, 1, 2, 4].map(key));
        assert!(doorway.is_empty());
    }

    #[test]
    fn somebody_looks_who_has_gone_when_much_has_come() {
        let mut doorway = Doorway::default();
        let mut looks = 0;
        for index in 0..100 {
            let mut connect = connect("a");
            let payload = vec![0; FRESH_BYTES_MAX / 10].into();
            connect.will = Some(Box::new(Will {
                topic: TopicName::new(Text::try_from("t").unwrap()).unwrap(),
                payload,
                qos: Qos::AtMostOnce,
                retain: false,
                delay_interval_s: None,
                properties: PublishProperties::default(),
            }));
            let (conn, listener, peer) = (key(index), 0, petrel_net::Remote::default());
            doorway.push(conn, WireEvent::Connect { conn, connect, listener, peer });
            looks += u32::from(doorway.wants_a_look());
        }
        assert_eq!(looks, 9);
        assert!(doorway.has_connects() && doorway.pop_packet().is_none());
        assert_eq!(doorway.pop_connect().map(|(conn, _)| conn), Some(key(0)));
    }

    #[test]
    fn what_a_connect_causes_depends_on_what_it_leaves_behind() {
        let mut wanted = connect("a");
        assert_eq!(causes(&wanted), Causes::Nothing);
        wanted.properties.session_expiry_interval_s = Some(1);
        assert_eq!(causes(&wanted), Causes::Little);
        wanted.clean_start = true;
        assert_eq!(causes(&wanted), Causes::Much);
        wanted.version = Version::V3_1_1;
        assert_eq!(causes(&wanted), Causes::Nothing);
        wanted.clean_start = false;
        assert_eq!(causes(&wanted), Causes::Little);
    }
}
