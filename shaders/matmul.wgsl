// What all rungs of the matrix product share: parameters, bindings, and the last step.
//
// y[batch] = scale·a[batch]·b[batch] + add[batch], with a: [m, k], b: [k, n], y: [m, n]. Strides of
// rows and columns are parameters, so a transposed operand is not copied; a batch is two axes.
// Read next: matmul_naive.wgsl, then matmul_tiled.wgsl and matmul_blocked.wgsl.

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
    y_offset: u32,
    y_outer: u32,
    y_inner: u32,
    y_row: u32,
    y_column: u32,
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

// An element of `a`, 0 outside of the matrix.
fn a_at(start: u32, row: u32, k: u32) -> f32 {
    if (row >= params.m || k >= params.k) { return 0.0; }
    return a[start + row * params.a_row + k * params.a_column];
}

// An element of `b`, 0 outside of the matrix.
fn b_at(start: u32, k: u32, column: u32) -> f32 {
    if (column >= params.n || k >= params.k) { return 0.0; }
    return b[start + k * params.b_row + column * params.b_column];
}

// A rectangle of the result: which matrix of the batch, and its first row and column.
struct Tile {
    matrix: u32,
    row: u32,
    column: u32,
}

// The tile with a given number, row by row.
fn tile_of(number: u32, height: u32, width: u32) -> Tile {
    let down = (params.m + height - 1u) / height;
    let across = (params.n + width - 1u) / width;
    let within = number % (down * across);
    return Tile(number / (down * across), within / across * height, within % across * width);
}

// Scales a finished dot product, adds what is to be added, and writes it.
fn store(matrix: u32, row: u32, column: u32, dot: f32) {
    let outer = matrix / params.batch_inner;
    let inner = matrix % params.batch_inner;
    var value = params.scale * dot;
    if (params.has_add != 0u) {
        value += add[params.add_offset + outer * params.add_outer + inner * params.add_inner
            + row * params.add_row + column * params.add_column];
    }
    y[params.y_offset + outer * params.y_outer + inner * params.y_inner
        + row * params.y_row + column * params.y_column] = value;
}

// Where four rows begin; those outside of the matrix read the last one inside, and are not stored.
fn row_starts(tile: Tile, first: u32) -> vec4<u32> {
    let rows = min(vec4(tile.row + first) + vec4(0u, 1u, 2u, 3u), vec4(params.m - 1u));
    return a_base(tile.matrix) + rows * params.a_row;
}

fn column_starts(tile: Tile, first: u32) -> vec4<u32> {
    let columns = min(vec4(tile.column + first) + vec4(0u, 1u, 2u, 3u), vec4(params.n - 1u));
    return b_base(tile.matrix) + columns * params.b_column;
}

fn four_of_a(at: vec4<u32>) -> vec4<f32> {
    return vec4(a[at.x], a[at.y], a[at.z], a[at.w]);
}

fn four_of_b(at: vec4<u32>) -> vec4<f32> {
    return vec4(b[at.x], b[at.y], b[at.z], b[at.w]);
}

// Writes those elements of a block that lie inside of the matrix.
fn store_block(matrix: u32, row: u32, column: u32, dots: mat4x4<f32>) {
    store_four(matrix, row, column, dots[0]);
    store_four(matrix, row + 1u, column, dots[1]);
    store_four(matrix, row + 2u, column, dots[2]);
    store_four(matrix, row + 3u, column, dots[3]);
}

fn store_four(matrix: u32, row: u32, column: u32, dots: vec4<f32>) {
    if (row >= params.m) { return; }
    if (column < params.n) { store(matrix, row, column, dots.x); }
    if (column + 1u < params.n) { store(matrix, row, column + 1u, dots.y); }
    if (column + 2u < params.n) { store(matrix, row, column + 2u, dots.z); }
    if (column + 3u < params.n) { store(matrix, row, column + 3u, dots.w); }
}
