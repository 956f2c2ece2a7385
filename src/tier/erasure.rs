//! The erasure code: k data shards to k+m shards, any k of which give the data back.
//!
//! Systematic: the first k shards are the data as they are. Shards are bytes of GF(2⁸) with the polynomial 0x11D,
//! coded position by position. The matrix is that of the crate `reed-solomon-erasure`, a Vandermonde matrix made
//! systematic; it is the definition of the stored form, and whatever replaces the crate must give its bytes.
//! m = 0 is allowed: then nothing is coded.

use std::fmt;

use reed_solomon_erasure::galois_8::ReedSolomon;

use super::error::ErasureError;
use crate::types::limits::{TIER_DATA_SHARDS, TIER_PARITY_SHARDS};

/// A code over n = k+m shards of one length.
pub trait ErasureCode: fmt::Debug + Send + Sync {
    /// k.
    fn data_shards(&self) -> usize;

    /// m.
    fn parity_shards(&self) -> usize;

    /// Fills the m slices of `parity` from the k slices of `data`, all of one length.
    ///
    /// # Errors
    /// [`ErasureError::Count`], [`ErasureError::Lengths`].
    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError>;

    /// Fills in the data shards that are missing from `shards`, which has n places. Missing parity stays missing.
    ///
    /// # Errors
    /// [`ErasureError`].
    fn reconstruct_data(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), ErasureError>;
}

/// The code by the crate `reed-solomon-erasure`.
#[derive(Debug)]
pub struct Code {
    data: usize,
    parity: usize,
    /// None where there is no parity, which the crate does not have.
    inner: Option<ReedSolomon>,
}

impl Code {
    /// A code of `data` (k) and `parity` (m) shards.
    ///
    /// # Errors
    /// [`ErasureError::Shape`] outside of 1 to 16 and 0 to 8.
    pub fn new(data: usize, parity: usize) -> Result<Self, ErasureError> {
        let shape = ErasureError::Shape { data, parity };
        if !(1..=TIER_DATA_SHARDS).contains(&data) || parity > TIER_PARITY_SHARDS {
            return Err(shape);
        }
        let inner = match parity {
            0 => None,
            _ => Some(ReedSolomon::new(data, parity).map_err(|_| shape)?),
        };
        Ok(Self { data, parity, inner })
    }

    fn check_count(found: usize, expected: usize) -> Result<(), ErasureError> {
        if found == expected { Ok(()) } else { Err(ErasureError::Count { found, expected }) }
    }
}

impl ErasureCode for Code {
    fn data_shards(&self) -> usize {
        self.data
    }

    fn parity_shards(&self) -> usize {
        self.parity
    }

    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        Self::check_count(data.len(), self.data)?;
        Self::check_count(parity.len(), self.parity)?;
        let length = data.first().map_or(0, |shard| shard.len());
        let equal = data.iter().map(|shard| shard.len()).chain(parity.iter().map(|p| p.len()));
        if length == 0 || equal.into_iter().any(|other| other != length) {
            return Err(ErasureError::Lengths);
        }
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.encode_sep(data, parity).map_err(|_| ErasureError::Lengths)
    }

    fn reconstruct_data(&self, shards: &mut [Option<Vec<u8>>]) -> Result<(), ErasureError> {
        Self::check_count(shards.len(), self.data + self.parity)?;
        let mut lengths = shards.iter().flatten().map(Vec::len);
        let length = lengths.next().unwrap_or(0);
        if length == 0 || lengths.any(|other| other != length) {
            return Err(ErasureError::Lengths);
        }
        let present = shards.iter().flatten().count();
        let too_few = ErasureError::TooFew { present, needed: self.data };
        if present < self.data {
            return Err(too_few);
        }
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.reconstruct_data(shards).map_err(|_| too_few)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rows of the parity part of the matrix, read off by coding unit vectors.
    fn rows(data: usize, parity: usize) -> Vec<Vec<u8>> {
        let code = Code::new(data, parity).unwrap();
        let mut rows = vec![vec![0; data]; parity];
        for column in 0..data {
            let unit: Vec<Vec<u8>> = (0..data).map(|i| vec![u8::from(i == column)]).collect();
            let unit: Vec<&[u8]> = unit.iter().map(Vec::as_slice).collect();
            let mut out = vec![[0u8; 1]; parity];
            let mut slices: Vec<&mut [u8]> = out.iter_mut().map(|o| o.as_mut_slice()).collect();
            code.encode(&unit, &mut slices).unwrap();
            for (row, byte) in rows.iter_mut().zip(&out) {
                row[column] = byte[0];
            }
        }
        rows
    }

    /// Multiplication in GF(2⁸) modulo x⁸+x⁴+x³+x²+1, bit by bit.
    fn times(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1d };
            b >>= 1;
        }
        product
    }

    fn power(base: u8, exponent: usize) -> u8 {
        (0..exponent).fold(1, |product, _| times(product, base))
    }

    fn inverse(a: u8) -> u8 {
        power(a, 254)
    }

    /// The systematic Vandermonde matrix made from its definition: row r of V is r⁰, r¹, …; the parity rows are the
    /// lower rows of V times the inverse of its upper square.
    fn defined_rows(data: usize, parity: usize) -> Vec<Vec<u8>> {
        let vandermonde = |r: usize| (0..data).map(|c| power(r as u8, c)).collect::<Vec<u8>>();
        // Gauss-Jordan on [upper | unit].
        let mut square: Vec<Vec<u8>> = (0..data)
            .map(|r| {
                let mut row = vandermonde(r);
                row.extend((0..data).map(|c| u8::from(c == r)));
                row
            })
            .collect();
        for pivot in 0..data {
            let swap = (pivot..data).find(|&r| square[r][pivot] != 0).unwrap();
            square.swap(pivot, swap);
            let scale = inverse(square[pivot][pivot]);
            square[pivot].iter_mut().for_each(|x| *x = times(*x, scale));
            let unit = square[pivot].clone();
            for (r, row) in square.iter_mut().enumerate() {
                let factor = row[pivot];
                if r != pivot && factor != 0 {
                    row.iter_mut().zip(&unit).for_each(|(x, u)| *x ^= times(*u, factor));
                }
            }
        }
        (data..data + parity)
            .map(|r| {
                let row = vandermonde(r);
                (0..data)
                    .map(|c| (0..data).fold(0, |sum, i| sum ^ times(row[i], square[i][data + c])))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_matrix_of_four_and_two_is_the_known_one() {
        assert_eq!(rows(4, 2), [[27, 28, 18, 20], [28, 27, 20, 18]]);
    }

    #[test]
    fn every_matrix_is_the_defined_one() {
        for data in 1..=TIER_DATA_SHARDS {
            for parity in 1..=TIER_PARITY_SHARDS {
                assert_eq!(rows(data, parity), defined_rows(data, parity), "{data}+{parity}");
            }
        }
    }

    #[test]
    fn a_known_body_codes_to_known_parity() {
        let code = Code::new(4, 2).unwrap();
        let data: Vec<&[u8]> = vec![b"TLog", b"keep", b"s al", b"l of"];
        let mut parity = [[0u8; 4]; 2];
        let mut slices: Vec<&mut [u8]> = parity.iter_mut().map(|p| p.as_mut_slice()).collect();
        code.encode(&data, &mut slices).unwrap();
        let by_hand = |row: [u8; 4], at: usize| {
            row.iter().zip(&data).fold(0, |sum, (&factor, shard)| sum ^ times(factor, shard[at]))
        };
        let expected = [[27, 28, 18, 20], [28, 27, 20, 18]]
            .map(|row| std::array::from_fn(|at| by_hand(row, at)));
        assert_eq!(parity, expected);
    }

    #[test]
    fn impossible_shapes_and_uneven_shards_are_refused() {
        for (data, parity) in [(0, 2), (17, 2), (4, 9), (usize::MAX, 1)] {
            assert!(matches!(Code::new(data, parity), Err(ErasureError::Shape { .. })));
        }
        let code = Code::new(2, 1).unwrap();
        let mut out = [0u8; 2];
        assert_eq!(code.encode(&[b"ab", b"a"], &mut [&mut out]), Err(ErasureError::Lengths));
        assert!(matches!(code.encode(&[b"ab"], &mut [&mut out]), Err(ErasureError::Count { .. })));
        let mut shards = vec![Some(vec![1, 2]), None, None];
        let found = code.reconstruct_data(&mut shards);
        assert_eq!(found, Err(ErasureError::TooFew { present: 1, needed: 2 }));
    }

    #[test]
    fn without_parity_the_data_pass_through() {
        let code = Code::new(3, 0).unwrap();
        code.encode(&[b"a", b"b", b"c"], &mut []).unwrap();
        let mut shards = vec![Some(vec![1]), Some(vec![2]), Some(vec![3])];
        code.reconstruct_data(&mut shards).unwrap();
        shards[1] = None;
        assert!(matches!(code.reconstruct_data(&mut shards), Err(ErasureError::TooFew { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_k_of_n_shards_give_the_data_back(
            data in 1usize..=16, parity in 0usize..=8, length in 1usize..200, seed in any::<u64>(),
        ) {
            let code = Code::new(data, parity).unwrap();
            let mut state = seed | 1;
            let mut next = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let plain: Vec<Vec<u8>> =
                (0..data).map(|_| (0..length).map(|_| next() as u8).collect()).collect();
            let mut coded = vec![vec![0u8; length]; parity];
            code.encode(
                &plain.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                &mut coded.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
            ).unwrap();
            let mut shards: Vec<Option<Vec<u8>>> =
                plain.iter().chain(&coded).cloned().map(Some).collect();
            let mut lost = 0;
            while lost < parity {
                let victim = (next() % (data + parity) as u64) as usize;
                lost += usize::from(shards[victim].take().is_some());
            }
            code.reconstruct_data(&mut shards).unwrap();
            for (found, expected) in shards.iter().zip(&plain) {
                prop_assert_eq!(found.as_ref(), Some(expected));
            }
        }
    }
}
