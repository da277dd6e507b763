// Counter-based random numbers: the hash of src/rng.rs, bit for bit, so that a mask drawn here is
// the mask drawn on the CPU.

fn mix(word: u32) -> u32 {
    var x = word;
    x ^= x >> 16u;
    x *= 0x7feb352du;
    x ^= x >> 15u;
    x *= 0x846ca68bu;
    return x ^ (x >> 16u);
}

// The number in [0, 1) of a 64-bit seed, in two halves, at a position.
fn uniform_at(seed_low: u32, seed_high: u32, position: u32) -> f32 {
    let hash = mix(mix((position * 0x9e3779b9u) ^ seed_low) + seed_high);
    return f32(hash >> 8u) * (1.0 / 16777216.0);
}
