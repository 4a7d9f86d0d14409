//! The filters of all rules as a tree, one root for each user, group and client that rules name.

use std::collections::HashMap;

use petrel_proto::Text;
use smallvec::SmallVec;

use super::filters::{Level, Template};
use super::{Subjects, Who};

/// Rules by whom they name and by their filters.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tree {
    /// Where a value cannot be put into a template, that matches any level instead of none.
    strict: bool,
    users: HashMap<Box<str>, u32>,
    groups: HashMap<Box<str>, u32>,
    client_ids: HashMap<Box<str>, u32>,
    /// If that is not 0.
    everybody: u32,
    nodes: Vec<Node>,
    /// The levels that occur, by a number.
    symbols: HashMap<Box<str>, u32>,
    /// The child of a node by a level.
    edges: HashMap<(u32, u32), u32>,
}

/// By what a rule is found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Principal {
    User(Text),
    Group(Text),
    ClientId(Text),
    Everybody,
}

#[derive(Debug, Default, PartialEq)]
struct Node {
    /// The child by `+`, if that is not 0, which is none.
    any: u32,
    /// The first child by a level, and the next of its parent.
    first: u32,
    next: u32,
    /// The level that leads here begins with a `$`.
    is_system: bool,
    templates: Vec<(Template, u32)>,
    /// Rules whose filter ends here, and those with a `#` behind.
    ends: Vec<u32>,
    rests: Vec<u32>,
}

/// A filter or a topic name on its way through a tree.
struct Walk<'a> {
    who: &'a Who<'a>,
    levels: &'a [&'a str],
}

impl Principal {
    /// By what a rule is found; what is told by that is taken from what has to be looked at.
    pub(super) fn take_from(subjects: &mut Subjects) -> Vec<Self> {
        let is_exact = |id: &Text| !id.as_str().ends_with('*');
        if !subjects.users.is_empty() {
            return std::mem::take(&mut subjects.users).into_iter().map(Self::User).collect();
        }
        if !subjects.client_ids.is_empty() && subjects.client_ids.iter().all(is_exact) {
            let ids = std::mem::take(&mut subjects.client_ids);
            return ids.into_iter().map(Self::ClientId).collect();
        }
        if !subjects.groups.is_empty() {
            return std::mem::take(&mut subjects.groups).into_iter().map(Self::Group).collect();
        }
        vec![Self::Everybody]
    }
}

impl Tree {
    /// A tree of what is denied: where a value cannot be put in, more is.
    pub(super) fn strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// Adds a filter of a rule.
    pub(super) fn insert(&mut self, principal: &Principal, filter: &[Level], rule: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let new = self.nodes.len() as u32;
        let mut node = match principal {
            Principal::User(name) => *self.users.entry(name.as_str().into()).or_insert(new),
            Principal::Group(name) => *self.groups.entry(name.as_str().into()).or_insert(new),
            Principal::ClientId(id) => *self.client_ids.entry(id.as_str().into()).or_insert(new),
            Principal::Everybody if self.everybody == 0 => {
                self.everybody = new;
                new
            }
            Principal::Everybody => self.everybody,
        };
        if node == new {
            self.push(Node::default());
        }
        for level in filter {
            node = match level {
                Level::Text(text) => self.child(node, text),
                Level::Any => match self.nodes[node as usize].any {
                    0 => {
                        let any = self.push(Node::default());
                        self.nodes[node as usize].any = any;
                        any
                    }
                    any => any,
                },
                Level::Template(template) => {
                    let known = &self.nodes[node as usize].templates;
                    match known.iter().find(|(known, _)| known == template) {
                        Some(&(_, child)) => child,
                        None => {
                            let is_system = template.is_system();
                            let child = self.push(Node { is_system, ..Node::default() });
                            let templates = &mut self.nodes[node as usize].templates;
                            templates.push((template.clone(), child));
                            child
                        }
                    }
                }
                Level::Rest => return self.nodes[node as usize].rests.push(rule),
            };
        }
        self.nodes[node as usize].ends.push(rule);
    }

    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        // A file of rules is bounded, and far shorter.
        (self.nodes.len() - 1) as u32
    }

    fn child(&mut self, node: u32, level: &str) -> u32 {
        let symbol = match self.symbols.get(level) {
            Some(&symbol) => symbol,
            None => {
                let symbol = self.symbols.len() as u32;
                self.symbols.insert(level.into(), symbol);
                symbol
            }
        };
        if let Some(&child) = self.edges.get(&(node, symbol)) {
            return child;
        }
        let next = self.nodes[node as usize].first;
        let is_system = level.starts_with('$');
        let child = self.push(Node { next, is_system, ..Node::default() });
        self.nodes[node as usize].first = child;
        self.edges.insert((node, symbol), child);
        child
    }

    /// Calls `found` with each rule of whoever asks one filter of which matches all that this filter or topic
    /// name does.
    pub(super) fn covering(&self, who: &Who<'_>, filter: &str, found: &mut dyn FnMut(u32)) {
        let levels: SmallVec<[&str; 16]> = filter.split('/').collect();
        let walk = Walk { who, levels: &levels };
        self.each_root(who, |root| {
            self.cover(&walk, root, 0, found);
            false
        });
    }

    /// Whether a rule of whoever asks for which `is_it` is true has a filter that matches anything which this
    /// filter or topic name does.
    pub(super) fn meets(&self, who: &Who<'_>, filter: &str, is_it: &dyn Fn(u32) -> bool) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let levels: SmallVec<[&str; 16]> = filter.split('/').collect();
        let walk = Walk { who, levels: &levels };
        self.each_root(who, |root| self.meet(&walk, root, 0, is_it))
    }

    /// Looks at the roots of a client until it is true for one; whether it was.
    fn each_root(&self, who: &Who<'_>, mut look: impl FnMut(u32) -> bool) -> bool {
        let mut of = |roots: &HashMap<Box<str>, u32>, name: &str| {
            roots.get(name).is_some_and(|&root| look(root))
        };
        who.user.is_some_and(|user| of(&self.users, user))
            || of(&self.client_ids, who.client_id)
            || who.groups.iter().any(|group| of(&self.groups, group.as_str()))
            || self.everybody != 0 && look(self.everybody)
    }

    fn cover(&self, walk: &Walk<'_>, node: u32, at: usize, found: &mut dyn FnMut(u32)) {
        let Node { any, templates, ends, rests, .. } = &self.nodes[node as usize];
        let level = walk.levels.get(at).copied();
        // [MQTT5-4.7.2-1]: leading wildcards do not match names of the broker's own.
        let is_own = at == 0 && level.is_some_and(|level| level.starts_with('$'));
        if !is_own {
            rests.iter().for_each(|&rule| found(rule));
        }
        let Some(level) = level else { return ends.iter().for_each(|&rule| found(rule)) };
        if level == "#" {
            if at == 0 && *any != 0 {
                // No topic has no level, so that `+/#` matches whatever `#` does.
                self.nodes[*any as usize].rests.iter().for_each(|&rule| found(rule));
            }
            return;
        }
        if *any != 0 && !is_own {
            self.cover(walk, *any, at + 1, found);
        }
        if level == "+" {
            return;
        }
        if let Some(child) = self.find(node, level) {
            self.cover(walk, child, at + 1, found);
        }
        for (template, child) in templates {
            if template.is(walk.who, level, at == 0, self.strict) {
                self.cover(walk, *child, at + 1, found);
            }
        }
    }

    fn meet(&self, walk: &Walk<'_>, node: u32, at: usize, is_it: &dyn Fn(u32) -> bool) -> bool {
        let Node { any, templates, ends, rests, .. } = &self.nodes[node as usize];
        let level = walk.levels.get(at).copied();
        let is_own = at == 0 && level.is_some_and(|level| level.starts_with('$'));
        if !is_own && rests.iter().any(|&rule| is_it(rule)) {
            return true;
        }
        match level {
            None => ends.iter().any(|&rule| is_it(rule)),
            Some("#") => self.has_below(walk.who, node, at, is_it),
            Some("+") => self
                .each_child(walk.who, node, at, &mut |child| self.meet(walk, child, at + 1, is_it)),
            Some(level) => {
                let by_any = *any != 0 && !is_own;
                by_any && self.meet(walk, *any, at + 1, is_it)
                    || self
                        .find(node, level)
                        .is_some_and(|child| self.meet(walk, child, at + 1, is_it))
                    || templates.iter().any(|(template, child)| {
                        template.is(walk.who, level, at == 0, self.strict)
                            && self.meet(walk, *child, at + 1, is_it)
                    })
            }
        }
    }

    /// Whether a node or what is below it has such a rule; what leading wildcards do not match left out.
    fn has_below(&self, who: &Who<'_>, node: u32, at: usize, is_it: &dyn Fn(u32) -> bool) -> bool {
        let Node { ends, rests, .. } = &self.nodes[node as usize];
        ends.iter().chain(rests).any(|&rule| is_it(rule))
            || self
                .each_child(who, node, at, &mut |child| self.has_below(who, child, at + 1, is_it))
    }

    /// Looks at the children of a node that a wildcard matches until it is true for one; whether it was.
    fn each_child(
        &self,
        who: &Who<'_>,
        node: u32,
        at: usize,
        look: &mut dyn FnMut(u32) -> bool,
    ) -> bool {
        let Node { any, first, templates, .. } = &self.nodes[node as usize];
        let is_matched = |child: u32| at > 0 || !self.nodes[child as usize].is_system;
        if *any != 0 && look(*any) {
            return true;
        }
        for (template, child) in templates {
            if template.is_any(who, at == 0, self.strict) && is_matched(*child) && look(*child) {
                return true;
            }
        }
        let mut child = *first;
        while child != 0 {
            if is_matched(child) && look(child) {
                return true;
            }
            child = self.nodes[child as usize].next;
        }
        false
    }

    fn find(&self, node: u32, level: &str) -> Option<u32> {
        let symbol = self.symbols.get(level)?;
        self.edges.get(&(node, *symbol)).copied()
    }
}
