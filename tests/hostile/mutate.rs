//! Changes an input the way a faulty or hostile sender would.

use fastrand::Rng;

/// Longest input that is made.
const LONGEST: usize = 64 * 1024;
/// Where lengths and counts go wrong.
const EDGES: [u32; 12] = [0, 1, 2, 3, 4, 5, 0x7F, 0x8000, 0xFFFF, 0x3FFF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFF];

/// One of `all`, changed in one to eight places.
pub(crate) fn mutant(random: &mut Rng, all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = all[random.usize(..all.len())].clone();
    for _ in 0..1 << random.u32(..4) {
        let other = &all[random.usize(..all.len())];
        change(random, &mut bytes, other);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.usize(..=bytes.len());
    match random.u32(..9) {
        0 => flip(random, bytes),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, random.u8(..)),
        3 => {
            let end = random.usize(at..=bytes.len());
            bytes.drain(at..end);
        }
        // A splice: the beginning of one, the end of another.
        4 => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.usize(..=other.len())..]);
        }
        // A piece twice.
        5 => {
            let end = random.usize(at..=bytes.len().min(at + 256));
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        // A number at its edge, or near what it was.
        6 => {
            let edge = EDGES[random.usize(..EDGES.len())].to_be_bytes();
            let width = [1, 2, 4][random.usize(..3)];
            overwrite(bytes, at, &edge[4 - width..]);
        }
        7 => {
            let Some(four) = bytes.get(at..at + 4) else { return flip(random, bytes) };
            let number = u32::from_be_bytes([four[0], four[1], four[2], four[3]]);
            let near = number.wrapping_add(random.u32(..9)).wrapping_sub(4);
            overwrite(bytes, at, &near.to_be_bytes());
        }
        _ => overwrite(bytes, at, &[[0, 1, b'\'', b'"', b'%', b'\\', b'\n', 0xFF][random.usize(..8)]]),
    }
}

fn flip(random: &mut Rng, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        bytes[random.usize(..bytes.len())] ^= 1 << random.u32(..8);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}
