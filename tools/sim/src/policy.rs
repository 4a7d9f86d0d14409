//! Rules of a run: what some clients may not do, decided the slow, obvious way.

use std::sync::Arc;

use petrel_proto::Qos;
use petrel_shard::Access;
use petrel_shard::access::{Effect, Rule, Rules, Subjects};

use crate::client::text;
use crate::rng::Rng;

/// What somebody may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Denial {
    client_id: String,
    filter: &'static str,
}

/// Everybody may do everything but this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    publish: Vec<Denial>,
    subscribe: Vec<Denial>,
}

/// What is denied in some runs, as far as it is among what clients do.
const FILTERS: &[&str] = &["t/a", "t/#", "+/a", "u/#", "$d/a", "t/+/b", "/t", "+/+/+"];

impl Policy {
    /// The policies of a seed, which come one after the other; none in half of the seeds. They differ in what may be
    /// published only: who loses a subscription and when is seen by no oracle.
    #[must_use]
    pub fn all_of(seed: u64) -> Vec<Self> {
        // Of its own, so that what else a seed stands for does not change.
        let mut rng = Rng::new(seed ^ 0x72_756c_6573);
        if rng.percent(50) {
            return Vec::new();
        }
        let subscribe = denials(&mut rng, 3);
        let policies = (0..rng.between(1, 4))
            .map(|_| Self { publish: denials(&mut rng, 6), subscribe: subscribe.clone() });
        policies.collect()
    }

    /// What a shard is given; everybody is let in.
    #[must_use]
    pub fn access(policy: Option<&Self>) -> Access {
        let rules = policy.map(|policy| Arc::new(policy.rules()));
        Access { is_on: rules.is_some(), rules, ..Access::default() }
    }

    /// The rules as they would stand in a file.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        let mut add = |client_ids: Vec<_>, effect, publish, filters: &[&str]| {
            let filters = filters.iter().map(|filter| text(filter)).collect();
            let subjects = Subjects { client_ids, ..Subjects::default() };
            let rule = Rule { subjects, effect, publish, subscribe: !publish, filters };
            if let Err(error) = rules.add(rule) {
                panic!("a rule of the simulator is none: {error}");
            }
        };
        let allow = Effect::Allow { max_qos: Qos::ExactlyOnce, retain: true };
        for publish in [true, false] {
            add(Vec::new(), allow, publish, &["#", "$d/#"]);
        }
        for (publish, denials) in [(true, &self.publish), (false, &self.subscribe)] {
            for denial in denials {
                add(vec![text(&denial.client_id)], Effect::Deny, publish, &[denial.filter]);
            }
        }
        rules
    }

    /// Whether a client may publish to a topic.
    #[must_use]
    pub fn may_publish(&self, client_id: &str, topic: &str) -> bool {
        !self.publish.iter().any(|denial| denial.meets(client_id, topic))
    }

    /// Whether a client may subscribe to a filter, which is without `$share`.
    #[must_use]
    pub fn may_subscribe(&self, client_id: &str, filter: &str) -> bool {
        !self.subscribe.iter().any(|denial| denial.meets(client_id, filter))
    }
}

fn denials(rng: &mut Rng, at_most: u64) -> Vec<Denial> {
    let one = |rng: &mut Rng| Denial {
        client_id: format!("client-{}", rng.between(1, 6)),
        filter: rng.pick::<&str>(FILTERS),
    };
    (0..rng.between(0, at_most)).map(|_| one(rng)).collect()
}

impl Denial {
    fn meets(&self, client_id: &str, filter: &str) -> bool {
        let levels = |of: &'static str| of.split('/').collect::<Vec<_>>();
        let other: Vec<&str> = filter.split('/').collect();
        let is_hidden = |name: &str, wild: &str| name.starts_with('$') && "+#".contains(wild);
        let first = (self.filter.split('/').next(), other.first().copied());
        let apart = matches!(first, (Some(own), Some(other)) if is_hidden(own, other) || is_hidden(other, own));
        self.client_id == client_id && !apart && meet(&levels(self.filter), &other)
    }
}

/// Whether some topic is matched by both.
fn meet(one: &[&str], other: &[&str]) -> bool {
    match (one.split_first(), other.split_first()) {
        (Some((&"#", _)), _) | (_, Some((&"#", _))) => true,
        (None, None) => true,
        (Some((first, rest)), Some((second, others))) => {
            let same = *first == "+" || *second == "+" || first == second;
            same && meet(rest, others)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_meet_where_a_topic_is_matched_by_both() {
        for (one, other, expected) in [
            ("t/a", "t/a", true),
            ("t/a", "t/b", false),
            ("t/#", "t", true),
            ("t", "t/+", false),
            ("+/a", "t/#", true),
            ("+/a", "t/b", false),
            ("t/+/b", "t/a/+", true),
            ("$d/a", "#", false),
            ("+/a", "$d/a", false),
            ("$d/a", "$d/+", true),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let denial = Denial { client_id: "c".into(), filter: one };
                assert_eq!(denial.meets("c", other), expected, "{one} {other}");
                assert!(!denial.meets("d", other));
            }
        }
    }

    #[test]
    fn some_seeds_have_several_policies_and_some_none() {
        let counts: Vec<usize> = (0..100).map(|seed| Policy::all_of(seed).len()).collect();
        assert!(counts.contains(&0) && counts.iter().any(|&count| count > 2));
    }
}
