//! Answers whose data is sent from segment files.

use super::*;
use crate::disk::FileDisk;

/// Everything of partition 1 from offset 0 on, two records a batch; partition 0 is empty and asked as well.
async fn read_all(client: &mut Client, version: i16, count: usize) -> Vec<Bytes> {
    let mut got = Vec::new();
    while got.len() < count {
        let next = 2 * i64::try_from(got.len()).unwrap();
        let fetched = client.call(version, &fetch("t", &[(0, 0), (1, next)])).await;
        assert!(offsets(&fetched)[0].is_empty());
        let records = fetched.responses[0].partitions[1].records.clone().unwrap();
        for batch in Batches::new(&records) {
            got.push(Bytes::copy_from_slice(batch.unwrap().1));
        }
    }
    got
}

#[tokio::test]
async fn they_are_what_was_appended_with_descriptors_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let sent: Vec<Bytes> = (0..9_u8)
        .map(|number| batch(&[&"ab".repeat(60_000 + 500 * usize::from(number)), "c"]))
        .collect();
    let real = open_broker(Arc::new(FileDisk), dir.path().join("data"));
    for server in [Server::start().await, Server::of(real, Config::TEST).await] {
        let mut client = server.client().await;
        client.create("t", 2).await;
        for batch in &sent {
            let produced = client.call(9, &produce(-1, &[("t", 1, batch.clone())])).await;
            assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
        }
        for version in [4, 12] {
            for (got, sent) in read_all(&mut client, version, sent.len()).await.iter().zip(&sent) {
                assert_eq!(got[17..], sent[17..]);
            }
        }
    }
}

#[tokio::test]
async fn they_take_no_memory_however_slowly_they_are_read() {
    let server = Server::start().await;
    let mut writer = server.client().await;
    writer.create("t", 1).await;
    let value = "x".repeat(1_000_000);
    for _ in 0..20 {
        writer.call(9, &produce(-1, &[("t", 0, batch(&[&value]))])).await;
    }
    let mut reader = server.client().await;
    let mut all = fetch("t", &[(0, 0)]).with_max_bytes(1 << 20);
    all.topics[0].partitions[0].partition_max_bytes = 1 << 20;
    reader.send(4, &all).await;
    reader.socket.readable().await.unwrap();
    until("all memory", || server.shared.fetched.free_bytes() == 1 << 20).await;
    let (_, fetched) = reader.receive::<FetchRequest>(4).await;
    assert!(!offsets(&fetched)[0].is_empty());
}
