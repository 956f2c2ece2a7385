//! Which end of a partition clients are told.

use super::*;

#[tokio::test]
async fn the_end_that_is_told_is_the_high_watermark() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.create("t", 1).await;
    client.call(9, &produce(-1, &[("t", 0, batch(&["a"]))])).await;
    server.broker.topic("t").unwrap().partition(0).unwrap().pretend_log_end(5);
    // With data, and without any at the end.
    for offset in [0, 1] {
        let asked = fetch("t", &[(0, offset)]).with_max_wait_ms(0);
        let fetched = client.call(4, &asked).await;
        let part = &fetched.responses[0].partitions[0];
        let told = (part.error_code, part.high_watermark, part.last_stable_offset);
        assert_eq!(told, (0, 1, 1), "offset {offset}");
    }
    let asked = ListOffsetsPartition::default().with_timestamp(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(words("t").into())
        .with_partitions(vec![asked.with_current_leader_epoch(-1)]);
    let listed = client.call(7, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
    assert_eq!(listed.topics[0].partitions[0].offset, 1);
}
