use proptest::prelude::*;

use super::*;

const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const LIMIT: usize = 1 << 20;

fn refused(codec: Compression, packed: &[u8]) -> bool {
    matches!(codec.decompress(packed, LIMIT), Err(Error::Compressed { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_codec_gives_back_what_it_got(
        piece in prop::collection::vec(any::<u8>(), 0..200),
        times in 0usize..600,
        codec in prop::sample::select(&CODECS),
    ) {
        let plain = piece.repeat(times);
        prop_assert_eq!(codec.decompress(&codec.compress(&plain), LIMIT).unwrap(), plain);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        codec in prop::sample::select(&CODECS),
        cut: prop::sample::Index,
    ) {
        let _ = codec.decompress(&bytes, LIMIT);
        // Behind a valid beginning.
        let mut packed = codec.compress(&bytes);
        packed.truncate(cut.index(packed.len() + 1));
        packed.extend_from_slice(&bytes);
        let _ = codec.decompress(&packed, LIMIT);
    }

    #[test]
    fn a_cut_stream_is_refused(
        bytes in prop::collection::vec(any::<u8>(), 1..200),
        codec in prop::sample::select(&CODECS),
        cut: prop::sample::Index,
    ) {
        let packed = codec.compress(&bytes);
        let cut = &packed[..cut.index(packed.len())];
        // Nothing, and the bare xerial header, are streams of no bytes.
        match codec.decompress(cut, LIMIT) {
            Ok(plain) => prop_assert!(plain.is_empty()),
            Err(error) => prop_assert!(matches!(error, Error::Compressed { .. }), "{}", error),
        }
    }
}

#[test]
fn bombs_are_refused_at_the_limit() {
    let zeros = vec![0; LIMIT + 1];
    for codec in CODECS {
        let bomb = codec.compress(&zeros);
        assert_eq!(codec.decompress(&bomb, LIMIT), Err(Error::Expands { codec, limit: LIMIT }));
        let fits = codec.compress(&zeros[1..]);
        assert_eq!(codec.decompress(&fits, LIMIT).unwrap().len(), LIMIT);
    }
}

#[test]
fn gzip_may_have_several_members() {
    let codec = Compression::Gzip;
    let members = [codec.compress(b"one "), codec.compress(b"two")].concat();
    assert_eq!(codec.decompress(&members, LIMIT).unwrap(), b"one two");
    assert!(refused(codec, &[codec.compress(b"one"), b"and what is no gzip".to_vec()].concat()));
}

#[test]
fn raw_snappy_is_read_too() {
    let plain = b"snappy snappy snappy snappy".repeat(50);
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    assert_eq!(Compression::Snappy.decompress(&raw, LIMIT).unwrap(), plain);
}

#[test]
fn snappy_lengths_are_not_believed() {
    let codec = Compression::Snappy;
    // 4 GiB announced, and then 1 MiB of which nothing is there.
    assert!(matches!(
        codec.decompress(&[0xff, 0xff, 0xff, 0xff, 0x0f], LIMIT),
        Err(Error::Expands { .. })
    ));
    assert!(refused(codec, &[0x80, 0x80, 0x40]));
    let mut blocks = codec.compress(b"plain");
    blocks.extend_from_slice(&i32::MAX.to_be_bytes());
    assert!(refused(codec, &blocks));
    blocks.truncate(blocks.len() - 4);
    blocks.extend_from_slice(&(-1i32).to_be_bytes());
    assert!(refused(codec, &blocks));
    // The limit holds for all blocks together.
    let block = codec.compress(&[0; 1 << 15])[16..].to_vec();
    let bomb = [&codec.compress(&[])[..], &block.repeat(33)].concat();
    assert!(matches!(codec.decompress(&bomb, LIMIT), Err(Error::Expands { .. })));
}

#[test]
fn an_lz4_frame_has_an_end_and_nothing_after_it() {
    let codec = Compression::Lz4;
    let frame = codec.compress(b"framed");
    assert!(refused(codec, &frame[..frame.len() - 4]));
    assert!(refused(codec, &[&frame[..], b"x"].concat()));
    assert!(refused(codec, &[frame.clone(), frame].concat()));
}

#[test]
fn zstd_windows_are_bounded() {
    use zstd::stream::raw::CParameter;
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG + 1)).unwrap();
    encoder.write_all(b"a wide window").unwrap();
    assert!(refused(Compression::Zstd, &encoder.finish().unwrap()));
}
