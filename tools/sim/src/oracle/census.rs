//! Oracle *census*: when everybody has left, nothing of them remains.

use petrel_shard::Census;

use crate::hold;
use crate::violation::Checked;

const ORACLE: &str = "census";

/// Checks that a shard that nobody uses any more holds nothing.
///
/// # Errors
/// It holds something.
pub fn check_empty(shard: usize, census: &Census) -> Checked {
    hold!(
        *census == Census::default(),
        ORACLE,
        "all clients have left shard {shard}, all sessions and retained messages are gone, and it \
         still holds {census:?}"
    );
    Ok(())
}

/// Checks that a shard that was shut down holds no connection.
///
/// # Errors
/// It holds one.
pub fn check_disconnected(shard: usize, census: &Census) -> Checked {
    hold!(
        census.connections == 0,
        ORACLE,
        "shard {shard} was shut down and still holds {} connections",
        census.connections
    );
    Ok(())
}

/// Checks that nobody is interested in anything any more.
///
/// # Errors
/// Somebody is.
pub fn check_no_interest(stats: &petrel_shard::interest::InterestStats) -> Checked {
    hold!(
        stats.entries == 0,
        ORACLE,
        "all subscriptions are gone and the interest table still holds {stats:?}"
    );
    Ok(())
}
