//! Counter-based random numbers: the same seed gives the same numbers on every device.
//!
//! A number is a hash of (seed, position) and depends on nothing else. A dropout mask can thus be
//! computed again in the backward pass instead of being stored, a shader draws the same mask as the
//! CPU, and a resumed run continues with the numbers it would have had. Only 32-bit integer
//! arithmetic is used, because WGSL has no other.
//! Read next: `device/kernel.rs`.

/// A well-mixed 32-bit value of (seed, position).
///
/// Two rounds of multiply and xor-shift per word, enough for masks and initial weights; it is no
/// cryptographic hash.
#[inline(always)]
pub fn hash(seed: u64, position: u32) -> u32 {
    let mut x = position.wrapping_mul(0x9E37_79B9) ^ seed as u32;
    x = mix(x).wrapping_add((seed >> 32) as u32);
    mix(x)
}

#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// The number in `[0, 1)` at a position: 24 random bits, exact in f32.
#[inline(always)]
pub fn uniform(seed: u64, position: u32) -> f32 {
    (hash(seed, position) >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// A stream of random numbers: a seed and how many were drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    seed: u64,
    drawn: u64,
}

impl Rng {
    /// The stream of a seed.
    pub fn seeded(seed: u64) -> Rng {
        Rng { seed, drawn: 0 }
    }

    /// The stream of a seed and of a purpose within it (a step, an epoch, a layer).
    pub fn derived(seed: u64, purpose: u64) -> Rng {
        let mut rng = Rng::seeded(seed ^ purpose.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Rng::seeded(rng.next_seed())
    }

    /// A fresh 64-bit seed, for a dropout mask or a stream of its own.
    pub fn next_seed(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    fn next_u32(&mut self) -> u32 {
        // The counter's high word goes into the seed, so a stream does not repeat after 2^32 draws.
        let value = hash(self.seed.wrapping_add((self.drawn >> 32) << 32), self.drawn as u32);
        self.drawn += 1;
        value
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_seed() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }

    /// A number in `0..limit`.
    ///
    /// **Panics** when the limit is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "Rng::below: there is no number below 0");
        (self.uniform() * limit as f64) as usize
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
