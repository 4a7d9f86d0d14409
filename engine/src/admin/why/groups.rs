//! What becomes of a message that goes to one member of a shared group.

use petrel_proto::Qos;
use petrel_shard::config::QueueFull;
use petrel_shard::look::Shared;

use super::{Facts, Fate, Findings, Outcome, Reaches, Session, quoted};

/// Where a message goes that a client subscribes to through shared groups only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    /// To this client or another member.
    ToOneOfThem,
    /// To this client, which has nobody beside it.
    Here(Outcome),
    /// To another member: this one takes none now.
    Elsewhere,
    /// It waits until a member can take it.
    Waits,
    /// To nobody.
    Lost,
}

/// Says how it stands with the groups.
pub(super) fn describe(facts: &Facts, findings: &mut Findings) {
    for group in &facts.groups {
        let (filter, members, ready) = (quoted(&group.filter), group.members, group.ready);
        let text = format!(
            "each message to {filter} goes to one of its {members} members, of which {ready} could take one now; {} \
             wait in the group",
            group.queued
        );
        if group.ready > 0 || !is_full(facts, group) {
            findings.fine("shared group", text);
            continue;
        }
        let policy = match facts.limits.session_queue_full {
            QueueFull::DropNewest => "a new message is dropped",
            QueueFull::DropOldest => "the oldest message makes room for a new one",
        };
        findings.wrong(
            "shared group",
            format!("{text}, which is as much as may, so {policy} (session_queue_full)"),
        );
    }
}

fn is_full(facts: &Facts, group: &Shared) -> bool {
    group.queued >= u64::from(facts.limits.session_queue_messages)
        || group.queued_bytes >= facts.limits.session_queue_bytes
}

/// Whether a message reaches the client, and why.
pub(super) fn answer(
    facts: &Facts,
    session: &Session,
    (client, topic): (&str, &str),
    fate: &Fate,
) -> (Reaches, String) {
    let of_zero = goes(facts, session, Qos::AtMostOnce, fate.unreliable);
    let of_one = goes(facts, session, Qos::AtLeastOnce, fate.reliable.unwrap_or(fate.unreliable));
    let why = match fate.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    let (reaches, becomes) = words(of_one, client);
    if of_zero == of_one {
        return (reaches, format!("A message to {topic} {becomes}{}.", because(of_one, &why)));
    }
    let (_, becomes_zero) = words(of_zero, client);
    let text = format!(
        "A message to {topic} of QoS 1 or 2 {becomes}, and one of QoS 0 {becomes_zero}{}.",
        because(of_one, &why)
    );
    (reaches, text)
}

fn because(goes: Goes, why: &str) -> &str {
    if matches!(goes, Goes::ToOneOfThem | Goes::Here(Outcome::Sent)) { "" } else { why }
}

fn words(goes: Goes, client: &str) -> (Reaches, String) {
    match goes {
        Goes::ToOneOfThem => (
            Reaches::Perhaps,
            format!("reaches one member of the shared group, which may be {client} or another"),
        ),
        Goes::Here(Outcome::Sent) => (
            Reaches::AtOnce,
            format!(
                "reaches {client} at once, for no other member of the shared group takes any now"
            ),
        ),
        Goes::Here(Outcome::Waits) => (
            Reaches::Later,
            format!("waits for {client}, for no other member of the shared group takes any now"),
        ),
        Goes::Here(Outcome::Dropped) => (Reaches::No, format!("does not reach {client}")),
        Goes::Elsewhere => (
            Reaches::No,
            format!("goes to another member of the shared group, for {client} takes none now"),
        ),
        Goes::Waits => (
            Reaches::Later,
            format!(
                "waits in the shared group until a member can take it, which {client} cannot now"
            ),
        ),
        Goes::Lost => (
            Reaches::No,
            format!("is dropped, for no member of the shared group can take it, nor {client}"),
        ),
    }
}

/// As groups choose: who is ready; for QoS 0 whoever is there, if nobody is ready.
fn goes(facts: &Facts, session: &Session, qos: Qos, own: Outcome) -> Goes {
    let standing = session.standing;
    let sum = |of: fn(&Shared) -> u64| facts.groups.iter().map(of).sum::<u64>();
    let (ready, online) = (sum(|group| group.ready), sum(|group| group.online));
    let (is_candidate, candidates) = match ready {
        0 if qos == Qos::AtMostOnce => (standing.online, online),
        0 => (false, 0),
        ready => (standing.ready, ready),
    };
    // It is one of those of each of its groups.
    let own_places = if is_candidate { facts.groups.len() as u64 } else { 0 };
    match (is_candidate, candidates.saturating_sub(own_places)) {
        (true, 0) => Goes::Here(own),
        // A member that is chosen and cannot be given it gives it back.
        (true, _) => Goes::ToOneOfThem,
        (false, 1..) => Goes::Elsewhere,
        (false, 0) if qos == Qos::AtMostOnce => Goes::Lost,
        (false, 0) => {
            let drops = facts.limits.session_queue_full == QueueFull::DropNewest;
            let full = facts.groups.iter().any(|group| is_full(facts, group));
            if full && drops { Goes::Lost } else { Goes::Waits }
        }
    }
}
