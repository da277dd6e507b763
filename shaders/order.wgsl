// Keys whose order as u32 is the order of the numbers: -0 equals 0, and NaN is largest.

fn order_key(x: f32) -> u32 {
    if (is_nan(x)) { return 0xffffffffu; }
    if (x == 0.0) { return 0x80000000u; }
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}
