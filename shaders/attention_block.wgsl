// What attention and its gradient share: parameters, blocks of scores, and sums weighted by them.
//
// A workgroup of 8 x 8 invocations owns 32 rows (queries, or keys) and walks along the others, 32
// columns at a time. Of such a block an invocation holds 4 x 4 elements: the rows from 4·y, the columns
// from 4·x. The shader that includes this declares the bindings and `value_at`.
// Read next: attention.wgsl.

struct Operand {
    offset: u32,
    // Between matrices along the three axes of the batch.
    outer: u32,
    middle: u32,
    inner: u32,
    row: u32,
    column: u32,
    rows: u32,
    columns: u32,
}

struct Params {
    // Matrices in all, and along the two inner axes of the batch.
    batch: u32,
    batch_middle: u32,
    batch_inner: u32,
    has_bias: u32,
    // Query i looks at the keys up to past + i.
    past: u32,
    scale: f32,
    probability: f32,
    kept: f32,
    seed_low: u32,
    seed_high: u32,
    // Queries of matrices before the first: dropout counts them.
    queries_before: u32,
    // Numbers kept for each query: its largest score, the sum of exponentials, and what more there is.
    sums_width: u32,
    sums_offset: u32,
    // Where the results begin, and which of the two are asked for: a bit for each.
    first_offset: u32,
    second_offset: u32,
    wanted: u32,
    // In the order of the names below.
    operands: array<Operand, 5>,
}

const Q = 0u;
const K = 1u;
const V = 2u;
const BIAS = 3u;
const G = 4u;

const FIRST = 1u;
const SECOND = 2u;

const SIDE = 8u;
const TILE = 32u;
const DEPTH = 16u;
// A workgroup sums this many blocks of 32 columns; wider results take more workgroups.
const BLOCKS = 2u;
const MASKED = -1e30;

var<workgroup> staged: array<array<vec4<f32>, SIDE>, TILE>;
var<workgroup> weights: array<array<vec4<f32>, SIDE>, TILE>;
var<workgroup> partial: array<array<vec4<f32>, SIDE>, SIDE>;

const FOUR = vec4<u32>(0u, 1u, 2u, 3u);

// What a workgroup owns: TILE rows of a matrix, and of the result as many columns as it sums.
struct Tile {
    matrix: u32,
    row: u32,
    column: u32,
}

// The tile with a given number, where a matrix has `rows` rows and its result `width` columns.
fn tile_of(number: u32, rows: u32, width: u32) -> Tile {
    let down = (rows + TILE - 1u) / TILE;
    // A result without columns has numbers for each row all the same.
    let across = max((width + BLOCKS * TILE - 1u) / (BLOCKS * TILE), 1u);
    return Tile(number / (down * across), number / across % down * TILE, number % across * BLOCKS * TILE);
}

fn is_wanted(result: u32) -> bool {
    return (params.wanted & result) != 0u;
}

// Where a matrix of an operand begins.
fn start_of(operand: u32, matrix: u32) -> u32 {
    let row = matrix / params.batch_inner;
    return params.operands[operand].offset
        + row / params.batch_middle * params.operands[operand].outer
        + row % params.batch_middle * params.operands[operand].middle
        + matrix % params.batch_inner * params.operands[operand].inner;
}

// An element of a matrix that begins at `start`; 0 outside of it.
fn element(operand: u32, start: u32, row: u32, column: u32) -> f32 {
    if (row >= params.operands[operand].rows || column >= params.operands[operand].columns) { return 0.0; }
    return value_at(
        operand,
        start + row * params.operands[operand].row + column * params.operands[operand].column,
    );
}

// The block of left·rightᵀ whose first row and column are given.
fn block(left: u32, right: u32, matrix: u32, row: u32, column: u32, lane: u32) -> mat4x4<f32> {
    let left_start = start_of(left, matrix);
    let right_start = start_of(right, matrix);
    let depth = params.operands[left].columns;
    let own = lane % DEPTH;
    var sums = mat4x4<f32>();
    for (var start = 0u; start < depth; start += DEPTH) {
        workgroupBarrier();
        for (var quad = lane / DEPTH; quad < SIDE; quad += 4u) {
            for (var i = 0u; i < 4u; i++) {
                let place = 4u * quad + i;
                staged[own][quad][i] = element(left, left_start, row + place, start + own);
                staged[DEPTH + own][quad][i] = element(right, right_start, column + place, start + own);
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            sums += products(staged[k][lane / SIDE], staged[DEPTH + k][lane % SIDE]);
        }
    }
    return sums;
}

// Lets the workgroup see a block of weights.
fn share(own: mat4x4<f32>, lane: u32) {
    let turned = transpose(own);
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
        weights[4u * (lane % SIDE) + i][lane / SIDE] = turned[i];
    }
    workgroupBarrier();
}

// Adds the shared weights times the operand's rows from `row` on, for 32 columns from `column` on.
fn weighted(sums: mat4x4<f32>, operand: u32, matrix: u32, row: u32, column: u32, lane: u32) -> mat4x4<f32> {
    let start = start_of(operand, matrix);
    let quad = lane % SIDE;
    workgroupBarrier();
    for (var place = lane / SIDE; place < TILE; place += SIDE) {
        for (var i = 0u; i < 4u; i++) {
            staged[place][quad][i] = element(operand, start, row + place, column + 4u * quad + i);
        }
    }
    workgroupBarrier();
    var total = sums;
    for (var place = 0u; place < TILE; place++) {
        total += products(weights[place][lane / SIDE], staged[place][quad]);
    }
    return total;
}

// The scores of four pairs from their products.
fn scores(dots: vec4<f32>, matrix: u32, queries: vec4<u32>, keys: vec4<u32>) -> vec4<f32> {
    var score = params.scale * dots;
    if (params.has_bias != 0u) {
        let start = start_of(BIAS, matrix);
        for (var i = 0u; i < 4u; i++) {
            score[i] += element(BIAS, start, queries[i], keys[i]);
        }
    }
    return score + select(vec4(0.0), vec4(MASKED), keys > queries + vec4(params.past));
}

// What dropout makes of four weights that are 1, before those that stay are scaled.
fn stays(matrix: u32, queries: vec4<u32>, keys: vec4<u32>) -> vec4<f32> {
    var kept = vec4(1.0);
    if (params.probability > 0.0) {
        let numbers = vec4(params.queries_before + matrix * params.operands[Q].rows) + queries;
        let positions = numbers * params.operands[K].rows + keys;
        for (var i = 0u; i < 4u; i++) {
            let random = uniform_at(params.seed_low, params.seed_high, positions[i]);
            kept[i] = select(1.0, 0.0, random < params.probability);
        }
    }
    return kept;
}

// e^x where something exists, else 0: what stands outside of a matrix may be too large.
fn exp_where(exists: vec4<bool>, x: vec4<f32>) -> vec4<f32> {
    return select(vec4(0.0), vec4(exp_of(x.x), exp_of(x.y), exp_of(x.z), exp_of(x.w)), exists);
}

fn sum_of_four(x: vec4<f32>) -> f32 {
    return x.x + x.y + x.z + x.w;
}
