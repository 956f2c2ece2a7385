use super::super::testing::{CLUSTER, from_hex, key, keys, secret};
use super::*;

fn gcm(key: &str, nonce: &str, aad: &str, plain: &str) -> (Vec<u8>, Vec<u8>) {
    let key: [u8; 32] = from_hex(key).try_into().unwrap();
    let nonce: [u8; 12] = from_hex(nonce).try_into().unwrap();
    let cipher = Aes256Gcm::new(&key.into());
    let mut text = from_hex(plain);
    let buffer = InOutBuf::from(text.as_mut_slice());
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &from_hex(aad), buffer).unwrap();
    (text, tag.to_vec())
}

#[test]
fn gcm_gives_the_published_answers() {
    let zeros = "00".repeat(32);
    let (text, tag) = gcm(&zeros, &"00".repeat(12), "", "");
    assert!(text.is_empty());
    assert_eq!(tag, from_hex("530f8afbc74536b9a963b4f1c4cb738b"));
    let (text, tag) = gcm(&zeros, &"00".repeat(12), "", &"00".repeat(16));
    assert_eq!(text, from_hex("cea7403d4d606b6e074ec5d3baf39d18"));
    assert_eq!(tag, from_hex("d0d1c8a799996bf0265b98b5d48ab919"));
    let (text, tag) = gcm(
        &"feffe9928665731c6d6a8f9467308308".repeat(2),
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24\
         49a6b525b16aedf5aa0de657ba637b39",
    );
    assert_eq!(
        text,
        from_hex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b\
             1056828838c5f61e6393ba7a0abcc9f662"
        )
    );
    assert_eq!(tag, from_hex("76fc6ece0f4e1768cddf8853bb2d551b"));
}

#[test]
fn hkdf_gives_the_answers_of_rfc_5869() {
    let mut out = [0; 42];
    let salt: Vec<u8> = (0..=0x0c).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22]).expand(&info, &mut out).unwrap();
    let expected =
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(out.to_vec(), from_hex(expected));
    Hkdf::<Sha256>::new(None, &[0x0b; 22]).expand(&[], &mut out).unwrap();
    let expected =
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(out.to_vec(), from_hex(expected));
}

#[test]
fn key_texts() {
    let of = |text: &str| match parse_key(text) {
        Ok(KeySource::Key(key)) => Ok(Ok(key.0.to_vec())),
        Ok(KeySource::File(path)) => Ok(Err(path)),
        Err(error) => Err(error),
    };
    let default = "12345678901234567890123456789012";
    assert_eq!(of(default), Ok(Ok(default.as_bytes().to_vec())));
    let digits: String = (0..32).map(|i| format!("{i:02X}")).collect();
    assert_eq!(of(&digits), Ok(Ok((0..32).collect())));
    assert_eq!(of("@/etc/tlog.key"), Ok(Err("/etc/tlog.key".to_owned())));
    // 32 bytes are the key, whatever they are.
    let at = format!("@{}", "abcdefghijklmnopqrstuvwxyz01234");
    assert_eq!(of(&at), Ok(Ok(at.as_bytes().to_vec())));
    for text in ["", "@", "short", &default[1..], &digits[1..], &format!("{}zz", &digits[2..])] {
        assert_eq!(of(text), Err(KeyError::Length { found: text.len() }), "{text}");
    }
    assert_eq!(of(&"a".repeat(32)), Err(KeyError::Equal));
    assert_eq!(of(&"0".repeat(64)), Err(KeyError::Equal));
}

#[test]
fn key_files_may_end_their_line() {
    let raw: Vec<u8> = (0..32).collect();
    let digits: String = raw.iter().map(|i| format!("{i:02x}")).collect();
    let files: [&[u8]; 4] = [
        &raw,
        digits.as_bytes(),
        &[&raw[..], b"\n"].concat(),
        &[digits.as_bytes(), b"\r\n"].concat(),
    ];
    for file in files {
        assert_eq!(MasterKey::from_file(file).ok().map(|key| key.0.to_vec()), Some(raw.clone()));
    }
    assert_eq!(MasterKey::from_file(b"@x\n").err(), Some(KeyError::Length { found: 3 }));
}

#[test]
fn known_and_weak_keys_are_told() {
    let default = MasterKey::new(*DEFAULT_KEY).ok();
    assert!(default.as_ref().is_some_and(MasterKey::is_default));
    assert!(default.is_some_and(|key| key.is_weak()));
    assert!(!key(1).is_default() && !key(1).is_weak());
    let mut ring = keys();
    assert!(!ring.has_default());
    ring.add(8, MasterKey::new(*DEFAULT_KEY).ok().unwrap()).unwrap();
    assert!(ring.has_default());
}

#[test]
fn a_ring_keeps_its_numbers_apart() {
    let mut ring = keys();
    ring.add(7, key(1)).unwrap();
    assert_eq!(ring.add(7, key(2)), Err(KeyError::Taken { kid: 7 }));
    assert_eq!(ring.activate(8), Err(KeyError::Unknown { kid: 8 }));
    ring.add(8, key(2)).unwrap();
    ring.activate(8).unwrap();
    assert_eq!((ring.active(), ring.kids().collect::<Vec<_>>()), (8, vec![7, 8]));
    let print = ring.fingerprint(7).unwrap();
    assert_ne!(Some(print), ring.fingerprint(8));
    assert_eq!(ring.check(7, &print), Ok(()));
    assert_eq!(ring.check(8, &print), Err(WrongKey::Other { kid: 8 }));
    assert_eq!(ring.check(9, &print), Err(WrongKey::Absent { kid: 9 }));
    assert_eq!(format!("{ring:?}"), "KeyRing { kids: [7, 8], active: 8 }");
}

#[test]
fn a_topic_secret_opens_for_its_topic_and_cluster_only() {
    let (mut ring, topic) = (keys(), TopicId([1; 16]));
    let sealed = ring.wrap(&secret(), CLUSTER, topic, [9; 12]);
    let opened = ring.unwrap(&sealed, CLUSTER, topic).ok().unwrap();
    assert_eq!(*opened.0, [0x5e; 32]);
    assert_eq!(SealedSecret::from_bytes(&sealed.to_bytes()).ok(), Some(sealed.clone()));
    assert!(SealedSecret::from_bytes(&sealed.to_bytes()[1..]).is_err());

    let refused = |ring: &KeyRing, sealed: &SealedSecret, cluster, topic| {
        ring.unwrap(sealed, cluster, topic).err().unwrap()
    };
    let forged = UnwrapError::Unauthentic(Unauthentic);
    assert_eq!(refused(&ring, &sealed, ClusterId([2; 16]), topic), forged);
    assert_eq!(refused(&ring, &sealed, CLUSTER, TopicId([2; 16])), forged);
    for byte in 0..SealedSecret::BYTES {
        let mut bytes = sealed.to_bytes();
        bytes[byte] ^= 1;
        let changed = SealedSecret::from_bytes(&bytes).unwrap();
        assert!(ring.unwrap(&changed, CLUSTER, topic).is_err(), "byte {byte}");
    }
    // The same key under another number is another context.
    ring.add(8, key(1)).unwrap();
    let moved = SealedSecret { kid: 8, ..sealed.clone() };
    assert_eq!(refused(&ring, &moved, CLUSTER, topic), forged);
    let other = KeyRing::new(9, key(1));
    let absent = UnwrapError::WrongKey(WrongKey::Absent { kid: 7 });
    assert_eq!(refused(&other, &sealed, CLUSTER, topic), absent);
}

fn context() -> FragmentContext {
    FragmentContext {
        kid: 7,
        cluster: CLUSTER,
        topic: TopicId([1; 16]),
        partition: 2,
        leader_epoch: 3,
        number: 4,
        generation: 5,
        data_shards: 1,
        parity_shards: 1,
    }
}

#[test]
fn the_info_string_has_the_fixed_layout() {
    let expected = [
        b"tlog/fragment/v1".as_slice(),
        &[1, 0, 0, 0, 7],
        &[0xc1; 16],
        &[1; 16],
        &[0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 1, 1],
    ]
    .concat();
    assert_eq!(context().info(), expected);
}

#[test]
fn nonces_differ_in_the_index_alone() {
    let base = [0xff; 12];
    assert_eq!(nonce(&base, 0), base);
    assert_eq!(nonce(&base, 5)[..8], base[..8]);
    assert_eq!(nonce(&base, 5)[8..], [0xff, 0xff, 0xff, 0xfa]);
    let all: std::collections::BTreeSet<_> = (0..24).map(|i| nonce(&base, i)).collect();
    assert_eq!(all.len(), 24);
}

fn seal_two(
    ring: &KeyRing,
    secret: &TopicSecret,
    context: &FragmentContext,
    salt: &Hash,
) -> Vec<Tag> {
    let (mut a, mut b) = ([1; 40], [2; 40]);
    let sealer = Sealer::new(ring, secret, context, salt, [3; 12]).unwrap();
    sealer.seal(&mut [ToSeal { aad: b"a", text: &mut a }, ToSeal { aad: b"b", text: &mut b }])
}

#[test]
fn everything_in_the_context_changes_the_key() {
    let mut ring = keys();
    ring.add(8, key(1)).unwrap();
    let base = context();
    let contexts = [
        base,
        FragmentContext { kid: 8, ..base },
        FragmentContext { cluster: ClusterId([9; 16]), ..base },
        FragmentContext { topic: TopicId([9; 16]), ..base },
        FragmentContext { partition: 9, ..base },
        FragmentContext { leader_epoch: 9, ..base },
        FragmentContext { number: 9, ..base },
        FragmentContext { generation: 9, ..base },
        FragmentContext { data_shards: 2, parity_shards: 0, ..base },
    ];
    let mut seen: Vec<Vec<Tag>> =
        contexts.iter().map(|c| seal_two(&ring, &secret(), c, &[4; 32])).collect();
    seen.push(seal_two(&ring, &secret(), &base, &[5; 32]));
    seen.push(seal_two(&ring, &TopicSecret::new([6; 32]), &base, &[4; 32]));
    seen.push(seal_two(&KeyRing::new(7, key(2)), &secret(), &base, &[4; 32]));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn what_is_opened_was_sealed_under_this_index_and_data() {
    let (ring, salt) = (keys(), [4; 32]);
    let mut text = [1; 40];
    let mut other = [2; 40];
    let sealer = Sealer::new(&ring, &secret(), &context(), &salt, [3; 12]).unwrap();
    let tags = sealer
        .seal(&mut [ToSeal { aad: b"a", text: &mut text }, ToSeal { aad: b"b", text: &mut other }]);
    let sealed = text;
    let opener = Opener::new(&ring, &secret(), &context(), &salt, [3; 12]).unwrap();
    assert_eq!(opener.open(1, b"a", &mut text, &tags[0]), Err(Unauthentic));
    assert_eq!(opener.open(0, b"b", &mut text, &tags[0]), Err(Unauthentic));
    assert_eq!(opener.open(0, b"a", &mut text, &tags[1]), Err(Unauthentic));
    assert_eq!(text, sealed, "a refused text stays ciphertext");
    opener.open(0, b"a", &mut text, &tags[0]).unwrap();
    assert_eq!(text, [1; 40]);
}

#[test]
#[should_panic(expected = "exactly n shards")]
fn a_key_seals_all_shards_or_none() {
    let sealer = Sealer::new(&keys(), &secret(), &context(), &[4; 32], [3; 12]).unwrap();
    let _ = sealer.seal(&mut [ToSeal { aad: b"a", text: &mut [1; 4] }]);
}

#[test]
fn a_stuck_random_source_still_gives_each_header_and_body_its_salt() {
    let (ring, random) = (keys(), [0; 32]);
    let salt = |header: &[u8], body: &[u8]| {
        let digest = ring.digest(7, body).unwrap();
        ring.salt(7, &random, header, &digest).unwrap()
    };
    assert_eq!(salt(b"h", b"b"), salt(b"h", b"b"));
    assert_ne!(salt(b"h", b"b"), salt(b"h", b"c"));
    assert_ne!(salt(b"h", b"b"), salt(b"i", b"b"));
    let digest = ring.digest(7, b"b").unwrap();
    assert_ne!(salt(b"h", b"b"), ring.salt(7, &[1; 32], b"h", &digest).unwrap());
}
