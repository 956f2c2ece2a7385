//! `tlog topics`: what a broker holds.

use super::args::TopicsArgs;
use super::failure::Failure;
use super::output::out;
use crate::client::{KafkaClient, Which};

pub(super) async fn run(args: TopicsArgs) -> Result<(), Failure> {
    let mut client = KafkaClient::connect(&args.broker).await?;
    let topics = client.topics(None).await?;
    out(format_args!(
        "{:<40} {:>9} {:>20} {:>20}",
        "TOPIC", "PARTITION", "FIRST OFFSET", "END OFFSET"
    ));
    for topic in topics {
        for partition in &topic.partitions {
            let mut offset = async |which| {
                let offset = client.list_offset(&topic.name, partition.index, which).await?;
                Ok::<_, Failure>(offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string()))
            };
            let (first, end) = (offset(Which::Earliest).await?, offset(Which::Latest).await?);
            out(format_args!("{:<40} {:>9} {first:>20} {end:>20}", topic.name, partition.index));
        }
    }
    Ok(())
}
