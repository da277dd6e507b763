// What all rungs of the matrix product share: parameters, bindings, and the last step.
//
// y[batch] = scale·a[batch]·b[batch] + add[batch], with a: [m, k], b: [k, n], y: [m, n]. Strides of
// rows and columns are parameters, so a transposed operand is not copied; a batch is two axes.

struct Params {
    batch: u32,
    batch_inner: u32,
    m: u32,
    n: u32,
    k: u32,
    scale: f32,
    has_add: u32,
    a_offset: u32,
    a_outer: u32,
    a_inner: u32,
    a_row: u32,
    a_column: u32,
    b_offset: u32,
    b_outer: u32,
    b_inner: u32,
    b_row: u32,
    b_column: u32,
    add_offset: u32,
    add_outer: u32,
    add_inner: u32,
    add_row: u32,
    add_column: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> add: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn a_base(matrix: u32) -> u32 {
    return params.a_offset + matrix / params.batch_inner * params.a_outer
        + matrix % params.batch_inner * params.a_inner;
}

fn b_base(matrix: u32) -> u32 {
    return params.b_offset + matrix / params.batch_inner * params.b_outer
        + matrix % params.batch_inner * params.b_inner;
}

// Scales a finished dot product, adds what is to be added, and writes it.
fn store(matrix: u32, row: u32, column: u32, dot: f32) {
    var value = params.scale * dot;
    if (params.has_add != 0u) {
        value += add[params.add_offset + matrix / params.batch_inner * params.add_outer
            + matrix % params.batch_inner * params.add_inner + row * params.add_row + column * params.add_column];
    }
    y[(matrix * params.m + row) * params.n + column] = value;
}
