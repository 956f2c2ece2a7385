//! What a reader is told of leader epochs after the server was killed.

use kafka_protocol::messages::OffsetForLeaderEpochRequest;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use super::*;

/// Offset 0 in epoch 0, offsets 1 and 2 in epoch 1: the server was killed in between.
async fn start_in_the_second_epoch() -> Server {
    let disk = SimDisk::new();
    let first = Server::start_on(&disk).await;
    let mut client = first.client().await;
    client.create("t", 1).await;
    client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    let second = Server::start_on(&disk.crash(1)).await;
    second.client().await.call(9, &produce(-1, &[("t", 0, batch(&["b", "c"]))])).await;
    second
}

#[tokio::test]
async fn the_end_of_each_epoch_is_told() {
    let server = start_in_the_second_epoch().await;
    let mut client = server.client().await;
    let expected = [
        ("t", -1, 0, (0, 0, 1)),
        ("t", -1, 1, (0, 1, 3)),
        ("t", 1, 0, (0, 0, 1)),
        ("t", -1, 2, (0, -1, -1)),
        ("t", 0, 0, (74, -1, -1)),
        ("t", 2, 0, (75, -1, -1)),
        ("u", -1, 0, (3, -1, -1)),
    ];
    for (name, current, asked, answer) in expected {
        let partition = OffsetForLeaderPartition::default()
            .with_current_leader_epoch(current)
            .with_leader_epoch(asked);
        let topic = OffsetForLeaderTopic::default()
            .with_topic(words(name).into())
            .with_partitions(vec![partition]);
        let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
        let told = client.call(2, &request).await;
        let found = &told.topics[0].partitions[0];
        let found = (found.error_code, found.leader_epoch, found.end_offset);
        assert_eq!(found, answer, "{name} {current} {asked}");
    }
}

#[tokio::test]
async fn a_reader_of_another_history_is_told_where_it_parts() {
    let server = start_in_the_second_epoch().await;
    let mut client = server.client().await;
    // Epoch of the last record read, next offset; error, epoch and end of what diverges, whether there are data.
    let expected = [
        (-1, 3, (0, -1, -1, false)),
        (0, 1, (0, -1, -1, true)),
        (0, 2, (0, 0, 1, false)),
        (1, 1, (0, -1, -1, true)),
        (1, 4, (0, 1, 3, false)),
        (2, 1, (1, -1, -1, false)),
    ];
    for (epoch, offset, answer) in expected {
        let mut request = fetch("t", &[(0, offset)]).with_max_wait_ms(0);
        request.topics[0].partitions[0].last_fetched_epoch = epoch;
        let fetched = client.call(12, &request).await;
        let part = &fetched.responses[0].partitions[0];
        let (parts, end) = (part.diverging_epoch.epoch, part.diverging_epoch.end_offset);
        let has_data = part.records.as_ref().is_some_and(|records| !records.is_empty());
        assert_eq!((part.error_code, parts, end, has_data), answer, "{epoch} {offset}");
    }
}
