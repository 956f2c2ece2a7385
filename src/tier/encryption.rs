//! Keys, and sealing and opening with them. Pure: random bytes are arguments.
//!
//! ```text
//! master[kid]   32 bytes
//! K_x           HKDF-SHA256(master[kid], no salt, "tlog/" x "/v1")    x: salt digest chain mac fingerprint wrap
//! topic secret  32 random bytes per topic, sealed under K_wrap for storage
//! DEK           HKDF-SHA256(master[kid] || secret, salt, info)        one per fragment, see `FragmentContext`
//! nonce[i]      base nonce, its last four bytes XORed with the shard index i, u32 big-endian
//! ```
//!
//! A key of a fragment seals all its shards at once and is gone: [`Sealer::seal`] takes it by value. So no key and nonce
//! meet two different messages. Secrets have no `Debug`, are zeroed on drop and are compared in constant time.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::error::{KeyError, Malformed, Unauthentic, WrongKey};
use crate::types::{ClusterId, TopicId};

/// AES-256-GCM with the derivations of this file. 2 is reserved for AES-256-GCM-SIV; none is without encryption.
pub const SUITE: u8 = 1;

/// Bytes of a tag. Never shortened.
pub const TAG_BYTES: usize = 16;

/// Number of the key that `-priv-key` gives, while there is no ring of keys beside it.
pub const FIRST_KID: u32 = 1;

/// The key that the original had compiled in. Anybody knows it.
pub const DEFAULT_KEY: &[u8; 32] = b"12345678901234567890123456789012";

/// Authentication tag of one shard.
pub type Tag = [u8; TAG_BYTES];

/// A hash of 32 bytes.
pub type Hash = [u8; 32];

/// A master key.
pub struct MasterKey(Zeroizing<[u8; 32]>);

/// What the text of a key setting stands for.
pub enum KeySource {
    /// The key itself.
    Key(MasterKey),
    /// The path of a file that holds it: see [`MasterKey::from_file`].
    File(String),
}

/// Reads the text of `-priv-key`: exactly 32 bytes are the key, else 64 hexadecimal digits, else `@` and a path.
///
/// # Errors
/// [`KeyError::Length`] for another length, [`KeyError::Equal`] where all bytes are the same.
pub fn parse_key(text: &str) -> Result<KeySource, KeyError> {
    match (key_bytes(text.as_bytes()), text.strip_prefix('@')) {
        (Some(bytes), _) => Ok(KeySource::Key(MasterKey::checked(bytes)?)),
        (None, Some(path)) if !path.is_empty() => Ok(KeySource::File(path.to_owned())),
        _ => Err(KeyError::Length { found: text.len() }),
    }
}

/// 32 bytes as they are, or 64 digits.
fn key_bytes(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    if let Ok(bytes) = <[u8; 32]>::try_from(text) {
        return Some(Zeroizing::new(bytes));
    }
    let digits = <&[u8; 64]>::try_from(text).ok()?;
    let mut bytes = Zeroizing::new([0; 32]);
    let (pairs, _) = digits.as_chunks::<2>();
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl MasterKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`KeyError::Equal`].
    pub fn new(bytes: [u8; 32]) -> Result<Self, KeyError> {
        Self::checked(Zeroizing::new(bytes))
    }

    /// The key in the content of a key file: 32 bytes or 64 hexadecimal digits, one line end behind either.
    ///
    /// # Errors
    /// [`KeyError::Length`], [`KeyError::Equal`].
    pub fn from_file(content: &[u8]) -> Result<Self, KeyError> {
        let line = content.strip_suffix(b"\n").map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        let bytes = key_bytes(content).or_else(|| key_bytes(line?));
        Self::checked(bytes.ok_or(KeyError::Length { found: content.len() })?)
    }

    fn checked(bytes: Zeroizing<[u8; 32]>) -> Result<Self, KeyError> {
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(KeyError::Equal);
        }
        Ok(Self(bytes))
    }

    /// Whether it is [`DEFAULT_KEY`].
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0.as_slice().ct_eq(DEFAULT_KEY).into()
    }

    /// Whether it has fewer than 16 distinct bytes, as a typed text may and a random key practically never does.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        let mut seen = [false; 256];
        self.0.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        seen.iter().filter(|seen| **seen).count() < 16
    }
}

/// A master key and what is derived from it alone.
struct KeySet {
    master: MasterKey,
    salt: Zeroizing<[u8; 32]>,
    digest: Zeroizing<[u8; 32]>,
    chain: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
    wrap: Zeroizing<[u8; 32]>,
    fingerprint: [u8; 8],
}

impl KeySet {
    fn new(master: MasterKey) -> Self {
        let derive = |name: &str| {
            let mut key = Zeroizing::new([0; 32]);
            Hkdf::<Sha256>::new(None, master.0.as_slice())
                .expand(format!("tlog/{name}/v1").as_bytes(), key.as_mut_slice())
                .expect("32 bytes are far below the limit of HKDF");
            key
        };
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&derive("fingerprint")[..8]);
        Self {
            salt: derive("salt"),
            digest: derive("digest"),
            chain: derive("chain"),
            mac: derive("mac"),
            wrap: derive("wrap"),
            fingerprint,
            master,
        }
    }
}

/// The master keys by number. The active one seals, every one opens.
pub struct KeyRing {
    keys: BTreeMap<u32, KeySet>,
    active: u32,
}

/// The numbers only.
impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<_> = self.keys.keys().collect();
        f.debug_struct("KeyRing").field("kids", &kids).field("active", &self.active).finish()
    }
}

impl KeyRing {
    /// A ring of one key, which is active.
    #[must_use]
    pub fn new(kid: u32, key: MasterKey) -> Self {
        Self { keys: BTreeMap::from([(kid, KeySet::new(key))]), active: kid }
    }

    /// Adds a key that opens. Adding the same again changes nothing.
    ///
    /// # Errors
    /// [`KeyError::Taken`] where the number has another key.
    pub fn add(&mut self, kid: u32, key: MasterKey) -> Result<(), KeyError> {
        if let Some(there) = self.keys.get(&kid) {
            let same: bool = there.master.0.as_slice().ct_eq(key.0.as_slice()).into();
            return if same { Ok(()) } else { Err(KeyError::Taken { kid }) };
        }
        self.keys.insert(kid, KeySet::new(key));
        Ok(())
    }

    /// Lets another key of the ring seal from now on.
    ///
    /// # Errors
    /// [`KeyError::Unknown`].
    pub fn activate(&mut self, kid: u32) -> Result<(), KeyError> {
        if !self.keys.contains_key(&kid) {
            return Err(KeyError::Unknown { kid });
        }
        self.active = kid;
        Ok(())
    }

    /// Number of the key that seals.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active
    }

    /// The numbers of all keys, ascending.
    pub fn kids(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.keys().copied()
    }

    /// Whether a key of the ring is the one that everybody knows.
    #[must_use]
    pub fn has_default(&self) -> bool {
        self.keys.values().any(|key| key.master.is_default())
    }

    /// First 8 bytes of the fingerprint key: tells keys apart and gives nothing away.
    #[must_use]
    pub fn fingerprint(&self, kid: u32) -> Option<[u8; 8]> {
        self.keys.get(&kid).map(|key| key.fingerprint)
    }

    /// Checks that the key of this number is here and is the one with this fingerprint.
    ///
    /// # Errors
    /// [`WrongKey`].
    pub fn check(&self, kid: u32, fingerprint: &[u8; 8]) -> Result<(), WrongKey> {
        if self.get(kid)?.fingerprint == *fingerprint {
            Ok(())
        } else {
            Err(WrongKey::Other { kid })
        }
    }

    fn get(&self, kid: u32) -> Result<&KeySet, WrongKey> {
        self.keys.get(&kid).ok_or(WrongKey::Absent { kid })
    }

    /// Keyed hash of a plain body. It never leaves the broker.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn digest(&self, kid: u32, body: &[u8]) -> Result<Hash, WrongKey> {
        Ok(*blake3::keyed_hash(&self.get(kid)?.digest, body).as_bytes())
    }

    /// The salt of a fragment, from fresh random bytes, its header with a zero salt and its digest. With a broken random
    /// source another header or body still gives another salt.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn salt(
        &self,
        kid: u32,
        random: &[u8; 32],
        header: &[u8],
        digest: &Hash,
    ) -> Result<Hash, WrongKey> {
        Ok(hmac(&self.get(kid)?.salt, &[random, header, digest]))
    }

    /// The keyed hash that chains fragments.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn chain_hash(&self, kid: u32, header: &[u8], tags: &[Tag]) -> Result<Hash, WrongKey> {
        Ok(hmac(&self.get(kid)?.chain, &[header, tags.as_flattened()]))
    }

    /// MAC of a record of the catalogue.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn record_mac(&self, kid: u32, parts: &[&[u8]]) -> Result<Hash, WrongKey> {
        Ok(hmac(&self.get(kid)?.mac, parts))
    }

    /// Seals a topic's secret under the active key. `nonce` is random, drawn afresh for each call.
    #[must_use]
    pub fn wrap(
        &self,
        secret: &TopicSecret,
        cluster: ClusterId,
        topic: TopicId,
        nonce: [u8; 12],
    ) -> SealedSecret {
        let kid = self.active;
        let key = self.keys.get(&kid).expect("the active key is always in the ring");
        let cipher = Aes256Gcm::new((&*key.wrap).into());
        let mut sealed = [0; 32 + TAG_BYTES];
        let (text, tag) = sealed.split_at_mut(32);
        text.copy_from_slice(secret.0.as_slice());
        let made = cipher
            .encrypt_inout_detached(
                &nonce.into(),
                &wrap_aad(kid, cluster, topic),
                InOutBuf::from(text),
            )
            .expect("32 bytes are below the limit of GCM");
        tag.copy_from_slice(&made);
        SealedSecret { kid, nonce, sealed }
    }

    /// Opens a topic's secret.
    ///
    /// # Errors
    /// The key is not here, or it does not fit this text, cluster and topic.
    pub fn unwrap(
        &self,
        sealed: &SealedSecret,
        cluster: ClusterId,
        topic: TopicId,
    ) -> Result<TopicSecret, UnwrapError> {
        let cipher = Aes256Gcm::new((&*self.get(sealed.kid)?.wrap).into());
        let mut secret = Zeroizing::new([0; 32]);
        let (text, tag) = sealed.sealed.split_at(32);
        secret.copy_from_slice(text);
        let tag = <Tag>::try_from(tag).map_err(|_| Unauthentic)?;
        let aad = wrap_aad(sealed.kid, cluster, topic);
        let buffer = InOutBuf::from(secret.as_mut_slice());
        cipher
            .decrypt_inout_detached(&sealed.nonce.into(), &aad, buffer, &tag.into())
            .map_err(|_| Unauthentic)?;
        Ok(TopicSecret(secret))
    }
}

/// kid u32 || cluster id || topic id, big-endian.
fn wrap_aad(kid: u32, cluster: ClusterId, topic: TopicId) -> [u8; 36] {
    let mut aad = [0; 36];
    aad[..4].copy_from_slice(&kid.to_be_bytes());
    aad[4..20].copy_from_slice(cluster.as_bytes());
    aad[20..].copy_from_slice(topic.as_bytes());
    aad
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Compares in constant time.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The chain hash that anybody can compute: `SHA-256("tlog/public/v1" || header || tags)`.
#[must_use]
pub fn public_hash(header: &[u8], tags: &[Tag]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(b"tlog/public/v1");
    hash.update(header);
    hash.update(tags.as_flattened());
    hash.finalize().into()
}

/// The secret of a topic: without it no fragment of the topic opens, for a holder of the master key neither.
pub struct TopicSecret(Zeroizing<[u8; 32]>);

impl TopicSecret {
    /// A new one of 32 random bytes, or one from the local catalogue.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }
}

/// A topic's secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Number of the master key.
    pub kid: u32,
    /// Random.
    pub nonce: [u8; 12],
    /// The sealed secret and its tag.
    pub sealed: [u8; 32 + TAG_BYTES],
}

impl SealedSecret {
    /// Bytes of its stored form: kid u32 little-endian, nonce, sealed.
    pub const BYTES: usize = 4 + 12 + 32 + TAG_BYTES;

    /// The stored form, for the local catalogue.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.kid.to_le_bytes());
        bytes[4..16].copy_from_slice(&self.nonce);
        bytes[16..].copy_from_slice(&self.sealed);
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Malformed::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| Malformed::Length {
            what: "sealed topic secret",
            found: bytes.len(),
            expected: Self::BYTES,
        })?;
        let (mut nonce, mut sealed, mut kid) = ([0; 12], [0; 32 + TAG_BYTES], [0; 4]);
        kid.copy_from_slice(&bytes[..4]);
        nonce.copy_from_slice(&bytes[4..16]);
        sealed.copy_from_slice(&bytes[16..]);
        Ok(Self { kid: u32::from_le_bytes(kid), nonce, sealed })
    }
}

/// A topic's secret cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The key to it is not here.
    #[error(transparent)]
    WrongKey(#[from] WrongKey),
    /// It was changed, belongs to another topic or cluster, or the key is another.
    #[error(
        "the sealed topic secret does not open: it is damaged, of another topic, or the key is wrong"
    )]
    Unauthentic(#[from] Unauthentic),
}

/// What a fragment's key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentContext {
    /// Number of the master key.
    pub kid: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The topic.
    pub topic: TopicId,
    /// Index of the partition.
    pub partition: i32,
    /// Epoch of the records.
    pub leader_epoch: i32,
    /// Number of the fragment in its partition.
    pub number: u64,
    /// Counts rekeys.
    pub generation: u32,
    /// k.
    pub data_shards: u8,
    /// m.
    pub parity_shards: u8,
}

impl FragmentContext {
    /// The info string of the derivation, all of fixed width, big-endian.
    fn info(&self) -> Vec<u8> {
        let mut info = Vec::with_capacity(75);
        info.extend_from_slice(b"tlog/fragment/v1");
        info.push(SUITE);
        info.extend_from_slice(&self.kid.to_be_bytes());
        info.extend_from_slice(self.cluster.as_bytes());
        info.extend_from_slice(self.topic.as_bytes());
        info.extend_from_slice(&self.partition.to_be_bytes());
        info.extend_from_slice(&self.leader_epoch.to_be_bytes());
        info.extend_from_slice(&self.number.to_be_bytes());
        info.extend_from_slice(&self.generation.to_be_bytes());
        info.extend_from_slice(&[self.data_shards, self.parity_shards]);
        info
    }

    fn cipher(
        &self,
        keys: &KeyRing,
        secret: &TopicSecret,
        salt: &Hash,
    ) -> Result<Aes256Gcm, WrongKey> {
        let mut material = Zeroizing::new([0; 64]);
        material[..32].copy_from_slice(keys.get(self.kid)?.master.0.as_slice());
        material[32..].copy_from_slice(secret.0.as_slice());
        let mut key = Zeroizing::new([0u8; 32]);
        Hkdf::<Sha256>::new(Some(salt), material.as_slice())
            .expand(&self.info(), key.as_mut_slice())
            .expect("32 bytes are far below the limit of HKDF");
        Ok(Aes256Gcm::new((&*key).into()))
    }

    fn shards(&self) -> usize {
        usize::from(self.data_shards) + usize::from(self.parity_shards)
    }
}

/// `base` with the shard index XORed into its last four bytes.
fn nonce(base: &[u8; 12], index: usize) -> [u8; 12] {
    let index = u32::try_from(index).expect("a shard index is a byte").to_be_bytes();
    let mut nonce = *base;
    nonce[8..].iter_mut().zip(index).for_each(|(byte, bits)| *byte ^= bits);
    nonce
}

/// One shard to be sealed in place.
#[derive(Debug)]
pub struct ToSeal<'a> {
    /// Everything that stands before the ciphertext.
    pub aad: &'a [u8],
    /// Plain; ciphertext afterwards.
    pub text: &'a mut [u8],
}

/// The key of one fragment, good for sealing its n shards once.
pub struct Sealer {
    cipher: Aes256Gcm,
    base_nonce: [u8; 12],
    shards: usize,
}

impl Sealer {
    /// Derives the key.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn new(
        keys: &KeyRing,
        secret: &TopicSecret,
        context: &FragmentContext,
        salt: &Hash,
        base_nonce: [u8; 12],
    ) -> Result<Self, WrongKey> {
        let cipher = context.cipher(keys, secret, salt)?;
        Ok(Self { cipher, base_nonce, shards: context.shards() })
    }

    /// Seals all shards, each under the nonce of its place, and drops the key.
    ///
    /// # Panics
    /// If there are not exactly n shards: a mistake in `fragment.rs`, never of input.
    #[must_use]
    pub fn seal(self, shards: &mut [ToSeal<'_>]) -> Vec<Tag> {
        assert_eq!(shards.len(), self.shards, "a fragment has exactly n shards");
        let seal = |(index, shard): (usize, &mut ToSeal<'_>)| {
            let nonce = nonce(&self.base_nonce, index).into();
            self.cipher
                .encrypt_inout_detached(&nonce, shard.aad, InOutBuf::from(&mut *shard.text))
                .expect("a shard is below the limit of GCM")
                .into()
        };
        shards.iter_mut().enumerate().map(seal).collect()
    }
}

/// The key of one fragment, good for opening.
pub struct Opener {
    cipher: Aes256Gcm,
    base_nonce: [u8; 12],
}

impl Opener {
    /// Derives the key.
    ///
    /// # Errors
    /// [`WrongKey::Absent`].
    pub fn new(
        keys: &KeyRing,
        secret: &TopicSecret,
        context: &FragmentContext,
        salt: &Hash,
        base_nonce: [u8; 12],
    ) -> Result<Self, WrongKey> {
        Ok(Self { cipher: context.cipher(keys, secret, salt)?, base_nonce })
    }

    /// Opens the shard of an index in place. `text` stays ciphertext when the tag does not fit.
    ///
    /// # Errors
    /// [`Unauthentic`].
    pub fn open(
        &self,
        index: u8,
        aad: &[u8],
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Unauthentic> {
        let nonce = nonce(&self.base_nonce, usize::from(index)).into();
        self.cipher
            .decrypt_inout_detached(&nonce, aad, InOutBuf::from(text), &(*tag).into())
            .map_err(|_| Unauthentic)
    }
}

#[cfg(test)]
mod tests;
