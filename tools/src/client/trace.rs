//! `-d`: one line on stderr for each packet.

use petrel_proto::{Ack, Packet};

/// What a packet says, without payloads and passwords. Texts of the broker are escaped.
pub fn describe(packet: &Packet) -> String {
    let ack =
        |name: &str, ack: &Ack| format!("{name} (id {}, {:?})", ack.packet_id.get(), ack.reason);
    match packet {
        Packet::Connect(it) => format!(
            "CONNECT (MQTT {}, client identifier {:?}, clean {}, keep alive {} s)",
            it.version, it.client_id, it.clean_start, it.keep_alive_s
        ),
        Packet::ConnAck(it) => {
            let assigned = it.properties.assigned_client_id.as_ref();
            let assigned = assigned.map_or(String::new(), |id| format!(", you are {id:?}"));
            format!("CONNACK ({:?}, session present {}{assigned})", it.reason, it.session_present)
        }
        Packet::Publish(it) => format!(
            "PUBLISH (id {}, QoS {}, retain {}, dup {}, topic {:?}, {} bytes)",
            it.packet_id.map_or(0, |id| id.get()),
            it.qos as u8,
            it.retain,
            it.dup,
            it.topic.text(),
            it.payload.len()
        ),
        Packet::PubAck(it) => ack("PUBACK", it),
        Packet::PubRec(it) => ack("PUBREC", it),
        Packet::PubRel(it) => ack("PUBREL", it),
        Packet::PubComp(it) => ack("PUBCOMP", it),
        Packet::Subscribe(it) => {
            let filters: Vec<_> = it
                .filters
                .iter()
                .map(|it| format!("{:?} QoS {}", it.filter.text(), it.options.qos as u8))
                .collect();
            format!("SUBSCRIBE (id {}, {})", it.packet_id.get(), filters.join(", "))
        }
        Packet::SubAck(it) => format!("SUBACK (id {}, {:?})", it.packet_id.get(), it.reasons),
        Packet::Unsubscribe(it) => {
            let filters: Vec<_> = it.filters.iter().map(|it| it.text()).collect();
            format!("UNSUBSCRIBE (id {}, {filters:?})", it.packet_id.get())
        }
        Packet::UnsubAck(it) => format!("UNSUBACK (id {}, {:?})", it.packet_id.get(), it.reasons),
        Packet::PingReq => "PINGREQ".to_owned(),
        Packet::PingResp => "PINGRESP".to_owned(),
        Packet::Disconnect(it) => format!("DISCONNECT ({:?})", it.reason),
        Packet::Auth(it) => format!("AUTH ({:?})", it.reason),
    }
}
