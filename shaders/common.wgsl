// What shaders share: how a grid over two axes becomes one index, tests of bit patterns, blocks of products.
//
// One axis of a grid holds at most 65,535 workgroups, so the host spreads large grids over x and y.
// Offsets and strides count elements and are u32 in wrapping arithmetic: a negative stride is its
// two's complement, and the sum is right again.
// Read next: elementwise.wgsl.

// Invocations per workgroup of kernels in which each invocation works for itself.
const ELEMENT_GROUP = 256u;

// The number of the invocation in the whole grid, for workgroups of ELEMENT_GROUP x 1 x 1.
fn flat_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * ELEMENT_GROUP;
}

// The number of the workgroup in the whole grid.
fn flat_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.x + group.y * groups.x;
}

// The index that stands for none.
const IGNORED = 0xffffffffu;

// A driver may assume that there are no NaN, but not what bits mean.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// A value that no constant expression may hold.
fn from_bits(pattern: u32) -> f32 {
    var bits = pattern;
    return bitcast<f32>(bits);
}

fn not_a_number() -> f32 {
    return from_bits(0x7fc00000u);
}

// The most negative finite number: the start of every search for a maximum.
const LOWEST = -3.4028234e38;

// The larger one, NaN if either is.
fn maximum(a: f32, b: f32) -> f32 {
    return select(b, a, is_nan(a) || a > b);
}

fn minimum(a: f32, b: f32) -> f32 {
    return select(b, a, is_nan(a) || a < b);
}

// All products of four rows and four columns: a block of 4 x 4 elements, row by row.
fn products(rows: vec4<f32>, columns: vec4<f32>) -> mat4x4<f32> {
    return mat4x4(rows.x * columns, rows.y * columns, rows.z * columns, rows.w * columns);
}
