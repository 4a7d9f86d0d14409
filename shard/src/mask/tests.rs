//! Masks, their slots and the bounds on them.

use super::*;

const KEY: HashKey = HashKey::new([5, 6]);

fn masked(filter: &str) -> Mask {
    match Shape::of(filter.as_bytes()) {
        Shape::Masked(mask) => mask,
        other => panic!("{filter} has the shape {other:?}"),
    }
}

fn probed(table: &MaskTable, topic: &str) -> Vec<Mask> {
    let mut masks = Vec::new();
    table.probes(&TopicLevels::of(&KEY, topic.as_bytes()), |mask, _| masks.push(mask));
    masks
}

#[test]
fn shape_tells_exact_masked_and_deep_filters_apart() {
    assert_eq!(Shape::of(b"a/b"), Shape::Exact);
    assert_eq!(Shape::of("/".repeat(70).as_bytes()), Shape::Exact);
    assert_eq!(masked("#"), Mask::new(0, 0, true));
    assert_eq!(masked("+/a/+"), Mask::new(0b101, 3, false));
    assert_eq!(masked("/+/#"), Mask::new(0b10, 2, true));
    let deep = format!("{}+", "a/".repeat(LEVELS_KEPT));
    let whole = Mask::new(0, LEVELS_KEPT, true);
    assert_eq!(Shape::of(deep.as_bytes()), Shape::Deep(whole));
    assert_eq!(masked(&format!("{}#", "a/".repeat(LEVELS_KEPT))), whole);
}

#[test]
fn coarse_masks_have_fixed_slots() {
    for (filter, coarse) in [
        ("a/b/+/c/+", "a/b/#"),
        ("+/+/c/+/d", "+/+/c/#"),
        ("+/+/+", "#"),
        ("a/+", "a/#"),
        ("+/#", "#"),
    ] {
        assert_eq!(masked(filter).coarse(), masked(coarse), "{filter}");
    }
    let long = format!("{}+", "a/".repeat(40));
    assert_eq!(masked(&long).coarse().len(), FIXED_PREFIXES - 1);
    let late = format!("{}a", "+/".repeat(40));
    assert_eq!(masked(&late).coarse(), masked("#"));
    let mut slots = std::collections::HashSet::new();
    for filter in 0..FIXED_PREFIXES {
        assert!(slots.insert(masked(&format!("{}#", "a/".repeat(filter))).fixed_slot()));
    }
    for filter in 1..=FIXED_SINGLES {
        assert!(slots.insert(masked(&format!("{}a/#", "+/".repeat(filter))).fixed_slot()));
    }
    assert_eq!(slots.len(), FIXED_TAILS);
    assert!(!slots.contains(&None));
    assert!(slots.iter().flatten().all(|&slot| slot < FIXED_TAILS));
    assert_eq!(masked("+/+/#").fixed_slot(), None);
}

/// [MQTT5-4.7.2-1], [MQTT311-4.7.2-1]
#[test]
fn leading_wildcards_are_not_probed_for_system_topics() {
    let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
    for filter in ["#", "+/a", "+/#", "$SYS/#", "$SYS/+"] {
        assert!(registry.acquire(&table, &KEY, &masked(filter)));
    }
    assert_eq!(probed(&table, "$SYS/a"), [masked("$SYS/+"), masked("$SYS/#")]);
    assert_eq!(probed(&table, "x/a").len(), 5);
}

#[test]
fn masks_beyond_the_bound_are_not_probed_and_slots_are_used_again() {
    let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
    let filters: Vec<Mask> = (1..64_u32)
        .map(|bits| {
            let levels: Vec<_> =
                (0..6).map(|bit| if bits >> bit & 1 == 1 { "+" } else { "x" }).collect();
            masked(&levels.join("/"))
        })
        .collect();
    let probed_of = |registry: &mut MaskRegistry| {
        filters.iter().filter(|mask| registry.acquire(&table, &KEY, mask)).count()
    };
    assert_eq!(probed_of(&mut registry), PLAIN_PER_ROW);
    assert_eq!(probed(&table, "a/b/c/d/e/f").len(), PLAIN_PER_ROW);
    assert_eq!(probed(&table, "a/b/c/d/e").len(), 0);
    for (index, mask) in filters.iter().enumerate() {
        assert_eq!(registry.release(&table, &KEY, mask), index < PLAIN_PER_ROW);
    }
    assert!(table.is_empty());
    // The same masks in another order: those that come first are probed now.
    assert!(registry.acquire(&table, &KEY, &filters[40]));
    assert!(registry.is_probed(&KEY, &filters[40]));
}

#[test]
fn masks_with_a_tail_fit_topics_that_are_not_shorter() {
    let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
    for filter in ["a/b/#", "+/+/+/#", "#"] {
        registry.acquire(&table, &KEY, &masked(filter));
    }
    assert_eq!(probed(&table, "a").len(), 1);
    assert_eq!(probed(&table, "a/b").len(), 2);
    assert_eq!(probed(&table, "a/b/c").len(), 3);
    assert_eq!(probed(&table, &"a/".repeat(100)).len(), 3);
    assert_eq!(table.len(), 3);
}

#[test]
fn masks_with_a_literal_level_that_is_absent_are_left_out() {
    let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
    let filters = ["+/b/c/d", "a/b/+/d", "+/b/+/d", "a/+/#", "a/b/c/#", "#"];
    let check = |held: &[&str]| {
        let levels = TopicLevels::of(&KEY, b"a/b/c/d");
        for absent in 0..16 {
            let mut masks = Vec::new();
            table.probes_without(absent, &levels, |mask, _| masks.push(mask));
            let mut expected = probed(&table, "a/b/c/d");
            assert_eq!(expected.len(), held.len());
            expected.retain(|mask| mask.literals() & absent == 0);
            assert_eq!(masks, expected, "{absent:b}");
        }
    };
    for (index, filter) in filters.iter().enumerate() {
        registry.acquire(&table, &KEY, &masked(filter));
        check(&filters[..=index]);
    }
    // The last one of a number of levels that goes leaves its slot to another mask.
    for index in 0..filters.len() {
        registry.release(&table, &KEY, &masked(filters[index]));
        check(&filters[index + 1..]);
    }
    registry.acquire(&table, &KEY, &masked("a/+/+/+"));
    check(&["a/+/+/+"]);
}

#[test]
fn a_filter_is_spelled_as_the_topic_with_its_wildcards() {
    let spells = |filter: &str, topic: &str| {
        let topic = topic.as_bytes();
        masked(filter).spells(filter.as_bytes(), topic, &TopicLevels::of(&KEY, topic))
    };
    for (filter, topic) in
        [("a/b/#", "a/b/c"), ("a/b/#", "a/b"), ("/#", "/a"), ("#", "a"), ("+/#", "a")]
    {
        assert!(spells(filter, topic), "{filter} {topic}");
    }
    for (filter, topic) in [("a/b/#", "a/c/c"), ("a/b/#", "b/b"), ("/#", "a/b"), ("a/#", "ab/c")] {
        assert!(!spells(filter, topic), "{filter} {topic}");
    }
    let levels = TopicLevels::of(&KEY, b"a/b/c");
    for other in ["a/b/c", "a/b/+", "a/b#", "a/b", "#", "/#", "a/b//#", ""] {
        assert!(!masked("a/b/#").spells(other.as_bytes(), b"a/b/c", &levels), "{other}");
    }
}
