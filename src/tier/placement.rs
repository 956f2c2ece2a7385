//! Which shard goes to which server.
//!
//! With exactly n servers shard i of fragment f goes to server (i + f) mod n: reads then ask all servers alike, and not the
//! first k alone. With more servers the n with the highest score of a weighted rendezvous over (partition, fragment number)
//! take part, best first; so a server more or less moves only what it takes or had. The choice stands in the manifest
//! entry: nobody computes it to find a shard, and it may change between versions.

use sha2::{Digest, Sha256};

use super::error::PlacementError;
use crate::types::TopicPartition;

/// A server that may take shards.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name in manifest entries.
    pub name: String,
    /// Share of shards relative to others; at least a little above zero.
    pub weight: f64,
}

/// For each shard index the server that takes it, as an index into the list that was given.
///
/// `allow_sharing` (the flag `-dev`) lets shards share servers where there are too few.
///
/// # Errors
/// [`PlacementError`].
pub fn place(
    partition: TopicPartition,
    number: u64,
    shards: usize,
    servers: &[Server],
    allow_sharing: bool,
) -> Result<Vec<usize>, PlacementError> {
    check(shards, servers, allow_sharing)?;
    if servers.len() > shards {
        return Ok(rendezvous(partition, number, shards, servers));
    }
    let count = servers.len() as u64;
    let turn = usize::try_from(number % count).expect("below the count of servers");
    Ok((0..shards).map(|index| (index + turn) % servers.len()).collect())
}

/// Whether fragments of `shards` shards can be placed at all.
///
/// # Errors
/// [`PlacementError`].
pub fn check(shards: usize, servers: &[Server], allow_sharing: bool) -> Result<(), PlacementError> {
    for (i, server) in servers.iter().enumerate() {
        if servers.iter().take(i).any(|other| other.name == server.name) {
            return Err(PlacementError::Twice { name: server.name.clone() });
        }
    }
    match servers.len() {
        0 => Err(PlacementError::NoServers),
        few if few < shards && !allow_sharing => {
            Err(PlacementError::TooFewServers { servers: few, shards })
        }
        _ => Ok(()),
    }
}

fn rendezvous(
    partition: TopicPartition,
    number: u64,
    shards: usize,
    servers: &[Server],
) -> Vec<usize> {
    let score = |server: &Server| {
        let mut hash = Sha256::new();
        hash.update(partition.topic.as_bytes());
        hash.update(partition.partition.to_be_bytes());
        hash.update(number.to_be_bytes());
        hash.update(server.name.as_bytes());
        let bytes: [u8; 32] = hash.finalize().into();
        let draw = bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        // 53 bits, moved off zero: -ln of a uniform draw over the weight is an exponential race, the least wins.
        let uniform = ((draw >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -uniform.ln() / server.weight.max(1e-9)
    };
    let mut ranked: Vec<(f64, usize)> =
        servers.iter().enumerate().map(|(i, server)| (score(server), i)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    ranked.into_iter().take(shards).map(|(_, server)| server).collect()
}

/// How many servers may be lost without losing a fragment of k+m shards on `servers` servers:
/// ⌊m / ⌈n / s⌉⌋, which is m from n servers on.
#[must_use]
pub fn tolerance(data_shards: usize, parity_shards: usize, servers: usize) -> usize {
    if servers == 0 {
        return 0;
    }
    parity_shards / (data_shards + parity_shards).div_ceil(servers).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::TopicId;

    fn servers(count: usize) -> Vec<Server> {
        (0..count).map(|i| Server { name: format!("redis-{i}:6379"), weight: 1.0 }).collect()
    }

    fn partition() -> TopicPartition {
        TopicPartition { topic: TopicId([3; 16]), partition: 1 }
    }

    #[test]
    fn every_shard_has_a_server_of_its_own() {
        for count in 6..12 {
            for number in 0..50 {
                let placed = place(partition(), number, 6, &servers(count), false).unwrap();
                assert_eq!(placed.len(), 6);
                assert_eq!(placed.iter().collect::<BTreeSet<_>>().len(), 6, "{placed:?}");
                assert!(placed.iter().all(|server| *server < count));
            }
        }
    }

    #[test]
    fn six_servers_take_turns() {
        let placed = |number| place(partition(), number, 6, &servers(6), false).unwrap();
        assert_eq!(placed(0), [0, 1, 2, 3, 4, 5]);
        assert_eq!(placed(2), [2, 3, 4, 5, 0, 1]);
    }

    #[test]
    fn more_servers_share_the_load_by_weight() {
        let mut servers = servers(10);
        servers[9].weight = 3.0;
        let mut taken = [0; 10];
        for number in 0..3_000 {
            for server in place(partition(), number, 6, &servers, false).unwrap() {
                taken[server] += 1;
            }
        }
        // 18,000 shards; equal weights would give 1,800 each.
        assert!(taken[..9].iter().all(|count| (1_500..2_000).contains(count)), "{taken:?}");
        assert!(taken[9] > 2_400, "{taken:?}");
    }

    #[test]
    fn a_new_server_moves_only_what_it_takes() {
        for number in 0..200 {
            let before = place(partition(), number, 6, &servers(8), false).unwrap();
            let after = place(partition(), number, 6, &servers(9), false).unwrap();
            let (before, after): (BTreeSet<_>, BTreeSet<_>) =
                (before.into_iter().collect(), after.into_iter().collect());
            assert!(before.difference(&after).count() <= 1);
            assert!(after.difference(&before).all(|server| *server == 8));
        }
    }

    #[test]
    fn too_few_servers_are_refused_with_the_cure() {
        let refused = place(partition(), 0, 6, &servers(4), false).unwrap_err();
        assert_eq!(refused, PlacementError::TooFewServers { servers: 4, shards: 6 });
        assert!(refused.to_string().contains("add 2 more"), "{refused}");
        assert_eq!(place(partition(), 0, 6, &[], true), Err(PlacementError::NoServers));
        let placed = place(partition(), 0, 6, &servers(4), true).unwrap();
        assert_eq!(placed, [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn a_server_listed_twice_is_refused() {
        let mut servers = servers(7);
        servers[6].name = servers[0].name.clone();
        assert!(matches!(
            place(partition(), 0, 6, &servers, false),
            Err(PlacementError::Twice { .. })
        ));
    }

    #[test]
    fn the_tolerance_figures_of_four_and_two() {
        let figures: Vec<usize> = (0..=8).map(|servers| tolerance(4, 2, servers)).collect();
        assert_eq!(figures, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }
}
