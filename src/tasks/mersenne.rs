//! Rows in the order in which a Python program would take them.
//!
//! The figures that accuracy on SST-2 is held against come from a Python run, which trained on the
//! first 10,000 rows of `random.Random(0).shuffle(rows)`. A fair comparison trains on the same rows, so
//! here is that generator: the Mersenne Twister (Matsumoto and Nishimura 1998, MT19937), seeded with one
//! word and shuffling as CPython does.
//! Read next: `understanding.rs`.

const LENGTH: usize = 624;
const MIDDLE: usize = 397;

/// The twister's state: as many words as it makes at a time.
pub struct Mersenne {
    words: [u32; LENGTH],
    next: usize,
}

impl Mersenne {
    /// The stream of `random.Random(seed)`.
    pub fn seeded(seed: u32) -> Mersenne {
        let mut words = [19_650_218u32; LENGTH];
        let spread = |word: u32| word ^ (word >> 30);
        for i in 1..LENGTH {
            words[i] = spread(words[i - 1]).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        // Both rounds walk the words in a circle that leaves out the first, which follows the last.
        let mut at = 1;
        let mut advance = |words: &mut [u32; LENGTH]| {
            at += 1;
            if at == LENGTH {
                words[0] = words[LENGTH - 1];
                at = 1;
            }
            at
        };
        let mut here = 1;
        for _ in 0..LENGTH {
            words[here] = (words[here] ^ spread(words[here - 1]).wrapping_mul(1_664_525)).wrapping_add(seed);
            here = advance(&mut words);
        }
        for _ in 1..LENGTH {
            words[here] =
                (words[here] ^ spread(words[here - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(here as u32);
            here = advance(&mut words);
        }
        words[0] = 1 << 31;
        Mersenne { words, next: LENGTH }
    }

    fn word(&mut self) -> u32 {
        if self.next == LENGTH {
            for i in 0..LENGTH {
                let joined = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % LENGTH] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[i] = self.words[(i + MIDDLE) % LENGTH] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `limit`: as many high bits as it needs, drawn again while they say too much.
    fn below(&mut self, limit: u32) -> usize {
        loop {
            let number = self.word() >> limit.leading_zeros();
            if number < limit {
                return number as usize;
            }
        }
    }

    /// Puts `items` in the order of `random.shuffle`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1));
        }
    }
}
