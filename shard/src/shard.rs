//! The state machine itself: one entry, one dispatch.

use std::sync::Arc;

use crate::Interest;
use crate::{Input, Now, Outbox, ShardConfig};

/// One core's share of the broker.
pub struct Shard {
    config: ShardConfig,
    interest: Arc<Interest>,
}

impl Shard {
    /// A shard with no sessions. `interest` is shared by all shards of the process.
    #[must_use]
    pub fn new(config: ShardConfig, interest: Arc<Interest>) -> Self {
        Self { config, interest }
    }

    /// Handles one input and appends what is to be done about it to `out`.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outbox) {
        let _ = (now, input, out, &self.config, &self.interest);
    }
}
