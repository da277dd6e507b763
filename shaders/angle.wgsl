// Sine and cosine of any angle, because those of the language promise digits only within one turn.
//
// The angle is reduced to the nearest quarter turn; the polynomials are those of
// src/device/cpu/math, where they are explained.

// x = q pi/2 + r with |r| at most a little above pi/4; q counts modulo 4.
struct Angle {
    quadrant: i32,
    rest: f32,
}

// The bits of 2/pi behind the binary point, after a word of zeros.
var<private> two_over_pi: array<u32, 8> = array<u32, 8>(
    0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu,
);

// The upper half of a product of two words.
fn high_word(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let one = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let two = (a & 0xffffu) * (b >> 16u) + (one & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (one >> 16u) + (two >> 16u);
}

// Payne and Hanek 1983: x is a whole number of 24 bits times 2^n, and of its product with 2/pi the
// multiples of 4 do not matter. So 96 bits of 2/pi suffice, taken from where the rest begins.
fn large_angle(x: f32) -> Angle {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    if (bits >= 0x7f800000u) { return Angle(0, not_a_number()); }
    let whole = (bits & 0x7fffffu) | 0x800000u;
    let start = (bits >> 23u) - 120u;
    let word = start / 32u;
    let shift = start % 32u;
    let left = vec3(two_over_pi[word], two_over_pi[word + 1u], two_over_pi[word + 2u]) << vec3(shift);
    let right = vec3(two_over_pi[word + 1u], two_over_pi[word + 2u], two_over_pi[word + 3u]);
    // In two steps, because a shift by 32 is none.
    let window = left | ((right >> vec3(1u)) >> vec3(31u - shift));
    let low = whole * window.y;
    let middle = low + high_word(whole, window.z);
    let carry = select(0u, 1u, middle < low);
    let top = whole * window.x + high_word(whole, window.y) + carry;
    // Two bits of quarter turns, then the fraction; its upper half counts down from the next quarter.
    let fraction = (top << 2u) | (middle >> 30u);
    let turns = f32(bitcast<i32>(fraction)) * 2.3283064e-10 + f32(middle << 2u) * 5.421011e-20;
    let quadrant = i32((top >> 30u) + (fraction >> 31u));
    let rest = turns * 1.5707963267948966;
    if (x < 0.0) { return Angle(-quadrant, -rest); }
    return Angle(quadrant, rest);
}

fn angle(x: f32) -> Angle {
    if (!(abs(x) < 10000.0)) { return large_angle(x); }
    // Pi/2 in three parts, the first two short enough that the products are exact.
    let multiple = round(x * 0.6366197723675814);
    let rest = ((x - multiple * 1.5703125) - multiple * 4.8375129699707e-4) - multiple * 7.549789954891882e-8;
    return Angle(i32(multiple), rest);
}

// sin(x + quarter_turns pi/2).
fn sine_of_quadrant(x: f32, quarter_turns: i32) -> f32 {
    let parts = angle(x);
    let rest = parts.rest;
    let square = rest * rest;
    var sine = -1.9503293e-4;
    sine = sine * square + 8.332096e-3;
    sine = sine * square - 0.16666655;
    sine = rest + rest * (square * sine);
    var cosine = 2.4463166e-5;
    cosine = cosine * square - 1.3887649e-3;
    cosine = cosine * square + 4.1666653e-2;
    cosine = (1.0 - 0.5 * square) + square * square * cosine;
    let quadrant = parts.quadrant + quarter_turns;
    let value = select(cosine, sine, (quadrant & 1) == 0);
    return select(value, -value, (quadrant & 2) != 0);
}

fn sine(x: f32) -> f32 {
    return sine_of_quadrant(x, 0);
}

fn cosine(x: f32) -> f32 {
    return sine_of_quadrant(x, 1);
}
